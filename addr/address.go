package addr

import (
	"fmt"
	"net/netip"
)

// Form is which of the two prefixes an address is written in.
type Form uint8

const (
	FormInvalid Form = iota
	FormStable
	FormRouting
)

func (f Form) String() string {
	switch f {
	case FormStable:
		return "stable"
	case FormRouting:
		return "routing"
	}
	return "invalid"
}

// Kind is what an address belongs to.
type Kind uint8

const (
	KindMachine  Kind = iota + 1
	KindEndpoint      // a host on the infrastructure network
	KindControl       // a host on the underlay; routing form only
)

func (k Kind) String() string {
	switch k {
	case KindMachine:
		return "machine"
	case KindEndpoint:
		return "endpoint"
	case KindControl:
		return "control"
	}
	return "unknown"
}

// Stable is a valid stable address. The zero Stable is none.
type Stable struct{ w words }

// Addr returns the address itself.
func (s Stable) Addr() netip.Addr { return s.w.addr() }

// IsZero reports whether s is the zero Stable.
func (s Stable) IsZero() bool { return s == Stable{} }

// String formats the address as RFC 5952 says.
func (s Stable) String() string { return s.Addr().String() }

// Network returns the network id; 0 for an endpoint.
func (s Stable) Network() Network { return Network(s.w.hi >> 16) }

// Cell returns the cell whose store issued the address.
func (s Stable) Cell() Cell { return Cell(s.w.hi) }

// Machine returns the machine number; for an endpoint it is the host id.
func (s Stable) Machine() Machine { return Machine(s.w.lo >> 16) }

// ID returns the cell and the machine number.
func (s Stable) ID() ID { return ID{Cell: s.Cell(), Machine: s.Machine()} }

// Kind returns KindMachine or KindEndpoint.
func (s Stable) Kind() Kind {
	if s.Network() == 0 {
		return KindEndpoint
	}
	return KindMachine
}

// Routing is a valid routing address. The zero Routing is none.
type Routing struct{ w words }

// Addr returns the address itself.
func (r Routing) Addr() netip.Addr { return r.w.addr() }

// String formats the address as RFC 5952 says.
func (r Routing) String() string { return r.Addr().String() }

// Host returns the host that the address leads to.
func (r Routing) Host() Host { return Host(r.w.hi >> 16) }

// Network returns the network id; 0 for an endpoint or a control address.
func (r Routing) Network() Network { return Network(uint32(r.w.hi)<<16 | uint32(r.w.lo>>48)) }

// Machine returns the machine number; for an endpoint it is the host id, for a control address 0.
func (r Routing) Machine() Machine { return Machine(r.w.lo >> 16) }

// Neutral returns K, the word that makes the one's-complement sum that of the stable form.
func (r Routing) Neutral() uint16 { return uint16(r.w.lo) }

// Kind returns KindMachine, KindEndpoint or KindControl.
func (r Routing) Kind() Kind {
	switch {
	case r.Network() != 0:
		return KindMachine
	case r.Machine() != 0:
		return KindEndpoint
	}
	return KindControl
}

// Stable returns the stable address of a machine. The error is a *FieldError that names the number at
// fault: a network 0 (that is an Endpoint), a cell 0 or 0xffff.
func (p Plan) Stable(n Network, c Cell, m Machine) (Stable, error) {
	if n == 0 {
		return Stable{}, &FieldError{p.stableWords(n, c, m).addr().String(), FormStable, "network", "is 0, which holds hosts; a machine's must be 1 to 4294967295"}
	}
	return p.checkStable(p.stableWords(n, c, m))
}

// Endpoint returns the stable address of a host's endpoint on the infrastructure network.
// The error is a *FieldError: a host 0, a cell 0 or 0xffff.
func (p Plan) Endpoint(c Cell, h Host) (Stable, error) {
	return p.checkStable(p.stableWords(0, c, Machine(h)))
}

