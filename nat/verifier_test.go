package nat

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ip6d/bpf"
)

// cost is what a program costs the kernel's verifier. All grow with what the programs do, and each has an end: a million
// processed instructions, 512 bytes of stack.
type cost struct {
	Instructions int // of the program as it is loaded
	Processed    int // instructions that the verifier looked at, one that it looked at twice counted twice
	PeakStates   int
	Stack        int // bytes, of all functions together
}

const (
	costRecord    = "testdata/verifier.txt"
	costTolerance = 5 // percent
	costHeader    = "# What each program costs the verifier of a kernel: `go test ./nat -run TestVerifierCost -update`\n" +
		"# kernel program          instructions processed peak_states stack\n"
	costLine = "%-8s %-16s %12d %9d %11d %5d\n"
)

// running is a kernel and a program on it.
type running struct{ kernel, program string }

// kernelRelease is major and minor number: what the verifier does changes with them.
func kernelRelease(t *testing.T) string {
	t.Helper()
	var name unix.Utsname
	ok(t, unix.Uname(&name))
	return regexp.MustCompile(`^\d+\.\d+`).FindString(unix.ByteSliceToString(name.Release[:]))
}

// measureCosts loads the programs with the settings of a usual host.
func measureCosts(t *testing.T) map[string]cost {
	t.Helper()
	o := options("/not/pinned")
	o.Sizes = Sizes{} // the defaults
	settings, err := o.settings()
	ok(t, err)
	settings.StackIfindex, settings.VerifyMac = 1, 1 // else what is there for them is dead code
	spec := must(bpf.LoadDatapath())
	ok(t, spec.Variables[bpf.DatapathVarOwn].Set(settings))
	o.Sizes.apply(spec)
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
	ok(t, err)
	defer c.Close()

	costs := make(map[string]cost)
	for name, p := range c.Programs {
		costs[name] = cost{
			Instructions: len(spec.Programs[name].Instructions),
			Processed:    sumIn(t, p.VerifierLog, `processed (\d+) insns`),
			PeakStates:   sumIn(t, p.VerifierLog, `peak_states (\d+)`),
			Stack:        sumIn(t, p.VerifierLog, `stack depth ([\d+]+)`),
		}
	}
	return costs
}

// sumIn finds a number in the verifier's log, or several with + in between.
func sumIn(t *testing.T, log, pattern string) (sum int) {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(log)
	if found == nil {
		t.Fatalf("the verifier's log does not match %q:\n%s", pattern, log)
	}
	for n := range strings.SplitSeq(found[1], "+") {
		sum += must(strconv.Atoi(n))
	}
	return sum
}

func readCosts(t *testing.T) map[running]cost {
	t.Helper()
	costs := make(map[running]cost)
	for line := range strings.Lines(string(must(os.ReadFile(costRecord)))) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var at running
		var c cost
		_, err := fmt.Sscan(line, &at.kernel, &at.program, &c.Instructions, &c.Processed, &c.PeakStates, &c.Stack)
		if err != nil {
			t.Fatalf("%s: line %q: %v", costRecord, line, err)
		}
		costs[at] = c
	}
	return costs
}

func writeCosts(costs map[running]cost) string {
	var b strings.Builder
	b.WriteString(costHeader)
	for _, at := range slices.SortedFunc(maps.Keys(costs), func(a, b running) int {
		return cmp.Or(cmp.Compare(a.kernel, b.kernel), cmp.Compare(a.program, b.program))
	}) {
		c := costs[at]
		fmt.Fprintf(&b, costLine, at.kernel, at.program, c.Instructions, c.Processed, c.PeakStates, c.Stack)
	}
	return b.String()
}

// A record that is too high would hide the next growth, so a program that costs less is to be recorded, too.
func TestVerifierCostIsAsRecorded(t *testing.T) {
	needsRoot(t)
	kernel := kernelRelease(t)
	measured := measureCosts(t)
	recorded := readCosts(t)
	maps.DeleteFunc(recorded, func(at running, _ cost) bool {
		_, there := measured[at.program]
		return *update && (at.kernel == kernel || !there)
	})
	var now = make(map[running]cost)
	for program, c := range measured {
		now[running{kernel, program}] = c
	}
	if *update {
		maps.Copy(recorded, now)
		ok(t, os.WriteFile(costRecord, []byte(writeCosts(recorded)), 0o644))
	}

	for at, is := range now {
		was, known := recorded[at]
		if !known {
			t.Errorf("%s on Linux %s is not in %s", at.program, kernel, costRecord)
		}
		for _, n := range []struct {
			what    string
			was, is int
		}{
			{"instructions", was.Instructions, is.Instructions},
			{"processed instructions", was.Processed, is.Processed},
			{"peak states", was.PeakStates, is.PeakStates},
			{"bytes of stack", was.Stack, is.Stack},
		} {
			if known && 100*max(n.is-n.was, n.was-n.is) > costTolerance*n.was {
				t.Errorf("%s on Linux %s: %d %s, %d are recorded", at.program, kernel, n.is, n.what, n.was)
			}
		}
	}
	for at := range recorded {
		if _, there := measured[at.program]; !there {
			t.Errorf("%s is in %s, and is no program any more", at.program, costRecord)
		}
	}
	if t.Failed() {
		t.Errorf("If that is meant, record it on this kernel: go test ./nat -run %s -update; or put these lines into %s:\n%s", t.Name(), costRecord, writeCosts(now))
	}
}
