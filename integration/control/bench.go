package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// callers is how many call at once, where it is not said otherwise.
const callers = 64

// bench is one run.
type bench struct {
	rounds   int
	duration time.Duration // of each load
	agents   int           // that follow the fleet's map
	moved    int           // machines in the map that a host boots with
	moves    int           // of machines, in each round
	pause    time.Duration // for agents to publish what they applied, before others are measured
	given    int           // addresses that every allocator has given out before it is measured
	only     []string      // names of parts; nil: all of them
	bin      string        // of ip6d and etcd
	dir      string        // for the run's files
	progress io.Writer

	samples map[string][]float64 // by key, in the order of the rounds
}

// part is some measurements that share their surroundings.
type part struct {
	name string
	run  func(*bench, context.Context) error
}

func parts() []part {
	return []part{
		{"create", (*bench).create},
		{"call", (*bench).call},
		{"move", (*bench).move},
		{"fanout", (*bench).fanout},
		{"boot", (*bench).boot},
		{"flip", (*bench).flip},
	}
}

func partNames() (names []string) {
	for _, p := range parts() {
		names = append(names, p.name)
	}
	return names
}

// checkParts refuses names that no part has.
func (b *bench) checkParts() error {
	for _, name := range b.only {
		if !slices.Contains(partNames(), name) {
			return fmt.Errorf("no part is named %q: want some of %s", name, strings.Join(partNames(), ","))
		}
	}
	return nil
}

func (b *bench) measure(ctx context.Context) error {
	for _, p := range parts() {
		if b.only != nil && !slices.Contains(b.only, p.name) {
			continue
		}
		start := time.Now()
		if err := p.run(b, ctx); err != nil {
			return fmt.Errorf("measure %s: %w", p.name, err)
		}
		fmt.Fprintf(b.progress, "%s took %.0f s\n", p.name, time.Since(start).Seconds())
	}
	return nil
}

// add takes one measured number.
func (b *bench) add(key string, value float64) {
	b.samples[key] = append(b.samples[key], value)
	fmt.Fprintf(b.progress, "round %d: %s: %.6g\n", len(b.samples[key]), key, value)
}

// turn is one of those that have their turn in each round.
type turn struct {
	key string
	run func(context.Context) (float64, error)
}

// interleave does all rounds. None of the turns is always the first.
func (b *bench) interleave(ctx context.Context, turns []turn) error {
	for round := range b.rounds {
		by := round % len(turns)
		for _, t := range slices.Concat(turns[by:], turns[:by]) {
			v, err := t.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", t.key, err)
			}
			b.add(t.key, v)
		}
	}
	return nil
}

// rate returns how often per second f was done by n callers who do it again and again. number is another one each time.
func (b *bench) rate(ctx context.Context, n int, f func(ctx context.Context, caller int) error) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var done atomic.Int64
	start := time.Now()
	err := atOnce(n, func(caller int) error {
		for time.Since(start) < b.duration {
			if err := f(ctx, caller); err != nil {
				cancel()
				return err
			}
			done.Add(1)
		}
		return ctx.Err()
	})
	return float64(done.Load()) / time.Since(start).Seconds(), err
}

// times does each of n things once, by many callers, and returns how many that were per second.
func times(ctx context.Context, n, callers int, f func(ctx context.Context, i int) error) (float64, error) {
	var next atomic.Int64
	start := time.Now()
	err := atOnce(callers, func(int) error {
		for {
			i := int(next.Add(1)) - 1
			if i >= n || ctx.Err() != nil {
				return ctx.Err()
			}
			if err := f(ctx, i); err != nil {
				return err
			}
		}
	})
	return float64(n) / time.Since(start).Seconds(), err
}

// atOnce calls f n times at once, and returns all errors.
func atOnce(n int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
