package addr

import (
	"net/netip"
	"testing"
)

var sampleStable = netip.MustParseAddr("fdaa:0:63:1::101:2")

func TestEncodeAndDecodeAllocateNothing(t *testing.T) {
	s, err := DefaultPlan.StableFrom(sampleStable)
	if err != nil {
		t.Fatal(err)
	}
	var r Routing
	for name, f := range map[string]func(){
		"Stable":     func() { s, err = DefaultPlan.Stable(99, 1, 257) },
		"Endpoint":   func() { _, err = DefaultPlan.Endpoint(1, 7) },
		"StableFrom": func() { s, err = DefaultPlan.StableFrom(sampleStable) },
		"Encode":     func() { r, err = DefaultPlan.Encode(s, 7) },
		"RoutingFrom": func() {
			r, err = DefaultPlan.RoutingFrom(netip.AddrFrom16([16]byte{0xfd, 0xab, 4: 7, 8: 99, 12: 1, 15: 6}))
		},
		"Decode": func() {
			if r, err = DefaultPlan.Encode(s, 7); err == nil {
				_, _, err = DefaultPlan.Decode(r)
			}
		},
		"ParseStable": func() { s, err = DefaultPlan.ParseStable("fdaa:0:63:1::101:2") },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 || err != nil {
			t.Errorf("%s allocates %v times, want 0 (error %v)", name, n, err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	s, err := DefaultPlan.StableFrom(sampleStable)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := DefaultPlan.Encode(s, Host(i|1)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	s, err := DefaultPlan.StableFrom(sampleStable)
	if err != nil {
		b.Fatal(err)
	}
	r, err := DefaultPlan.Encode(s, 7)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DefaultPlan.Decode(r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDescribe(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if d := DefaultPlan.Describe("fdab:0:7:0:63:0:101:fffa"); d.Err != nil {
			b.Fatal(d.Err)
		}
	}
}
