package addr

import (
	"errors"
	"net/netip"
	"testing"
)

// FuzzParse: no text makes parsing panic, and what parses is a valid address that says the same when written and read
// again.
func FuzzParse(f *testing.F) {
	v := readVectors(f)
	for _, i := range v.Invalid {
		f.Add(i.Address)
	}
	for i := range v.Control {
		f.Add(v.Control[i].Routing)
		f.Add(v.Valid[i].Stable)
		f.Add(v.Valid[len(v.Valid)-1-i].Routing)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, stableErr := DefaultPlan.ParseStable(text)
		r, routingErr := DefaultPlan.ParseRouting(text)
		d := DefaultPlan.Describe(text)
		for _, err := range []error{stableErr, routingErr, d.Err} {
			if err == nil {
				continue
			}
			if _, ok := errors.AsType[*FieldError](err); !ok || !errors.Is(err, ErrInvalid) || len(err.Error()) > 1000 {
				t.Errorf("%q: error %v is not a short *FieldError", text, err)
			}
		}
		switch {
		case stableErr == nil && routingErr == nil:
			t.Errorf("%q is both %s and %s", text, s, r)
		case stableErr == nil:
			again, err := DefaultPlan.ParseStable(s.String())
			if err != nil || again != s {
				t.Errorf("%q is %s, which reads as %s (%v)", text, s, again, err)
			}
			if d.Err != nil || d.Form != FormStable || d.Stable != s {
				t.Errorf("%q parses to %s but is described as %+v", text, s, d)
			}
		case routingErr == nil:
			again, err := DefaultPlan.ParseRouting(r.String())
			if err != nil || again != r {
				t.Errorf("%q is %s, which reads as %s (%v)", text, r, again, err)
			}
			if d.Err != nil || d.Form != FormRouting || d.Host != r.Host() || d.Kind != r.Kind() {
				t.Errorf("%q parses to %s but is described as %+v", text, r, d)
			}
		case d.Err == nil:
			t.Errorf("%q does not parse (%v; %v) but is described as %+v", text, stableErr, routingErr, d)
		}
	})
}

// FuzzEncodeDecode: encoding and decoding are inverse both ways and keep the one's-complement sum, for every plan.
func FuzzEncodeDecode(f *testing.F) {
	v := readVectors(f)
	for i := 0; i < len(v.Valid); i += 10 {
		v := v.Valid[i]
		f.Add(uint16(0xfdaa), uint16(0xfdab), uint32(v.Network), uint16(v.Cell), uint32(v.Machine), uint32(v.Host), uint16(i))
	}
	f.Add(uint16(0xfc00), uint16(0xfdff), uint32(0xffffffff), uint16(0xfffe), uint32(0xffffffff), uint32(0xffffffff), uint16(0xfffe))
	f.Fuzz(func(t *testing.T, stablePrefix, routingPrefix uint16, network uint32, cell uint16, machine, host uint32, neutral uint16) {
		p, err := NewPlan(slash16(stablePrefix), slash16(routingPrefix))
		if err != nil {
			if inside := stablePrefix>>9 == 0xfc>>1 && routingPrefix>>9 == 0xfc>>1; inside && stablePrefix != routingPrefix {
				t.Fatalf("prefixes %#x and %#x make no plan: %v", stablePrefix, routingPrefix, err)
			}
			p = DefaultPlan
		}
		checkStableThereAndBack(t, p, Network(network), Cell(cell), Machine(machine), Host(host))
		// Any neutral word: each valid routing address is the only one of what it decodes to.
		checkRoutingThereAndBack(t, p, words{
			uint64(p.routing)<<48 | uint64(host)<<16 | uint64(network>>16),
			uint64(network)<<48 | uint64(machine)<<16 | uint64(neutral),
		}.addr())
	})
}

func checkStableThereAndBack(t *testing.T, p Plan, n Network, c Cell, m Machine, h Host) {
	t.Helper()
	s, err := p.Stable(n, c, m)
	if n == 0 {
		h = Host(m)
		s, err = p.Endpoint(c, h)
	}
	valid := c != 0 && c != 0xffff && (n != 0 || m != 0)
	if (err == nil) != valid {
		t.Fatalf("network %d, cell %d, machine %d: error is %v, want valid %t", n, c, m, err, valid)
	}
	if !valid {
		return
	}
	if s.Network() != n || s.Cell() != c || s.Machine() != m {
		t.Fatalf("%s of network %d, cell %d, machine %d says network %d, cell %d, machine %d", s, n, c, m, s.Network(), s.Cell(), s.Machine())
	}
	r, err := p.Encode(s, h)
	if (err == nil) != (h != 0) {
		t.Fatalf("%s at host %d is %s, %v", s, h, r, err)
	}
	if err != nil {
		return
	}
	if got, want := onesComplementSum(r.Addr()), onesComplementSum(s.Addr()); got != want {
		t.Fatalf("the sum of %s is %#x, that of %s is %#x", r, got, s, want)
	}
	if back, host, err := p.Decode(r); err != nil || back != s || host != h {
		t.Fatalf("%s at host %d is %s, which decodes to %s at host %d, %v", s, h, r, back, host, err)
	}
	if checked, err := p.RoutingFrom(r.Addr()); err != nil || checked != r {
		t.Fatalf("%s at host %d is %s, which is not valid: %v", s, h, r, err)
	}
}

func checkRoutingThereAndBack(t *testing.T, p Plan, a netip.Addr) {
	t.Helper()
	r, err := p.RoutingFrom(a)
	if err != nil {
		return
	}
	s, h, err := p.Decode(r)
	if r.Kind() == KindControl {
		if !errors.Is(err, ErrControl) {
			t.Fatalf("control address %s decodes to %s, %v; want ErrControl", r, s, err)
		}
		return
	}
	if err != nil {
		t.Fatalf("valid address %s does not decode: %v", r, err)
	}
	if checked, err := p.StableFrom(s.Addr()); err != nil || checked != s {
		t.Fatalf("%s decodes to %s, which is not valid: %v", r, s, err)
	}
	if got, want := onesComplementSum(s.Addr()), onesComplementSum(a); got != want {
		t.Fatalf("the sum of %s is %#x, that of %s is %#x", s, got, r, want)
	}
	if again, err := p.Encode(s, h); err != nil || again != r {
		t.Fatalf("%s decodes to %s at host %d, which encodes to %s, %v", r, s, h, again, err)
	}
}

// onesComplementSum adds hextet by hextet, with the carry added again, as RFC 1071 section 2 describes it: slow, and
// unlike the package's own arithmetic on purpose.
func onesComplementSum(a netip.Addr) uint16 {
	b := a.As16()
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}
