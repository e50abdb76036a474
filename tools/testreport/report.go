package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// An event is a line of `go test -json`; `go doc cmd/test2json` describes it.
type event struct {
	Action  string
	Package string
	Test    string  // empty where the event is about the whole package
	Elapsed float64 // seconds
	Output  string
}

// A report is what the events read so far amount to.
type report struct {
	out   io.Writer
	packs map[string]*pack // by import path, those whose tests are running

	packages int      // that have ended, and have tests
	tests    int      // top-level tests that passed
	withSubs int      // the same, and their subtests
	failed   []string // top-level tests, and packages whose failure no test explains
	skipped  []string // tests and subtests, with the reason
}

// A pack is a package whose tests are running.
type pack struct {
	tests, withSubs int
	failed          bool // some test has
	output          []line
}

// A line is held back until it is known whether its test failed.
type line struct{ test, text string }

func newReport(out io.Writer) *report {
	return &report{out: out, packs: make(map[string]*pack)}
}

// read takes events up to the end of in. A line that is none is a message of the go command, and is passed on.
func (r *report) read(in io.Reader) error {
	lines := bufio.NewReader(in) // not a Scanner: a line of a test's output has no greatest length
	for {
		text, err := lines.ReadString('\n')
		if text != "" {
			var e event
			if json.Unmarshal([]byte(text), &e) == nil {
				r.add(e)
			} else {
				fmt.Fprint(r.out, text)
			}
		}
		switch err {
		case nil:
		case io.EOF:
			r.unended()
			return nil
		default:
			return fmt.Errorf("read test events: %w", err)
		}
	}
}

func (r *report) add(e event) {
	if strings.HasPrefix(e.Action, "build-") {
		// That a build failed is said once more by a "fail" of each package that needed it.
		fmt.Fprint(r.out, e.Output)
		return
	}
	p := r.packs[e.Package]
	if p == nil {
		p = &pack{}
		r.packs[e.Package] = p
	}
	switch e.Action {
	case "output":
		p.hold(e.Test, e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.endPackage(p, e)
		} else {
			r.endTest(p, e)
		}
	}
}

func (r *report) endTest(p *pack, e event) {
	sub := strings.Contains(e.Test, "/")
	lines := p.release(e.Test, e.Action == "fail" && sub)
	switch e.Action {
	case "pass":
		p.withSubs++
		if !sub {
			p.tests++
		}
	case "skip":
		reason := e.Package + " " + e.Test
		for _, l := range lines {
			if !strings.Contains(l.text, "--- SKIP") {
				reason += "\n      " + strings.TrimSpace(l.text)
			}
		}
		r.skipped = append(r.skipped, reason)
	case "fail":
		if sub {
			return // shown with the test it is part of
		}
		p.failed = true
		r.failed = append(r.failed, e.Package+" "+e.Test)
		r.print(lines)
	}
}

func (r *report) endPackage(p *pack, e event) {
	delete(r.packs, e.Package)
	if e.Action == "fail" {
		// A panic or a time-out shows in the output of the tests that it did not let end.
		r.print(p.output)
		if !p.failed {
			r.failed = append(r.failed, e.Package)
		}
	}
	if p.withSubs > 0 {
		r.packages++
		r.tests += p.tests
		r.withSubs += p.withSubs
	}
	word := map[string]string{"pass": "ok  ", "fail": "FAIL"}[e.Action]
	if word != "" { // "skip" says of a package that it has no tests: no news
		fmt.Fprintf(r.out, "%s  %-28s %7.1fs  %4d tests passed (%d with subtests)\n",
			word, e.Package, e.Elapsed, p.tests, p.withSubs)
	}
}

// unended counts as failed what the events broke off in the middle of.
func (r *report) unended() {
	for name, p := range r.packs {
		r.endPackage(p, event{Action: "fail", Package: name})
	}
}

func (r *report) summary() {
	for _, s := range r.skipped {
		fmt.Fprintln(r.out, "skip ", s)
	}
	for _, f := range r.failed {
		fmt.Fprintln(r.out, "FAIL ", f)
	}
	fmt.Fprintf(r.out, "%d tests passed (%d with subtests) in %d packages, %d failed, %d skipped\n",
		r.tests, r.withSubs, r.packages, len(r.failed), len(r.skipped))
}

func (r *report) print(lines []line) {
	for _, l := range lines {
		fmt.Fprint(r.out, l.text)
	}
}

func (p *pack) hold(test, text string) {
	start := strings.TrimSpace(text)
	switch {
	case strings.HasPrefix(start, "=== "), strings.HasPrefix(start, "--- PASS"):
	case test == "" && (start == "PASS" || start == "FAIL" || strings.HasPrefix(start, "FAIL\t")):
	default:
		p.output = append(p.output, line{test, text})
	}
}

// release returns the lines held back of a test and its subtests, and holds them no longer unless keep is true.
func (p *pack) release(test string, keep bool) []line {
	var of, others []line
	for _, l := range p.output {
		if l.test == test || strings.HasPrefix(l.test, test+"/") {
			of = append(of, l)
		} else {
			others = append(others, l)
		}
	}
	if !keep {
		p.output = others
	}
	return of
}
