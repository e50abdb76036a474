package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// progress tells people, on standard error, how far a command is: what happened, each on a line; and on a terminal, below
// these, what is going on.
type progress struct {
	w     io.Writer
	width func() int // of the terminal; nil: it is none

	mu    sync.Mutex // guards shown, and what is written
	shown string     // of what is going on
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if file, ok := w.(*os.File); ok && isTerminal(file) {
		p.width = func() int {
			size, err := unix.IoctlGetWinsize(int(file.Fd()), unix.TIOCGWINSZ)
			if err != nil || size.Col == 0 {
				return 80
			}
			return int(size.Col)
		}
	}
	return p
}

const clearLine = "\r\x1b[K"

// say writes a line about what happened.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown != "" {
		fmt.Fprint(p.w, clearLine)
	}
	fmt.Fprintf(p.w, "%s\n%s", text, p.shown)
}

// show says what is going on, instead of what was before; nothing: that all has been said.
func (p *progress) show(text string) {
	if p.width == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if room := p.width() - 1; len(text) > room { // of one that is longer the terminal would make two lines
		text = text[:room]
	}
	if text != p.shown {
		fmt.Fprint(p.w, clearLine, text)
		p.shown = text
	}
}

// bar is a drawing of how much of the whole is done.
func bar(done, whole int) string {
	const size = 30
	full := size
	if whole > 0 {
		full = size * min(done, whole) / whole
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", size-full) + "]"
}

// lines is a writer that says each line of what is written to it.
type lines struct {
	say  func(string)
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, rest, ended := bytes.Cut(l.rest, []byte("\n"))
		if !ended && len(l.rest) < maxLine {
			return len(b), nil
		}
		l.say(printableText(string(line)))
		l.rest = rest
	}
}

// end says what is left without a newline.
func (l *lines) end() {
	if len(l.rest) > 0 {
		l.say(printableText(string(l.rest)))
		l.rest = nil
	}
}

// printableText is printable for text that may be empty.
func printableText(text string) string {
	if text == "" {
		return ""
	}
	return printable(text)
}
