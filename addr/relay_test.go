package addr

import (
	"errors"
	"net/netip"
	"testing"
)

// What a host writes that forwards is the routing form of whatever has one at that host.
func TestRelayIsTheRoutingFormWhereThereIsOne(t *testing.T) {
	for _, v := range readVectors(t).Valid {
		s, err := DefaultPlan.ParseStable(v.Stable)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := DefaultPlan.Relay(s, v.Host); err != nil || a.String() != v.Routing {
			t.Errorf("Relay(%s, %d) = %s, %v; want %s", s, v.Host, a, err, v.Routing)
		}
		if got, h, err := DefaultPlan.RelayFrom(netip.MustParseAddr(v.Routing)); err != nil || got != s || h != v.Host {
			t.Errorf("RelayFrom(%s) = %s at %d, %v; want %s at %d", v.Routing, got, h, err, s, v.Host)
		}
	}
}

// An endpoint under another host's id has the same sum, is read back, and is no routing address.
func TestAnEndpointIsRelayedUnderAnyHostsID(t *testing.T) {
	for _, cell := range []Cell{1, 2, 0x8000, MaxCell} {
		for _, own := range []Host{1, 9, 0x10000, 0xffffffff} {
			for _, by := range []Host{7, 0x20003, 0xfffe0001} {
				s, err := DefaultPlan.Endpoint(cell, own)
				if err != nil {
					t.Fatal(err)
				}
				a, err := DefaultPlan.Relay(s, by)
				if err != nil {
					t.Fatalf("Relay(%s, %d): %v", s, by, err)
				}
				if wordsOf(a).sum() != wordsOf(s.Addr()).sum() {
					t.Errorf("%s and %s have different sums", a, s)
				}
				if !DefaultPlan.HostPrefix(by).Contains(a) {
					t.Errorf("%s does not lead to host %d", a, by)
				}
				if got, h, err := DefaultPlan.RelayFrom(a); err != nil || got != s || h != by {
					t.Errorf("RelayFrom(%s) = %s at %d, %v; want %s at %d", a, got, h, err, s, by)
				}
				if _, err := DefaultPlan.RoutingFrom(a); !errors.Is(err, ErrInvalid) {
					t.Errorf("RoutingFrom(%s): %v, want ErrInvalid", a, err)
				}
			}
		}
	}
}

func TestRelayRefusesWhatIsWrongInItself(t *testing.T) {
	endpoint, err := DefaultPlan.Endpoint(1, 9)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := DefaultPlan.Relay(endpoint, 0); !errors.Is(err, ErrInvalid) {
		t.Errorf("under host 0: %s, %v, want ErrInvalid", a, err)
	}
	if a, err := DefaultPlan.Relay(Stable{}, 7); !errors.Is(err, ErrInvalid) {
		t.Errorf("of the zero Stable: %s, %v, want ErrInvalid", a, err)
	}
	for text, want := range map[string]error{
		"fdab:0:7::1":              ErrControl,
		"fdab:0:7::ffff":           ErrInvalid,
		"fdab::9:fffa":             ErrInvalid, // host 0
		"fdab:0:7::9:ffff":         ErrInvalid,
		"fdab:0:7::9:fff9":         ErrInvalid, // cell 0
		"fdab:0:7:0:63:0:101:ffff": ErrInvalid,
		"fdaa:0:0:1::9:2":          ErrInvalid,
		"2001:db8::1":              ErrInvalid,
	} {
		if s, h, err := DefaultPlan.RelayFrom(netip.MustParseAddr(text)); !errors.Is(err, want) {
			t.Errorf("RelayFrom(%s) = %s at %d, %v; want %v", text, s, h, err, want)
		}
	}
}
