package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// options say how much to measure.
type options struct {
	rounds       int
	duration     time.Duration // of each load
	cpu          int           // the core that all loads run on
	movers       int           // entries of `moved`, for the way with many
	destinations int           // how many of the movers get packets
	repeat       int           // how often a program is run
	only         []string      // names of ways; nil: all of them
	progress     io.Writer
}

// sample is what one way came to in one round.
type sample struct {
	Sent             int     `json:"packets_sent"`
	Received         int     `json:"packets_received"`
	PacketsPerSecond float64 `json:"packets_received_per_second"`
	NsPerPacket      float64 `json:"ns_per_packet"`
	TCPBitsPerSecond float64 `json:"tcp_bits_per_second,omitempty"`
	RequestP50       float64 `json:"request_p50_us,omitempty"`
	RequestP99       float64 `json:"request_p99_us,omitempty"`
}

// results are all samples, each list in the order of the rounds.
type results struct {
	ways     []way
	samples  map[string][]sample // by the way's name
	programs []programCosts
}

// measure does all rounds. In each, every way has its turn, and none always the same one.
func measure(o options) (r *results, err error) {
	pins, err := newPins()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pins.Close()) }()
	r = &results{samples: make(map[string][]sample)}
	if err := r.fresh(o, o.chosen(pins.ways())); err != nil {
		return nil, err
	}
	for range o.rounds {
		costs, err := pins.programs(o.repeat)
		if err != nil {
			return nil, err
		}
		r.programs = append(r.programs, costs)
	}
	return r, r.lasting(o, o.chosen(pins.moved(o.movers, o.destinations)))
}

// fresh makes each way anew in each round, one at a time.
func (r *results) fresh(o options, ways []way) error {
	r.ways = append(r.ways, ways...)
	for round := range o.rounds {
		for _, w := range rotated(ways, round) {
			p, err := newPath(w.build)
			if err != nil {
				return fmt.Errorf("make %s: %w", w.title, err)
			}
			s, err := o.sample(w, p)
			if err := errors.Join(err, p.close()); err != nil {
				return fmt.Errorf("measure %s: %w", w.title, err)
			}
			r.add(o, round, w, s)
		}
	}
	return nil
}

// lasting makes all ways at once, and keeps them for all rounds. Only floods are measured.
func (r *results) lasting(o options, ways []way) (err error) {
	r.ways = append(r.ways, ways...)
	paths := make(map[string]*path)
	defer func() {
		for _, p := range paths {
			err = errors.Join(err, p.close())
		}
	}()
	for _, w := range ways {
		p, err := newPath(w.build)
		if err != nil {
			return fmt.Errorf("make %s: %w", w.title, err)
		}
		paths[w.name] = p
		if err := p.check(w.wire); err != nil {
			return fmt.Errorf("check %s: %w", w.title, err)
		}
	}
	for round := range o.rounds {
		for _, w := range rotated(ways, round) {
			s, err := o.flood(w, paths[w.name])
			if err != nil {
				return fmt.Errorf("measure %s: %w", w.title, err)
			}
			r.add(o, round, w, s)
		}
	}
	return nil
}

// checkWays refuses names that no way has.
func (o options) checkWays() error {
	var names []string
	for _, w := range append((&pins{}).ways(), (&pins{}).moved(1, 1)...) {
		names = append(names, w.name)
	}
	for _, name := range o.only {
		if !slices.Contains(names, name) {
			return fmt.Errorf("no way is named %q: want some of %s", name, strings.Join(names, ","))
		}
	}
	return nil
}

// chosen returns those that are to be measured.
func (o options) chosen(ways []way) []way {
	if o.only == nil {
		return ways
	}
	return slices.DeleteFunc(ways, func(w way) bool { return !slices.Contains(o.only, w.name) })
}

func rotated(ways []way, by int) []way {
	if len(ways) == 0 {
		return nil
	}
	by %= len(ways)
	return slices.Concat(ways[by:], ways[:by])
}

func (r *results) add(o options, round int, w way, s sample) {
	r.samples[w.name] = append(r.samples[w.name], s)
	fmt.Fprintf(o.progress, "round %d of %d: %s: %.0f ns/packet\n", round+1, o.rounds, w.title, s.NsPerPacket)
}

// sample checks a path, and measures all of it.
func (o options) sample(w way, p *path) (s sample, err error) {
	if err := p.check(w.wire); err != nil {
		return s, err
	}
	if s, err = o.flood(w, p); err != nil {
		return s, err
	}
	if s.TCPBitsPerSecond, err = p.stream(o.load(1)); err != nil {
		return s, err
	}
	l, err := p.ask(o.load(1))
	const us = float64(time.Microsecond)
	s.RequestP50, s.RequestP99 = float64(l.P50)/us, float64(l.P99)/us
	return s, err
}

// flood measures small packets, after a shorter flood that warms everything up.
func (o options) flood(w way, p *path) (s sample, err error) {
	to := p.destinations(w.to)
	if _, err := p.flood(o.load(0.1), to); err != nil {
		return s, err
	}
	n, err := p.flood(o.load(1), to)
	if err != nil {
		return s, err
	}
	if n.received == 0 {
		return s, fmt.Errorf("none of %d packets arrived", n.sent)
	}
	return sample{Sent: n.sent, Received: n.received, PacketsPerSecond: 1e9 / n.cost, NsPerPacket: n.cost}, nil
}

// destinations are those given, or the receiver's own address.
func (p *path) destinations(to []netip.Addr) []netip.Addr {
	if to != nil {
		return to
	}
	return []netip.Addr{p.receiver.Addr()}
}

func (o options) load(part float64) load {
	return load{duration: time.Duration(float64(o.duration) * part), cpu: o.cpu}
}
