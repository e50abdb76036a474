package lab

import (
	"strings"
	"testing"
	"time"
)

func TestATimelineShowsPacketsAndMarks(t *testing.T) {
	start := time.Unix(100, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	packets := make([]uint32, 64)
	for i := range packets {
		packets[i] = 2400
	}
	packets[3], packets[4], packets[5], packets[61] = 1200, 1, 0, 2500
	var b strings.Builder
	Timeline{
		Title:   "UDP packets from red1 to red2",
		Start:   start,
		Packets: packets,
		Marks:   []Mark{{'1', at(310), "first move"}, {'x', at(390), "killed"}, {'2', at(6100), "second move"}},
	}.Draw(&b)
	want := strings.Join([]string{
		"UDP packets from red1 to red2",
		"(each column is 100 ms, █ is 2,400 packets)",
		"",
		"  0.0 s  ███▄▁ " + strings.Repeat("█", 54),
		"            1x",
		"  6.0 s  ███",
		"          2",
		"",
		"  1    0.3 s  first move",
		"  x    0.4 s  killed",
		"  2    6.1 s  second move",
		"",
	}, "\n")
	if got := b.String(); got != want {
		t.Errorf("drawn:\n%s\nwant:\n%s", got, want)
	}
}

func TestATimelineOfNothingIsDrawn(t *testing.T) {
	var b strings.Builder
	Timeline{Title: "nothing"}.Draw(&b)
	if !strings.Contains(b.String(), "nothing") {
		t.Errorf("drawn: %q", b.String())
	}
}

func TestThousandsAreReadable(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 999: "999", 1000: "1,000", 24000: "24,000", 1234567: "1,234,567"} {
		if got := thousands(n); got != want {
			t.Errorf("%d is written %s, want %s", n, got, want)
		}
	}
}