// Control returns the address fdab:H1:H0::1 of a host on the underlay. The error is a *FieldError: a host 0.
func (p Plan) Control(h Host) (Routing, error) {
	return p.checkRouting(words{uint64(p.routing)<<48 | uint64(h)<<16, 1})
}

// Encode returns the routing form of s at host h. The error is a *FieldError: a host 0, an endpoint that is not
// h's own, or an s of another plan, as the zero Stable is.
func (p Plan) Encode(s Stable, h Host) (Routing, error) {
	if s.w.prefix() != p.stable {
		return Routing{}, p.formError(s.Addr(), FormStable)
	}
	return p.checkRouting(p.encode(s, h))
}

func (p Plan) encode(s Stable, h Host) words {
	w := words{
		uint64(p.routing)<<48 | uint64(h)<<16 | uint64(s.Network()>>16),
		uint64(s.Network())<<48 | uint64(s.Machine())<<16,
	}
	w.lo |= uint64(difference(s.w.sum(), w.sum()))
	return w
}

// Decode returns the stable form of r and the host in it. The error is ErrControl when r is a control address, and a
// *FieldError when r is of another plan, as the zero Routing is.
func (p Plan) Decode(r Routing) (Stable, Host, error) {
	if r.w.prefix() != p.routing {
		return Stable{}, 0, p.formError(r.Addr(), FormRouting)
	}
	if r.Kind() == KindControl {
		return Stable{}, r.Host(), ErrControl
	}
	return Stable{p.decode(r.w)}, r.Host(), nil
}

// Relay returns what host h, which forwards a packet of s, writes for s: the routing form of s at h. Of an endpoint that
// is not h's own it is no routing address, and only RelayFrom reads it. The error is a *FieldError, as of Encode.
func (p Plan) Relay(s Stable, h Host) (netip.Addr, error) {
	if s.w.prefix() != p.stable {
		return netip.Addr{}, p.formError(s.Addr(), FormStable)
	}
	w := p.encode(s, h)
	if h == 0 {
		_, err := p.checkRouting(w)
		return netip.Addr{}, err
	}
	return w.addr(), nil
}

// RelayFrom is Decode for what Relay returns. The error is ErrControl for a control address, else a *FieldError.
func (p Plan) RelayFrom(a netip.Addr) (Stable, Host, error) {
	r, err := p.RoutingFrom(a)
	if err == nil {
		return p.Decode(r)
	}
	if p.Form(a) != FormRouting {
		return Stable{}, 0, err
	}
	r = Routing{wordsOf(a)}
	s, wrong := p.checkStable(p.decode(r.w))
	if r.Kind() != KindEndpoint || r.Host() == 0 || r.Neutral() == 0xffff || wrong != nil {
		return Stable{}, 0, err
	}
	return s, r.Host(), nil // that the host is not its own was all that was wrong
}

func (p Plan) decode(r words) words {
	w := p.stableWords(Routing{r}.Network(), 0, Routing{r}.Machine())
	w.hi |= uint64(difference(r.sum(), w.sum()))
	return w
}

func (p Plan) stableWords(n Network, c Cell, m Machine) words {
	return words{
		uint64(p.stable)<<48 | uint64(n)<<16 | uint64(c),
		uint64(m)<<16 | 2,
	}
}

// StableFrom checks that a is a valid stable address. The error is a *FieldError.
func (p Plan) StableFrom(a netip.Addr) (Stable, error) {
	if p.Form(a) != FormStable {
		return Stable{}, p.formError(a, FormStable)
	}
	return p.checkStable(wordsOf(a))
}

// RoutingFrom checks that a is a valid routing address: of a machine, an endpoint or a control address.
// The error is a *FieldError.
func (p Plan) RoutingFrom(a netip.Addr) (Routing, error) {
	if p.Form(a) != FormRouting {
		return Routing{}, p.formError(a, FormRouting)
	}
	return p.checkRouting(wordsOf(a))
}

// ParseStable reads a stable address. The error is a *FieldError.
func (p Plan) ParseStable(s string) (Stable, error) {
	a, err := parse(s)
	if err != nil {
		return Stable{}, err
	}
	return p.StableFrom(a)
}

