// Package nat is the translation datapath seen from Go: it loads, pins and attaches the programs of
// ../bpf, keeps their maps, and holds the same translation in plain Go as the reference that the tests
// compare the C with.
package nat
