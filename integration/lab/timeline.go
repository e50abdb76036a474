package lab

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Mark is something that happened while a stream ran.
type Mark struct {
	Sign rune // one column wide
	At   time.Time
	Text string
}

// Timeline is a picture of a stream for a terminal: a column for each 100 ms, as high as packets came.
type Timeline struct {
	Title   string
	Start   time.Time
	Packets []uint32 // in each 100 ms
	Marks   []Mark
}

const (
	timelineWidth = 60 // columns in a line: 6 s
	bars          = " ▁▂▃▄▅▆▇█"
)

// Draw draws it.
func (t Timeline) Draw(w io.Writer) {
	packets := t.Packets
	if len(packets) > 1 {
		packets = packets[:len(packets)-1] // in the last one, the stream ended
	}
	full := usual(packets)
	fmt.Fprintf(w, "%s\n(each column is 100 ms, %s is %s packets)\n\n", t.Title, string([]rune(bars)[8]), thousands(uint64(full)))
	signs := t.signs(len(packets))
	for from := 0; from < len(packets); from += timelineWidth {
		to := min(from+timelineWidth, len(packets))
		fmt.Fprintf(w, "%5.1f s  ", float64(from)*timelineStep.Seconds())
		for _, n := range packets[from:to] {
			fmt.Fprintf(w, "%c", bar(n, full))
		}
		fmt.Fprintln(w)
		line := make([]rune, 0, timelineWidth)
		for at := from; at < to; at++ {
			line = append(line, signs[at])
		}
		if text := strings.TrimRight(string(line), " "); text != "" {
			fmt.Fprintf(w, "         %s\n", text)
		}
	}
	fmt.Fprintln(w)
	for _, m := range t.Marks {
		fmt.Fprintf(w, "  %c  %5.1f s  %s\n", m.Sign, m.At.Sub(t.Start).Seconds(), m.Text)
	}
}

// signs returns what stands below each column. Two marks in one column stand side by side.
func (t Timeline) signs(columns int) []rune {
	signs := []rune(strings.Repeat(" ", columns))
	for _, m := range slices.SortedStableFunc(slices.Values(t.Marks), func(a, b Mark) int { return a.At.Compare(b.At) }) {
		at := max(0, int(m.At.Sub(t.Start)/timelineStep))
		for at < columns && signs[at] != ' ' {
			at++
		}
		if at < columns {
			signs[at] = m.Sign
		}
	}
	return signs
}

// usual is the middle one of the numbers: what a column is compared with.
func usual(packets []uint32) uint32 {
	if len(packets) == 0 {
		return 1
	}
	return max(1, slices.Sorted(slices.Values(packets))[len(packets)/2])
}

// bar is a block as high as n is of full. Only what is nothing at all looks like nothing, and a little more or less than
// full looks full: a sender that was not woken in time sends a little later.
func bar(n, full uint32) rune {
	blocks := []rune(bars)
	if n == 0 {
		return blocks[0]
	}
	return blocks[min(8, max(1, (int(n)*8+int(full)/2)/int(full)))]
}

// thousands writes a number with commas.
func thousands[N uint64 | int](n N) string {
	text := fmt.Sprint(n)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

// grid is text in columns: the first is aligned to the left, the others to the right.
type grid [][]string

func (g grid) write(w io.Writer) {
	var widths []int
	for _, row := range g {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range g {
		for i, cell := range row {
			space := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				fmt.Fprintf(w, "  %s%s", cell, space)
			} else {
				fmt.Fprintf(w, "  %s%s", space, cell)
			}
		}
		fmt.Fprintln(w)
	}
}

// plural writes a number and its noun.
func plural[N uint64 | int](n N, one, many string) string {
	return thousands(n) + " " + cmp.Or(map[bool]string{true: one}[n == 1], many)
}
