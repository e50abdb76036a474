package addr

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func TestPlanIsTwoDistinctPrefixesOfUniqueLocalAddresses(t *testing.T) {
	for _, c := range []struct{ stable, routing, wrong string }{
		{"fdaa::/16", "fdab::/16", ""},
		{"fc00::/16", "fdff::/16", ""},
		{"fdab::/16", "fdaa::/16", ""},
		{"fdaa::/16", "fdaa::/16", "stable and routing prefix are both fdaa::/16, must differ"},
		{"fdaa::/15", "fdab::/16", "stable prefix fdaa::/15: must be a /16 of IPv6"},
		{"fdaa::/16", "fdab::/48", "routing prefix fdab::/48: must be a /16 of IPv6"},
		{"10.0.0.0/16", "fdab::/16", "stable prefix 10.0.0.0/16: must be a /16 of IPv6"},
		{"fdaa::1/16", "fdab::/16", "stable prefix fdaa::1/16: has bits set beyond its length; write fdaa::/16"},
		{"fdaa::/16", "fe00::/16", "routing prefix fe00::/16: must be inside fc00::/7"},
		{"2001::/16", "fdab::/16", "stable prefix 2001::/16: must be inside fc00::/7"},
	} {
		p, err := NewPlan(netip.MustParsePrefix(c.stable), netip.MustParsePrefix(c.routing))
		switch {
		case c.wrong == "":
			if err != nil || p.StablePrefix().String() != c.stable || p.RoutingPrefix().String() != c.routing {
				t.Errorf("NewPlan(%s, %s) = %s, %s, %v", c.stable, c.routing, p.StablePrefix(), p.RoutingPrefix(), err)
			}
		case !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.wrong):
			t.Errorf("NewPlan(%s, %s) fails with %v, want ErrInvalid: %s", c.stable, c.routing, err, c.wrong)
		}
	}
	if _, err := NewPlan(netip.Prefix{}, netip.MustParsePrefix("fdab::/16")); !errors.Is(err, ErrInvalid) {
		t.Errorf("NewPlan without a stable prefix fails with %v, want ErrInvalid", err)
	}
}

func TestDefaultPlanIsValid(t *testing.T) {
	p, err := NewPlan(DefaultPlan.StablePrefix(), DefaultPlan.RoutingPrefix())
	if err != nil || p != DefaultPlan {
		t.Errorf("NewPlan of the default prefixes = %v, %v; want DefaultPlan", p, err)
	}
}
