// Command control measures the control plane beside its rivals and beside what limits it: the disk's fsync, etcd's
// transactions and its watch. All of it happens in one run on one disk, in rounds in which each has its turn, so that what
// else goes on at the time meets them all.
//
// What is compared is the ratio of two in the same round. It prints a table and, as the last line, the medians of what is
// held to a bar as one JSON object; progress goes to the standard error. It needs root, bin/ip6d and bin/etcd;
// `make bench-control` is the way to run it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == answerNothing {
		exit(serveNothing(os.Args[2]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-control:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	f := flag.NewFlagSet("control", flag.ContinueOnError)
	f.SetOutput(stderr)
	b := bench{agents: 1000, moved: 1_000_000, moves: 1000, pause: 4 * time.Second, given: 4096, progress: stderr, samples: make(map[string][]float64)}
	f.IntVar(&b.rounds, "rounds", 5, "how many `rounds`, of which the medians are taken")
	f.DurationVar(&b.duration, "duration", time.Second, "how long each load lasts")
	f.StringVar(&b.bin, "bin", "bin", "the `directory` of ip6d and etcd")
	f.Func("only", "only these `parts`: "+strings.Join(partNames(), ","), func(s string) error {
		b.only = strings.Split(s, ",")
		return b.checkParts()
	})
	out := f.String("o", "bench", "the `directory` for control.json and control.svg; what is measured uses its disk")
	profile := f.String("cpuprofile", "", "also profile this program, into a `file`")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 || b.rounds < 1 || b.duration <= 0 {
		return fmt.Errorf("arguments %q: want no other than the flags, at least one round, and a duration above 0", args)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("network namespaces and BPF need root: run as root, or sudo make bench-control")
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(*out, "control-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if err := b.measure(ctx); err != nil {
		return err
	}
	r, err := b.report()
	if err != nil {
		return err
	}
	if err := r.write(*out); err != nil {
		return err
	}
	return r.print(stdout)
}
