package main

import (
	"strings"
	"testing"
)

// Events as Go 1.26 prints them, less the times, for a package p.
const (
	passes = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestPasses"}
{"Action":"output","Package":"p","Test":"TestPasses","Output":"=== RUN   TestPasses\n"}
{"Action":"run","Package":"p","Test":"TestPasses/one"}
{"Action":"output","Package":"p","Test":"TestPasses/one","Output":"=== RUN   TestPasses/one\n"}
{"Action":"output","Package":"p","Test":"TestPasses/one","Output":"    p_test.go:9: all is well\n"}
{"Action":"output","Package":"p","Test":"TestPasses/one","Output":"    --- PASS: TestPasses/one (0.00s)\n"}
{"Action":"pass","Package":"p","Test":"TestPasses/one","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestPasses","Output":"--- PASS: TestPasses (0.00s)\n"}
{"Action":"pass","Package":"p","Test":"TestPasses","Elapsed":0}
`
	skips = `{"Action":"run","Package":"p","Test":"TestSkips"}
{"Action":"output","Package":"p","Test":"TestSkips","Output":"    p_test.go:20: needs root\n"}
{"Action":"output","Package":"p","Test":"TestSkips","Output":"--- SKIP: TestSkips (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestSkips","Elapsed":0}
`
	fails = `{"Action":"run","Package":"p","Test":"TestFails"}
{"Action":"run","Package":"p","Test":"TestFails/good"}
{"Action":"output","Package":"p","Test":"TestFails/good","Output":"    p_test.go:30: good\n"}
{"Action":"pass","Package":"p","Test":"TestFails/good","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestFails/bad","Output":"    p_test.go:34: got 1, want 2\n"}
{"Action":"output","Package":"p","Test":"TestFails/bad","Output":"    --- FAIL: TestFails/bad (0.00s)\n"}
{"Action":"fail","Package":"p","Test":"TestFails/bad","Elapsed":0}
{"Action":"output","Package":"p","Test":"TestFails","Output":"--- FAIL: TestFails (0.00s)\n"}
{"Action":"fail","Package":"p","Test":"TestFails","Elapsed":0}
`
	passed   = `{"Action":"pass","Package":"p","Elapsed":1.5}` + "\n"
	failed   = `{"Action":"fail","Package":"p","Elapsed":1.5}` + "\n"
	noTests  = `{"Action":"start","Package":"q"}` + "\n" + `{"Action":"skip","Package":"q","Elapsed":0}` + "\n"
	noBuild  = `{"ImportPath":"p","Action":"build-output","Output":"./p.go:3:1: undefined: x\n"}` + "\n" + failed
	panicked = `{"Action":"run","Package":"p","Test":"TestPanics"}
{"Action":"output","Package":"p","Test":"TestPanics","Output":"panic: no such host\n"}
`
)

func TestReport(t *testing.T) {
	for _, tc := range []struct {
		name, events string
		noSkip       bool
		err          string
		shows        []string
		hides        string
	}{
		{"passing tests are counted and stay silent", passes + passed + noTests, true, "",
			[]string{"1 tests passed (2 with subtests) in 1 packages, 0 failed, 0 skipped\n"}, "all is well"},
		{"a failing subtest is shown with its test, once", passes + fails + failed, false, "1 failed",
			[]string{"p_test.go:34: got 1, want 2", "FAIL  p TestFails\n"}, "p_test.go:30"},
		{"a skip is named with its reason", passes + skips + passed, false, "",
			[]string{"skip  p TestSkips\n      p_test.go:20: needs root\n", "1 skipped\n"}, "FAIL"},
		{"a skip fails where it must not be", passes + skips + passed, true, "1 skipped, where a skip is a failure", nil, "FAIL"},
		{"a build that fails shows the compiler's message", noBuild, false, "1 failed", []string{"undefined: x", "FAIL  p\n"}, "\tp"},
		{"a panic is shown though its test never ends", passes + panicked + failed, false, "1 failed", []string{"panic: no such host"}, "all is well"},
		{"events that break off are a failure", passes, false, "1 failed", []string{"FAIL  p\n"}, "all is well"},
		{"no tests at all are a failure", noTests, false, "no test ran", nil, "FAIL"},
		{"a message of the go command is passed on", "go: no such tool\n", false, "no test ran", []string{"go: no such tool\n"}, "FAIL"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out strings.Builder
			err := run(strings.NewReader(tc.events), &out, tc.noSkip)
			if got := errorText(err); got != tc.err {
				t.Errorf("error %q, want %q; output:\n%s", got, tc.err, out.String())
			}
			for _, want := range tc.shows {
				if n := strings.Count(out.String(), want); n != 1 {
					t.Errorf("%q is there %d times, want once, in:\n%s", want, n, out.String())
				}
			}
			if strings.Contains(out.String(), tc.hides) {
				t.Errorf("%q should not be in:\n%s", tc.hides, out.String())
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