// ParseRouting reads a routing address. The error is a *FieldError.
func (p Plan) ParseRouting(s string) (Routing, error) {
	a, err := parse(s)
	if err != nil {
		return Routing{}, err
	}
	return p.RoutingFrom(a)
}

// Form returns the form whose prefix a has. The rest of the address may still be invalid.
func (p Plan) Form(a netip.Addr) Form {
	if !a.Is6() || a.Is4In6() || a.Zone() != "" {
		return FormInvalid
	}
	switch wordsOf(a).prefix() {
	case p.stable:
		return FormStable
	case p.routing:
		return FormRouting
	}
	return FormInvalid
}

// parse reads an IPv6 address in any notation of RFC 4291 section 2.2, without zone or length.
func parse(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err == nil {
		return a, nil
	}
	why := "is not an IPv6 address"
	if s == "" {
		why = "is empty, must be an IPv6 address"
	} else if _, err := netip.ParsePrefix(s); err == nil {
		why = "is a prefix, must be an address without a length"
	}
	return netip.Addr{}, &FieldError{s, FormInvalid, "address", why}
}

// formError is the error for an address that is not of the form that is wanted; FormInvalid wants either.
func (p Plan) formError(a netip.Addr, want Form) error {
	switch {
	case !a.IsValid():
		return &FieldError{"", FormInvalid, "address", "is missing"}
	case a.Is4() || a.Is4In6():
		return &FieldError{a.String(), FormInvalid, "address", "is IPv4, must be IPv6"}
	case a.Zone() != "":
		return &FieldError{a.String(), FormInvalid, "zone", fmt.Sprintf("is %s, must be absent", quote(a.Zone()))}
	}
	stable := p.StablePrefix().String() + " (stable)"
	routing := p.RoutingPrefix().String() + " (routing)"
	must := stable + " or " + routing
	switch want {
	case FormStable:
		must = stable
	case FormRouting:
		must = routing
	}
	return &FieldError{a.String(), p.Form(a), "prefix", fmt.Sprintf("is %s, must be %s", slash16(wordsOf(a).prefix()), must)}
}

func (p Plan) checkStable(w words) (Stable, error) {
	s := Stable{w}
	var field, why string
	switch {
	case uint16(w.lo>>48) != 0:
		field, why = "fifth hextet", fmt.Sprintf("is %#x, must be 0", uint16(w.lo>>48))
	case uint16(w.lo) != 2:
		field, why = "last hextet", fmt.Sprintf("is %#x, must be 2", uint16(w.lo))
	case s.Cell() == 0 || s.Cell() > MaxCell:
		field, why = "cell", fmt.Sprintf("is %d, must be 1 to %d", s.Cell(), MaxCell)
	case s.Network() == 0 && s.Machine() == 0:
		field, why = "machine", "is 0, must be a host id, 1 to 4294967295, because the network is 0"
	default:
		return s, nil
	}
	return Stable{}, &FieldError{w.addr().String(), FormStable, field, why}
}

func (p Plan) checkRouting(w words) (Routing, error) {
	r := Routing{w}
	var field, why string
	switch {
	case r.Host() == 0:
		field, why = "host", "is 0, must be 1 to 4294967295"
	case r.Neutral() == 0xffff:
		field, why = "neutral word", "is 0xffff, must be 0 to 0xfffe"
	case r.Kind() == KindControl:
		return r, nil
	case Stable{p.decode(w)}.Cell() == 0: // 0xffff is not a residue
		field, why = "cell", fmt.Sprintf("decodes to 0, must be 1 to %d", MaxCell)
	case r.Kind() == KindEndpoint && Host(r.Machine()) != r.Host():
		field, why = "machine", fmt.Sprintf("is %d, must be %d, the host, because the network is 0", r.Machine(), r.Host())
	default:
		return r, nil
	}
	return Routing{}, &FieldError{w.addr().String(), FormRouting, field, why}
}
