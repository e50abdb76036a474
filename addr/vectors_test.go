package addr

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
)

// vectors are those of an independent program, in testdata/addresses.json.
type vectors struct {
	Valid []struct {
		Kind    string
		Network Network
		Cell    Cell
		Machine Machine
		Block   Block
		Host    Host
		Stable  string
		Routing string
	}
	Control []struct {
		Host    Host
		Routing string
	}
	Invalid []struct{ Address, Why string }
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	text, err := os.ReadFile("testdata/addresses.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Valid) != 320 || len(v.Control) != 20 || len(v.Invalid) != 22 {
		t.Fatalf("%d valid, %d control and %d invalid vectors: the file has others than this test knows of", len(v.Valid), len(v.Control), len(v.Invalid))
	}
	return v
}

func TestVectorsEncodeFromTheirNumbers(t *testing.T) {
	for _, v := range readVectors(t).Valid {
		stable, err := DefaultPlan.Stable(v.Network, v.Cell, v.Machine)
		if v.Kind == "endpoint" {
			stable, err = DefaultPlan.Endpoint(v.Cell, v.Host)
		}
		if err != nil {
			t.Errorf("%+v: %v", v, err)
			continue
		}
		if stable.String() != v.Stable || stable.Kind().String() != v.Kind {
			t.Errorf("stable form is %s of a %s, want %s of a %s", stable, stable.Kind(), v.Stable, v.Kind)
		}
		routing, err := DefaultPlan.Encode(stable, v.Host)
		if err != nil || routing.String() != v.Routing {
			t.Errorf("%s at host %d is %s (%v), want %s", stable, v.Host, routing, err, v.Routing)
		}
	}
}

func TestVectorsDecodeToTheirNumbers(t *testing.T) {
	for _, v := range readVectors(t).Valid {
		routing, err := DefaultPlan.ParseRouting(v.Routing)
		if err != nil {
			t.Error(err)
			continue
		}
		stable, host, err := DefaultPlan.Decode(routing)
		if err != nil || stable.String() != v.Stable || host != v.Host || routing.Host() != v.Host {
			t.Errorf("%s decodes to %s at host %d (%v), want %s at host %d", v.Routing, stable, host, err, v.Stable, v.Host)
		}
		if routing.Kind().String() != v.Kind || routing.Network() != v.Network || routing.Machine() != v.Machine {
			t.Errorf("%s is a %s, network %d, machine %d; want %+v", v.Routing, routing.Kind(), routing.Network(), routing.Machine(), v)
		}
		parsed, err := DefaultPlan.ParseStable(v.Stable)
		if err != nil || parsed != stable {
			t.Errorf("%s parses to %s (%v), which is not what %s decodes to", v.Stable, parsed, err, v.Routing)
		}
		if parsed.Network() != v.Network || parsed.ID() != (ID{v.Cell, v.Machine}) || parsed.Machine().Block() != v.Block {
			t.Errorf("%s: network %d, id %s, block %d; want %+v", v.Stable, parsed.Network(), parsed.ID(), parsed.Machine().Block(), v)
		}
	}
}

func TestVectorsOfControlAddresses(t *testing.T) {
	for _, v := range readVectors(t).Control {
		routing, err := DefaultPlan.ParseRouting(v.Routing)
		if err != nil || routing.Kind() != KindControl || routing.Host() != v.Host {
			t.Errorf("%s is a %s of host %d (%v), want a control address of host %d", v.Routing, routing.Kind(), routing.Host(), err, v.Host)
			continue
		}
		if stable, host, err := DefaultPlan.Decode(routing); !errors.Is(err, ErrControl) || host != v.Host || !stable.IsZero() {
			t.Errorf("%s decodes to %s at host %d (%v), want ErrControl", v.Routing, stable, host, err)
		}
		if !DefaultPlan.HostPrefix(v.Host).Contains(routing.Addr()) {
			t.Errorf("%s is outside %s", v.Routing, DefaultPlan.HostPrefix(v.Host))
		}
	}
}

func TestVectorsThatAreInvalidAreRefused(t *testing.T) {
	fields := map[string]string{ // by the vectors' own words
		"stable: cell 0":                                 "cell",
		"stable: cell 0xffff":                            "cell",
		"stable: fifth hextet not 0":                     "fifth hextet",
		"stable: last hextet not 2":                      "last hextet",
		"routing: host 0":                                "host",
		"routing: neutral word 0xffff is never produced": "neutral word",
		"stable: network 0 and machine 0":                "machine",
		"routing: endpoint of host 9 at host 7":          "machine",
		"routing: control form with K 0xffff":            "neutral word",
		"routing: control form with host 0":              "host",
		"routing: decodes to cell 0":                     "cell",
		"neither prefix":                                 "prefix",
		"IPv4-mapped":                                    "address",
		"IPv4":                                           "address",
		"zone":                                           "zone",
		"a prefix, not an address":                       "address",
		"empty":                                          "address",
		"not an address":                                 "address",
	}
	for _, v := range readVectors(t).Invalid {
		if s, err := DefaultPlan.ParseStable(v.Address); err == nil {
			t.Errorf("ParseStable(%q) = %s, want an error: %s", v.Address, s, v.Why)
		}
		if r, err := DefaultPlan.ParseRouting(v.Address); err == nil {
			t.Errorf("ParseRouting(%q) = %s, want an error: %s", v.Address, r, v.Why)
		}
		d := DefaultPlan.Describe(v.Address)
		fault, ok := errors.AsType[*FieldError](d.Err)
		if !ok || d.Form != FormInvalid || d.Kind != 0 {
			t.Errorf("Describe(%q) = %+v, want an error: %s", v.Address, d, v.Why)
			continue
		}
		if want := fields[v.Why]; fault.Field != want {
			t.Errorf("%q, which is wrong because of %q, is said to be wrong in the %s, want the %s: %v", v.Address, v.Why, fault.Field, want, fault)
		}
	}
}
