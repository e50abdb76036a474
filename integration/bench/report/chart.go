package report

import (
	"bytes"
	"fmt"
	"html"
)

// Panel is a bar chart.
type Panel struct {
	Title  string
	Format string  // of a value
	Unit   float64 // what a value is multiplied by
	Bars   []Bar
}

// Bar is one of a panel's.
type Bar struct {
	Title string
	Ours  bool // of this project, in a colour of its own
	Spread
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

// Chart draws the medians of all bars as an SVG, with a whisker from the lower to the upper quartile.
func Chart(title, about string, panels []Panel) []byte {
	var body bytes.Buffer
	y := plotTop
	for _, p := range panels {
		y = p.draw(&body, y)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%[1]d\" height=\"%[2]d\" viewBox=\"0 0 %[1]d %[2]d\" font-family=\"sans-serif\" font-size=\"13\">\n", plotWidth, y)
	fmt.Fprintf(&out, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", plotWidth, y)
	text(&out, 20, 28, "font-size=\"17\" font-weight=\"bold\"", title)
	text(&out, 20, 47, "fill=\"#555\"", about)
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// draw draws a panel that begins at y, and returns where the next one does.
func (p Panel) draw(out *bytes.Buffer, y int) int {
	longest := 0.0
	for _, b := range p.Bars {
		longest = max(longest, b.HighQuartile)
	}
	text(out, 20, y+30, "font-size=\"14\" font-weight=\"bold\"", p.Title)
	y += plotHeading
	for _, b := range p.Bars {
		at := func(v float64) float64 { return plotLeft + v/longest*plotBar }
		colour := "#9aa5b1"
		if b.Ours {
			colour = "#2f7ed8"
		}
		middle := y + plotRow/2
		text(out, plotLeft-8, middle+4, "text-anchor=\"end\"", b.Title)
		fmt.Fprintf(out, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", plotLeft, y+3, at(b.Median)-plotLeft, plotRow-6, colour)
		low, high := at(b.LowQuartile), at(b.HighQuartile)
		fmt.Fprintf(out, "<path d=\"M%.1f %dV%dM%.1f %dH%.1fM%.1f %dV%d\" stroke=\"black\" fill=\"none\"/>\n",
			low, middle-4, middle+4, low, middle, high, high, middle-4, middle+4)
		text(out, int(max(high, at(b.Median)))+8, middle+4, "", fmt.Sprintf(p.Format, b.Median*p.Unit))
		y += plotRow
	}
	return y + plotRow/2
}

func text(out *bytes.Buffer, x, y int, attributes, s string) {
	fmt.Fprintf(out, "<text x=\"%d\" y=\"%d\" %s>%s</text>\n", x, y, attributes, html.EscapeString(s))
}
