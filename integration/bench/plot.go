package main

import (
	"fmt"
	"strings"

	"ip6d/integration/bench/report"
)

// plot draws the medians of all ways.
func (r *datapath) plot() []byte {
	panel := func(title, format string, unit float64, of func(wayReport) *report.Spread) report.Panel {
		p := report.Panel{Title: title, Format: format, Unit: unit}
		for _, w := range r.Ways {
			if s := of(w); s != nil {
				p.Bars = append(p.Bars, report.Bar{Title: w.Title, Ours: strings.Contains(w.Title, "ip6d"), Spread: *s})
			}
		}
		return p
	}
	return report.Chart("From machine to machine over two hosts: ip6d and what else does the job",
		fmt.Sprintf("%s, Linux %s; medians of %d rounds, whiskers from the lower to the upper quartile", r.Computer.CPU, r.Computer.Kernel, r.Rounds),
		[]report.Panel{
			panel("Small UDP packets per second of one core, received (longer is better)", "%.0f k", 1e-3, func(w wayReport) *report.Spread { return &w.Packets }),
			panel("TCP request and answer, median time (shorter is better)", "%.1f µs", 1, func(w wayReport) *report.Spread { return w.P50 }),
			panel("One TCP stream, one core for both sides (longer is better)", "%.1f Gbit/s", 1e-9, func(w wayReport) *report.Spread { return w.TCP }),
		})
}
