package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
)

// Options are the settings of a soak.
type Options struct {
	Seed uint64
	Time time.Duration // of load and faults; what follows takes as long as it takes to converge

	Dir        string   // for everything, empty
	Etcd       string   // path of the etcd server
	Daemon     string   // path of the daemon
	Failpoints []string // that it has

	Log io.Writer // takes a line for each fault, and for each violation

	// NoOperator leaves hosts alone: none is drained, or lost for good. More machines move then.
	NoOperator bool

	// Doubt has far more transactions come to the store late, or without an answer.
	Doubt bool

	// Convergence is how long it may take, once the faults have ended, until everything agrees; 0: 90 s.
	Convergence time.Duration

	// StopAtViolation ends the soak when a rule is violated, without looking at the rest.
	StopAtViolation bool
}

const (
	hosts      = 3
	quarantine = 5 * time.Second
)

// The streams of random numbers: each part of the soak has one of its own, so that what the one draws does not depend on how
// often another did.
const (
	streamFaults uint64 = iota << 32
	streamLives
	streamSlots
	streamMeddlers
	streamOperator
)

// soak is one run.
type soak struct {
	Options
	binary     string
	dir        string
	failpoints []string
	began      time.Time
	calls      *os.File

	network *network
	store   *store
	hosts   []*host
	rules   *rules
	history *history
	slots   []*slot

	away      atomic.Bool // all members are stopped
	operating sync.Mutex  // held while something is done to a whole host, or the store is away

	mu               sync.Mutex // guards all below
	faultsByKind     map[string]int
	killsByFailpoint map[string]int
}

// random returns the stream of that number.
func (s *soak) random(stream uint64) *rand.Rand { return rand.New(rand.NewPCG(s.Seed, stream)) }

func (s *soak) count(in map[string]int, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in[what]++
}

func (s *soak) say(format string, args ...any) {
	fmt.Fprintf(s.Log, "%7.2f "+format+"\n", append([]any{time.Since(s.began).Seconds()}, args...)...)
}

// Run makes a fleet, loads it and lets it suffer, and checks what must hold. An error means that the soak itself failed;
// violations are in the summary.
func Run(ctx context.Context, o Options) (_ Summary, err error) {
	o.Convergence = cmp.Or(o.Convergence, 90*time.Second)
	s := &soak{
		Options: o, binary: o.Daemon, dir: o.Dir, failpoints: o.Failpoints, began: time.Now(), rules: newRules(), history: newHistory(),
		faultsByKind: make(map[string]int), killsByFailpoint: make(map[string]int),
	}
	if s.calls, err = os.Create(filepath.Join(o.Dir, "calls.log")); err != nil {
		return Summary{}, err
	}
	defer func() { err = errors.Join(err, s.calls.Close()) }()
	if s.network, err = newNetwork(netip.AddrFrom4([4]byte{10, 66, 0, 1})); err != nil {
		return Summary{}, err
	}
	defer func() { err = errors.Join(err, s.network.close()) }()
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if s.store, err = newStore(starting, s.network, o.Etcd, o.Dir); err != nil {
		return Summary{}, err
	}
	defer s.store.close()

	ctx, end := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	defer func() {
		end()
		err = errors.Join(err, g.Wait())
	}()
	g.Go(func() error { s.rules.follow(ctx, s.store.client); return nil })
	for id := range addr.Host(hosts) {
		h, err := s.newHost(id + 1)
		if err != nil {
			return Summary{}, err
		}
		s.hosts = append(s.hosts, h)
	}
	for _, h := range s.hosts {
		g.Go(func() error { return h.keepRunning(ctx) })
	}
	if err := s.waitReady(starting); err != nil {
		return Summary{}, err
	}
	s.load(ctx)
	if s.StopAtViolation && len(s.rules.all()) > 0 {
		return s.summary(), ctx.Err()
	}
	s.heal()
	s.finish(ctx)
	return s.summary(), ctx.Err()
}

// waitReady waits until each host has joined and has a block, and then lets failpoints end them.
func (s *soak) waitReady(ctx context.Context) error {
	for _, h := range s.hosts {
		for {
			r, err := h.client.Hosts.GetStatus(ctx, connect.NewRequest(&ip6dv1.GetStatusRequest{}))
			if err == nil && r.Msg.Following && r.Msg.IdsFree > 0 {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for host %d: %w (%w)", h.id, ctx.Err(), err)
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	s.history.start = time.Now()
	s.began = s.history.start
	for _, h := range s.hosts {
		h.setCalm(false)
	}
	return nil
}

// load lets clients work while faults happen, for the soak's time.
func (s *soak) load(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.Time)
	defer cancel()
	if s.StopAtViolation {
		go func() {
			select {
			case <-s.rules.arose:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	var all sync.WaitGroup
	for n := range slots {
		t := &slot{number: n}
		s.slots = append(s.slots, t)
	}
	for _, t := range s.slots {
		all.Go(func() { s.drive(ctx, t) })
	}
	for n := range meddlers {
		all.Go(func() { s.meddle(ctx, n) })
	}
	all.Go(func() { s.suffer(ctx) })
	if !s.NoOperator {
		all.Go(func() { s.operate(ctx) })
	}
	all.Wait()
}

// finish waits until everything agrees, looks at what came of it all, and does so again after every daemon was killed.
func (s *soak) finish(ctx context.Context) {
	s.say("the faults have ended")
	for _, step := range []func(){
		func() { s.pardon(ctx) },
		func() { s.tidy(ctx) },
		func() { s.mustConverge(ctx, "after the faults") },
		func() {
			for _, h := range s.hosts {
				h.kill()
			}
			s.mustConverge(ctx, "after another restart")
		},
		func() { s.readAll(ctx) },
		s.rules.checkDeliveries,
		func() { s.history.check(s.rules) },
	} {
		if s.StopAtViolation && len(s.rules.all()) > 0 {
			return
		}
		step()
	}
}

// removeAll removes what a soak made, but where it is to be looked at.
func removeAll(dir string) error {
	if os.Getenv("SOAK_KEEP") != "" {
		return nil
	}
	return os.RemoveAll(filepath.Clean(dir))
}
