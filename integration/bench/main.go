// Command bench measures the datapath beside what else carries packets between two machines: plain forwarding, which
// translates nothing, and its rivals, which do the same job. All of it happens in network namespaces of its own, in one
// run, in rounds in which each way has its turn, so that what else goes on at the time meets them all.
//
// What is compared is the ratio of two ways in the same round. One core does all the work of a load, and what counts is
// the time that it spent on it. So other programs do not disturb the result much, but an idle computer is better.
//
// It prints tables and, as the last line, the ratios as one JSON object; progress goes to the standard error. It needs
// root, and ip(8), nft(8) and ip6tables(8); `make bench-datapath` is the way to run it.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	o := options{movers: 1_000_000, destinations: 10_000, repeat: 1_000_000, progress: stderr}
	f.IntVar(&o.rounds, "rounds", 21, "how many `rounds`, of which the medians are taken")
	f.DurationVar(&o.duration, "duration", 300*time.Millisecond, "how long each load lasts")
	f.IntVar(&o.cpu, "cpu", runtime.NumCPU()-1, "the `core` that does the work")
	f.Func("ways", "only these `ways`, as named in datapath.json, separated by commas", func(s string) error {
		o.only = strings.Split(s, ",")
		return o.checkWays()
	})
	dir := f.String("o", "bench", "the `directory` for datapath.json and datapath.svg")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 || o.rounds < 1 || o.duration <= 0 {
		return fmt.Errorf("arguments %q: want no other than the flags, at least one round, and a duration above 0", args)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("network namespaces and BPF need root: run as root, or sudo make bench-datapath")
	}
	r, err := measure(o)
	if err != nil {
		return err
	}
	measured, err := newReport(o, r)
	if err != nil {
		return err
	}
	if err := measured.write(*dir); err != nil {
		return err
	}
	return measured.print(stdout)
}
