package addr

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Plan is the address plan of a fleet: one /16 for each form. It is a setting of the whole fleet, never
// of one host: two hosts with different plans cannot understand each other's packets.
// The zero Plan is not valid; use DefaultPlan or NewPlan.
type Plan struct {
	stable, routing uint16 // first hextets
}

// DefaultPlan is fdaa::/16 for stable and fdab::/16 for routing addresses.
var DefaultPlan = Plan{stable: 0xfdaa, routing: 0xfdab}

var uniqueLocal = netip.MustParsePrefix("fc00::/7") // RFC 4193 section 3.1

// NewPlan makes a Plan of two distinct /16 prefixes inside fc00::/7. The error wraps ErrInvalid.
func NewPlan(stable, routing netip.Prefix) (Plan, error) {
	for _, p := range []struct {
		field  string
		prefix netip.Prefix
	}{{"stable prefix", stable}, {"routing prefix", routing}} {
		switch {
		case !p.prefix.IsValid() || !p.prefix.Addr().Is6() || p.prefix.Bits() != 16:
			return Plan{}, fmt.Errorf("%w %s %s: must be a /16 of IPv6", ErrInvalid, p.field, p.prefix)
		case p.prefix != p.prefix.Masked():
			return Plan{}, fmt.Errorf("%w %s %s: has bits set beyond its length; write %s", ErrInvalid, p.field, p.prefix, p.prefix.Masked())
		case !uniqueLocal.Contains(p.prefix.Addr()):
			return Plan{}, fmt.Errorf("%w %s %s: must be inside %s", ErrInvalid, p.field, p.prefix, uniqueLocal)
		}
	}
	if stable == routing {
		return Plan{}, fmt.Errorf("%w: stable and routing prefix are both %s, must differ", ErrInvalid, stable)
	}
	return Plan{stable: wordsOf(stable.Addr()).prefix(), routing: wordsOf(routing.Addr()).prefix()}, nil
}

// StablePrefix returns the /16 of stable addresses.
func (p Plan) StablePrefix() netip.Prefix { return slash16(p.stable) }

// RoutingPrefix returns the /16 of routing addresses.
func (p Plan) RoutingPrefix() netip.Prefix { return slash16(p.routing) }

// HostPrefix returns the /48 that h owns on the underlay: every routing address that names h is inside it.
func (p Plan) HostPrefix(h Host) netip.Prefix {
	return netip.PrefixFrom(words{uint64(p.routing)<<48 | uint64(h)<<16, 0}.addr(), 48)
}

func slash16(hextet uint16) netip.Prefix {
	return netip.PrefixFrom(words{uint64(hextet) << 48, 0}.addr(), 16)
}

// words is an address as two big-endian 64-bit halves: the arithmetic below is on these.
type words struct{ hi, lo uint64 }

func wordsOf(a netip.Addr) words {
	b := a.As16()
	return words{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (w words) addr() netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], w.hi)
	binary.BigEndian.PutUint64(b[8:], w.lo)
	return netip.AddrFrom16(b)
}

// prefix is the first hextet.
func (w words) prefix() uint16 { return uint16(w.hi >> 48) }

// sum is the one's-complement sum of the eight hextets, as its residue 0..0xfffe. Because 2^16 is 1
// modulo 0xffff, the residue of a 64-bit word is that of the sum of its hextets.
func (w words) sum() uint32 { return uint32((w.hi%0xffff + w.lo%0xffff) % 0xffff) }

// difference is a-b in the same arithmetic.
func difference(a, b uint32) uint16 { return uint16((a + 0xffff - b) % 0xffff) }
