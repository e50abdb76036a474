// Package addr is the address plan of an ip6d fleet: the two forms of a machine's address, the
// numbers inside them, and the arithmetic between them.
//
// A machine's stable address S names its network, the cell that issued it and the machine. On the
// underlay it travels as the routing address R, which names the host as well. In hextets, with the
// default prefixes:
//
//	stable   S = fdaa : N1 : N0 : C  : 0  : M1 : M0 : 2
//	routing  R = fdab : H1 : H0 : N1 : N0 : M1 : M0 : K
//
// N is the network, C the cell, M the machine, H the host; each is big-endian, the word with index 1
// first. K, the neutral word, makes the one's-complement sum of R's hextets equal to that of S
// (RFC 1071), so that replacing one by the other leaves every transport checksum as it is; the idea is
// that of RFC 6296 section 3.5. Given a host there is exactly one R for each S, and decoding needs
// nothing but R itself.
//
// A Plan holds the two prefixes and does this arithmetic. Only what it has checked becomes a Stable or a Routing, so
// that code which is handed one need not check it again; Plan.Describe takes any text and says what it is.
// The Allocator issues machine numbers from the blocks that a host leases.
//
// Everything here is arithmetic: no input panics, and encoding and decoding allocate nothing. Errors about values wrap
// ErrInvalid; those about addresses are a *FieldError.
package addr
