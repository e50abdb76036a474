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

func TestSpreadIsOfTheSortedNumbers(t *testing.T) {
	want := spread{Lowest: 1, LowQuartile: 2, Median: 3, HighQuartile: 4, Highest: 5}
	if got := spreadOf([]float64{5, 1, 4, 2, 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := spreadOf([]float64{1, 2}); got.Median != 1.5 {
		t.Errorf("the median of 1 and 2 is %g", got.Median)
	}
	if got := spreadOf([]float64{7}); got != (spread{7, 7, 7, 7, 7}) {
		t.Errorf("of one number: %+v", got)
	}
}
