// Package config is the configuration of the daemon: what its YAML file and its flags may say, and what they mean.
//
// File is what was written, as text. Check turns it into a Config, in which every value is valid and every default is
// filled in; nothing else makes one.
package config
