// Package harness measures what a BPF program costs on one packet, where the program rewrites that packet.
package harness
