// Testreport reads the events of `go test -json` on its standard input and writes a short account of them: a line
// for each package, the whole output of what failed, the reason of what was skipped, and the number of tests.
//
// It exits 1 if a test or a build failed, if nothing ran at all, or, with -no-skip, if a test was skipped. A
// skipped test is easy to overlook, and one that can never run where the others are checked protects nothing.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	noSkip := flag.Bool("no-skip", false, "a skipped test is a failure")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *noSkip); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

// run accounts for the events of in on out. Its error says why the tests as a whole have not passed.
func run(in io.Reader, out io.Writer, noSkip bool) error {
	r := newReport(out)
	if err := r.read(in); err != nil {
		return err
	}
	r.summary()
	switch {
	case len(r.failed) > 0:
		return fmt.Errorf("%d failed", len(r.failed))
	case r.tests == 0:
		return fmt.Errorf("no test ran")
	case noSkip && len(r.skipped) > 0:
		return fmt.Errorf("%d skipped, where a skip is a failure", len(r.skipped))
	}
	return nil
}
