package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Spread is the median of some numbers, and how far they lie apart.
type Spread struct {
	Median       float64 `json:"median"`
	LowQuartile  float64 `json:"low_quartile"`
	HighQuartile float64 `json:"high_quartile"`
	Lowest       float64 `json:"lowest"`
	Highest      float64 `json:"highest"`
}

// SpreadOf needs one number at least.
func SpreadOf(numbers []float64) Spread {
	v := slices.Sorted(slices.Values(numbers))
	return Spread{Median: at(v, 0.5), LowQuartile: at(v, 0.25), HighQuartile: at(v, 0.75), Lowest: at(v, 0), Highest: at(v, 1)}
}

// Percentile is the number below which that part of the numbers lie.
func Percentile(numbers []float64, part float64) float64 {
	return at(slices.Sorted(slices.Values(numbers)), part)
}

func at(sorted []float64, part float64) float64 {
	place := part * float64(len(sorted)-1)
	i := int(place)
	return sorted[i] + (sorted[min(i+1, len(sorted)-1)]-sorted[i])*(place-float64(i))
}

// Goal is a number that is held to a bar, known to its readers by its key.
type Goal struct {
	Key string `json:"key"`
	Spread
	Bar    *float64  `json:"bar,omitempty"`  // nil: it is only told
	Goal   string    `json:"goal,omitempty"` // at_least or at_most the bar
	Met    bool      `json:"met"`
	Rounds []float64 `json:"rounds"`
}

// AtLeast is a goal whose median is to be the bar or above.
func AtLeast(key string, bar float64, rounds []float64) Goal {
	s := SpreadOf(rounds)
	return Goal{Key: key, Spread: s, Bar: &bar, Goal: "at_least", Met: s.Median >= bar, Rounds: rounds}
}

// AtMost is a goal whose median is to be the bar or below.
func AtMost(key string, bar float64, rounds []float64) Goal {
	s := SpreadOf(rounds)
	return Goal{Key: key, Spread: s, Bar: &bar, Goal: "at_most", Met: s.Median <= bar, Rounds: rounds}
}

// Told is a number without a bar.
func Told(key string, rounds []float64) Goal {
	return Goal{Key: key, Spread: SpreadOf(rounds), Met: true, Rounds: rounds}
}

// PrintGoals writes a table of the medians, and as the last line all of them as one JSON object.
func PrintGoals(w io.Writer, goals []Goal) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tmedian\t\tbar\t\t")
	last := make(map[string]float64)
	for _, g := range goals {
		bar, met := "-", ""
		if g.Bar != nil {
			bar, met = fmt.Sprintf("%s %g", strings.ReplaceAll(g.Goal, "_", " "), *g.Bar), "met"
		}
		if !g.Met {
			met = "NOT MET"
		}
		fmt.Fprintf(t, "%s\t%.3f\t[%.3f %.3f]\t%s\t%s\t\n", g.Key, g.Median, g.LowQuartile, g.HighQuartile, bar, met)
		last[g.Key] = g.Median
	}
	if err := t.Flush(); err != nil {
		return err
	}
	line, err := json.Marshal(last)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n%s\n", line)
	return err
}
