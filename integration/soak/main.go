package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"time"

	"ip6d/hwmap/etcd/etcdproc"
)

// defaultTime is how long the load lasts unless SOAK_TIME says otherwise.
const defaultTime = 2 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

// run runs a soak as the environment says. Its last line is the summary.
func run(ctx context.Context) error {
	o, err := optionsFromEnv()
	if err != nil {
		return err
	}
	if o.Dir, err = os.MkdirTemp("", "ip6d-soak-"); err != nil {
		return err
	}
	defer removeAll(o.Dir)
	fmt.Printf("seed %d, %v of load, in %s; SEED=%d SOAK_TIME=%v make soak draws the same operations and faults\n", o.Seed, o.Time, o.Dir, o.Seed, o.Time)
	if o.Daemon, o.Failpoints, err = Build(o.Dir); err != nil {
		return err
	}
	o.Log = os.Stdout
	s, err := Run(ctx, o)
	for _, v := range s.What {
		fmt.Printf("VIOLATION %s: %s\n", v.Rule, v.Text)
	}
	line, jsonErr := json.Marshal(s)
	if jsonErr != nil {
		return jsonErr
	}
	fmt.Println(string(line))
	if err == nil && s.Violations > 0 {
		err = fmt.Errorf("%d violations", s.Violations)
	}
	return err
}

// optionsFromEnv reads SEED and SOAK_TIME.
func optionsFromEnv() (o Options, err error) {
	o.Seed, o.Time = rand.Uint64N(1<<32), defaultTime
	if text := os.Getenv("SEED"); text != "" {
		if o.Seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			return o, fmt.Errorf("SEED is %q: %w", text, err)
		}
	}
	if text := os.Getenv("SOAK_TIME"); text != "" {
		if o.Time, err = time.ParseDuration(text); err != nil {
			return o, fmt.Errorf("SOAK_TIME is %q: %w", text, err)
		}
	}
	o.Etcd, err = etcdproc.FindBinary()
	return o, err
}
