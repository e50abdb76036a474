package main

import "testing"

func TestAddedCostIsWhatTheStraightCableLeaves(t *testing.T) {
	r := &results{samples: map[string][]sample{
		wayStraight: {{NsPerPacket: 1000}},
		wayPlain:    {{NsPerPacket: 1400}},
		wayIP6D:     {{NsPerPacket: 1100}},
	}}
	if got := addedCost(r, 0); got != 0.25 {
		t.Errorf("100 ns beside 400: %g, want 0.25", got)
	}
}

func TestARatioIsLeftOutWhereAWayWasNotMeasured(t *testing.T) {
	r := &results{samples: map[string][]sample{wayPlain: {{}}, wayIP6D: {{}}}}
	for _, x := range ratios() {
		want := x.key != "added_cost_vs_plain"
		for _, w := range x.ways {
			want = want && (w == wayPlain || w == wayIP6D)
		}
		if got := x.measured(r); got != want {
			t.Errorf("%s with plain forwarding and ip6d: measured %v, want %v", x.key, got, want)
		}
	}
}
