package addr

import (
	"errors"
	"net/netip"
	"testing"
)

func TestErrorsNameTheFieldTheValueAndWhatIsRight(t *testing.T) {
	routing, err := DefaultPlan.ParseRouting("fdab:0:7:0:63:0:101:fffa")
	if err != nil {
		t.Fatal(err)
	}
	stable, _, err := DefaultPlan.Decode(routing)
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := DefaultPlan.Endpoint(1, 9)
	if err != nil {
		t.Fatal(err)
	}
	parseStable := func(s string) error { _, err := DefaultPlan.ParseStable(s); return err }
	parseRouting := func(s string) error { _, err := DefaultPlan.ParseRouting(s); return err }
	describe := func(s string) error { return DefaultPlan.Describe(s).Err }
	newStable := func(n Network, c Cell, m Machine) error { _, err := DefaultPlan.Stable(n, c, m); return err }
	newEndpoint := func(c Cell, h Host) error { _, err := DefaultPlan.Endpoint(c, h); return err }
	control := func(h Host) error { _, err := DefaultPlan.Control(h); return err }
	encode := func(p Plan, s Stable, h Host) error { _, err := p.Encode(s, h); return err }
	decode := func(p Plan, r Routing) error { _, _, err := p.Decode(r); return err }
	from := func(a netip.Addr) error { _, err := DefaultPlan.StableFrom(a); return err }
	other := Plan{stable: 0xfd01, routing: 0xfd02}

	for _, c := range []struct {
		err         error
		field, text string
	}{
		{parseStable("fdaa:0:63::101:2"), "cell", `stable address fdaa:0:63::101:2: cell is 0, must be 1 to 65534`},
		{parseStable("fdaa:0:63:ffff::101:2"), "cell", `stable address fdaa:0:63:ffff::101:2: cell is 65535, must be 1 to 65534`},
		{parseStable("fdaa:0:63:1:1:0:101:2"), "fifth hextet", `stable address fdaa:0:63:1:1:0:101:2: fifth hextet is 0x1, must be 0`},
		{parseStable("fdaa:0:63:1::101:3"), "last hextet", `stable address fdaa:0:63:1::101:3: last hextet is 0x3, must be 2`},
		{parseStable("fdaa:0:0:1::2"), "machine", `stable address fdaa:0:0:1::2: machine is 0, must be a host id, 1 to 4294967295, because the network is 0`},
		{parseStable("fdab:0:7:0:63:0:101:fffa"), "prefix", `routing address fdab:0:7:0:63:0:101:fffa: prefix is fdab::/16, must be fdaa::/16 (stable)`},
		{parseRouting("fdaa:0:63:1::101:2"), "prefix", `stable address fdaa:0:63:1::101:2: prefix is fdaa::/16, must be fdab::/16 (routing)`},
		{parseRouting("fdab::63:0:101:2"), "host", `routing address fdab::63:0:101:2: host is 0, must be 1 to 4294967295`},
		{parseRouting("fdab:0:7:0:63:0:101:ffff"), "neutral word", `routing address fdab:0:7:0:63:0:101:ffff: neutral word is 0xffff, must be 0 to 0xfffe`},
		{parseRouting("fdab:0:7:0:63:0:101:fff9"), "cell", `routing address fdab:0:7:0:63:0:101:fff9: cell decodes to 0, must be 1 to 65534`},
		{parseRouting("fdab:0:7::9:fffa"), "machine", `routing address fdab:0:7::9:fffa: machine is 9, must be 7, the host, because the network is 0`},
		{describe("2001:db8::1"), "prefix", `address "2001:db8::1": prefix is 2001::/16, must be fdaa::/16 (stable) or fdab::/16 (routing)`},
		{describe(""), "address", `address "" is empty, must be an IPv6 address`},
		{describe("hello\nthere"), "address", `address "hello\nthere" is not an IPv6 address`},
		{describe("fdaa::/16"), "address", `address "fdaa::/16" is a prefix, must be an address without a length`},
		{describe("10.0.0.1"), "address", `address "10.0.0.1" is IPv4, must be IPv6`},
		{describe("::ffff:10.0.0.1"), "address", `address "::ffff:10.0.0.1" is IPv4, must be IPv6`},
		{describe("fdaa:0:63:1::101:2%eth0"), "zone", `address "fdaa:0:63:1::101:2%eth0": zone is "eth0", must be absent`},
		{from(netip.Addr{}), "address", `address "" is missing`},
		{newStable(0, 1, 5), "network", `stable address fdaa::1:0:0:5:2: network is 0, which holds hosts; a machine's must be 1 to 4294967295`},
		{newStable(1, 0, 5), "cell", `stable address fdaa:0:1::5:2: cell is 0, must be 1 to 65534`},
		{newEndpoint(0xffff, 5), "cell", `stable address fdaa::ffff:0:0:5:2: cell is 65535, must be 1 to 65534`},
		{newEndpoint(1, 0), "machine", `stable address fdaa:0:0:1::2: machine is 0, must be a host id, 1 to 4294967295, because the network is 0`},
		{control(0), "host", `routing address fdab::1: host is 0, must be 1 to 4294967295`},
		{encode(DefaultPlan, stable, 0), "host", `routing address fdab::63:0:101:2: host is 0, must be 1 to 4294967295`},
		{encode(DefaultPlan, endpoint, 7), "machine", `routing address fdab:0:7::9:fffa: machine is 9, must be 7, the host, because the network is 0`},
		{encode(DefaultPlan, Stable{}, 7), "prefix", `address "::": prefix is ::/16, must be fdaa::/16 (stable)`},
		{encode(other, stable, 7), "prefix", `address "fdaa:0:63:1::101:2": prefix is fdaa::/16, must be fd01::/16 (stable)`},
		{decode(DefaultPlan, Routing{}), "prefix", `address "::": prefix is ::/16, must be fdab::/16 (routing)`},
		{decode(other, routing), "prefix", `address "fdab:0:7:0:63:0:101:fffa": prefix is fdab::/16, must be fd02::/16 (routing)`},
	} {
		fault, ok := errors.AsType[*FieldError](c.err)
		if !ok || !errors.Is(c.err, ErrInvalid) {
			t.Errorf("error is %v, want a *FieldError that is ErrInvalid: %s", c.err, c.text)
			continue
		}
		if fault.Field != c.field || c.err.Error() != c.text {
			t.Errorf("field %q: %s\nwant  %q: %s", fault.Field, c.err, c.field, c.text)
		}
	}
}

