package main

import (
	"bytes"
	"fmt"
	"html"
	"strings"
)

// panel is a bar chart, a bar for each way.
type panel struct {
	title  string
	format string  // of a value
	unit   float64 // what a value is multiplied by
	of     func(wayReport) *spread
}

// The drawing, in pixels.
const (
	plotWidth   = 900
	plotLeft    = 190 // where bars begin
	plotBar     = 500 // length of the longest
	plotRow     = 24
	plotHeading = 44
	plotTop     = 56
)

// plot draws the medians of all ways as an SVG, with a whisker from the lower to the upper quartile.
func (r *report) plot() []byte {
	panels := []panel{
		{"Small UDP packets per second of one core, received (longer is better)", "%.0f k", 1e-3, func(w wayReport) *spread { return &w.Packets }},
		{"TCP request and answer, median time (shorter is better)", "%.1f µs", 1, func(w wayReport) *spread { return w.P50 }},
		{"One TCP stream, one core for both sides (longer is better)", "%.1f Gbit/s", 1e-9, func(w wayReport) *spread { return w.TCP }},
	}
	var body bytes.Buffer
	y := plotTop
	for _, p := range panels {
		y = r.draw(&body, p, y)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%[1]d\" height=\"%[2]d\" viewBox=\"0 0 %[1]d %[2]d\" font-family=\"sans-serif\" font-size=\"13\">\n", plotWidth, y)
	fmt.Fprintf(&out, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", plotWidth, y)
	text(&out, 20, 28, "font-size=\"17\" font-weight=\"bold\"", "From machine to machine over two hosts: ip6d and what else does the job")
	text(&out, 20, 47, "fill=\"#555\"", fmt.Sprintf("%s, Linux %s; medians of %d rounds, whiskers from the lower to the upper quartile",
		r.Computer.CPU, r.Computer.Kernel, r.Rounds))
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// draw draws a panel that begins at y, and returns where the next one does.
func (r *report) draw(out *bytes.Buffer, p panel, y int) int {
	longest := 0.0
	for _, w := range r.Ways {
		if s := p.of(w); s != nil {
			longest = max(longest, s.HighQuartile)
		}
	}
	text(out, 20, y+30, "font-size=\"14\" font-weight=\"bold\"", p.title)
	y += plotHeading
	for _, w := range r.Ways {
		s := p.of(w)
		if s == nil {
			continue
		}
		at := func(v float64) float64 { return plotLeft + v/longest*plotBar }
		colour := "#9aa5b1"
		if strings.Contains(w.Title, "ip6d") {
			colour = "#2f7ed8"
		}
		middle := y + plotRow/2
		text(out, plotLeft-8, middle+4, "text-anchor=\"end\"", w.Title)
		fmt.Fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", plotLeft, y+3, at(s.Median)-plotLeft, plotRow-6, colour)
		low, high := at(s.LowQuartile), at(s.HighQuartile)
		fmt.Fprintf(out, "<path d=\"M%.1f %dV%dM%.1f %dH%.1fM%.1f %dV%d\" stroke=\"black\" fill=\"none\"/>\n",
			low, middle-4, middle+4, low, middle, high, high, middle-4, middle+4)
		text(out, int(max(high, at(s.Median)))+8, middle+4, "", fmt.Sprintf(p.format, s.Median*p.unit))
		y += plotRow
	}
	return y + plotRow/2
}

func text(out *bytes.Buffer, x, y int, attributes, s string) {
	fmt.Fprintf(out, "<text x=\"%d\" y=\"%d\" %s>%s</text>\n", x, y, attributes, html.EscapeString(s))
}
