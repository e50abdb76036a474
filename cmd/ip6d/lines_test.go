package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func linesOf(t *testing.T, r io.Reader) (lines []string) {
	t.Helper()
	err := eachLine(t.Context(), r, func() error { return nil }, func(line []byte) error {
		lines = append(lines, string(line))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestEachLineGivesEveryLineOnce(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"\n", []string{""}},
		{"a", []string{"a"}},
		{"a\n", []string{"a"}},
		{"a\r\n\n b \nc", []string{"a\r", "", " b ", "c"}},
		{long + "\n" + long, []string{long, long}},
		{strings.Repeat("y", maxLine) + "\nz\n", []string{strings.Repeat("y", maxLine), "z"}},
		{strings.Repeat("y", 3*maxLine) + "\nz\n", []string{strings.Repeat("y", maxLine), "z"}},
	} {
		readers := map[string]io.Reader{"at once": strings.NewReader(c.text)}
		if len(c.text) < 100 {
			readers["byte by byte"] = iotest.OneByteReader(strings.NewReader(c.text))
			readers["with the end"] = iotest.DataErrReader(strings.NewReader(c.text))
		}
		for how, r := range readers {
			if got := linesOf(t, r); !slices.Equal(got, c.want) {
				t.Errorf("%.20q (%d bytes) read %s gives %d lines: %.50q; want %d: %.50q", c.text, len(c.text), how, len(got), got, len(c.want), c.want)
			}
		}
	}
}

func TestEachLineStopsAtTheFirstError(t *testing.T) {
	broken := errors.New("broken")
	nothing := func() error { return nil }
	read := iotest.ErrReader(broken)
	if err := eachLine(t.Context(), read, nothing, func([]byte) error { return nil }); !errors.Is(err, broken) {
		t.Errorf("a failing read gives %v, want %v", err, broken)
	}
	calls := 0
	err := eachLine(t.Context(), strings.NewReader("a\nb\n"), nothing, func([]byte) error { calls++; return broken })
	if !errors.Is(err, broken) || calls != 1 {
		t.Errorf("a failing function gives %v after %d calls, want %v after 1", err, calls, broken)
	}
	err = eachLine(t.Context(), strings.NewReader("a\n"), func() error { return broken }, func([]byte) error { return nil })
	if !errors.Is(err, broken) {
		t.Errorf("a failing flush gives %v, want %v", err, broken)
	}
}

func TestEachLineEndsWithTheContextWhileItWaits(t *testing.T) {
	in, feed := io.Pipe()
	defer feed.Close()
	ctx, cancel := context.WithCancel(t.Context())
	// Once it is idle for the second time, it has given the line and waits for a next one that never comes.
	idle := 0
	waits := func() error {
		if idle++; idle == 2 {
			cancel()
		}
		return nil
	}
	go feed.Write([]byte("a\npart of a line"))
	var got []string
	err := eachLine(ctx, in, waits, func(line []byte) error { got = append(got, string(line)); return nil })
	if !errors.Is(err, context.Canceled) || !slices.Equal(got, []string{"a"}) {
		t.Errorf("it ends with %v after %q, want %v after the one whole line", err, got, context.Canceled)
	}
}