func TestErrorOfALongTextIsShort(t *testing.T) {
	for _, text := range []string{
		string(make([]byte, 1<<20)),
		"fdaa:0:63:1::101:2%" + string(make([]byte, 1<<20)),
	} {
		err := DefaultPlan.Describe(text).Err
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("the error about %d bytes is %.100v, want a short one", len(text), err)
		}
	}
}

func TestEveryNotationOfAnAddressParsesToTheSame(t *testing.T) {
	for _, text := range []string{
		"fdaa:0:63:1::101:2",
		"FDAA:0:63:1::101:2",
		"fdaa:0000:0063:0001:0000:0000:0101:0002",
		"fdaa:0:63:1:0:0:1.1.0.2",
	} {
		s, err := DefaultPlan.ParseStable(text)
		if err != nil || s.String() != "fdaa:0:63:1::101:2" {
			t.Errorf("ParseStable(%q) = %s, %v; want fdaa:0:63:1::101:2", text, s, err)
		}
	}
}

func TestDescribeSaysWhatAnAddressSays(t *testing.T) {
	stable := func(text string) Stable {
		s, err := DefaultPlan.ParseStable(text)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for text, want := range map[string]Description{
		"fdaa:0:63:1::101:2":       {Form: FormStable, Kind: KindMachine, Stable: stable("fdaa:0:63:1::101:2")},
		"fdab:0:7:0:63:0:101:fffa": {Form: FormRouting, Kind: KindMachine, Stable: stable("fdaa:0:63:1::101:2"), Host: 7},
		"fdaa:0:0:1::7:2":          {Form: FormStable, Kind: KindEndpoint, Stable: stable("fdaa:0:0:1::7:2"), Host: 7},
		"fdab:0:7::7:fffa":         {Form: FormRouting, Kind: KindEndpoint, Stable: stable("fdaa:0:0:1::7:2"), Host: 7},
		"fdab:0:7::1":              {Form: FormRouting, Kind: KindControl, Host: 7},
	} {
		if got := DefaultPlan.Describe(text); got != want {
			t.Errorf("Describe(%q) = %+v, want %+v", text, got, want)
		}
	}
}

func TestControlIsTheFirstAddressOfTheHostsPrefix(t *testing.T) {
	r, err := DefaultPlan.Control(0x10002)
	if err != nil || r.String() != "fdab:1:2::1" || r.Kind() != KindControl {
		t.Errorf("Control(0x10002) = %s of kind %s, %v; want fdab:1:2::1", r, r.Kind(), err)
	}
	if p := DefaultPlan.HostPrefix(0x10002).String(); p != "fdab:1:2::/48" {
		t.Errorf("HostPrefix(0x10002) = %s, want fdab:1:2::/48", p)
	}
}
