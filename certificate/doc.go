// Package certificate keeps what a host proves itself with, and knows others by: certificates in files that an operator
// or a tool renews (Files), and the key that a host makes for itself (Identity).
package certificate
