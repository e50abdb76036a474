package report

import "testing"

func TestSpreadIsOfTheSortedNumbers(t *testing.T) {
	want := Spread{Lowest: 1, LowQuartile: 2, Median: 3, HighQuartile: 4, Highest: 5}
	if got := SpreadOf([]float64{5, 1, 4, 2, 3}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := SpreadOf([]float64{1, 2}); got.Median != 1.5 {
		t.Errorf("the median of 1 and 2 is %g", got.Median)
	}
	if got := SpreadOf([]float64{7}); got != (Spread{7, 7, 7, 7, 7}) {
		t.Errorf("of one number: %+v", got)
	}
}
