// Package integration holds the end-to-end tests: what ip6d promises, on fleets made by package lab, with the real daemon and
// the real etcd. They need root.
package integration
