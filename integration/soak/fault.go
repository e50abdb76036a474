package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"ip6d/addr"
)

// fault is something that goes wrong at a time, for some time.
type fault struct {
	at, lasts time.Duration
	kind      string
	who       []int // of members or hosts, from 0
}

// The kinds of faults. Those of a member befall one, or two, which is the store's majority.
const (
	memberKilled  = "member killed"
	memberStopped = "member stopped"
	memberCut     = "member cut off"
	storeAway     = "store away" // all members, until each host has created a machine without it
	hostCut       = "host cut off"
	hostStopped   = "daemon stopped"
	hostKilled    = "daemon killed"
	hostRebooted  = "host rebooted"
)

var kinds = []string{
	memberKilled, memberKilled, memberKilled, memberStopped, memberStopped, memberStopped, memberCut, memberCut, memberCut,
	hostCut, hostCut, hostStopped, hostStopped, hostKilled, hostKilled, hostRebooted,
}

// schedule draws the faults of a soak.
func schedule(r *rand.Rand, length time.Duration) []fault {
	var all []fault
	away := 10 * time.Second // when the store is away next
	for at := time.Second; at < length-3*time.Second; at += time.Duration(1000+r.IntN(4000)) * time.Millisecond {
		f := fault{at: at, lasts: time.Duration(300+r.IntN(1<<(8+r.IntN(6)))) * time.Millisecond, kind: kinds[r.IntN(len(kinds))], who: r.Perm(hosts)}
		n := 1
		if r.IntN(6) == 0 {
			n = 2
		}
		if at >= away {
			f.kind, away = storeAway, at+time.Duration(30+r.IntN(30))*time.Second
		}
		f.who = f.who[:n]
		all = append(all, f)
	}
	return all
}

// suffer lets the faults happen, until ctx ends.
func (s *soak) suffer(ctx context.Context) {
	var under sync.WaitGroup
	defer under.Wait()
	began := time.Now()
	for n, f := range schedule(s.random(streamFaults), s.Time) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(began.Add(f.at))):
		}
		s.count(s.faultsByKind, f.kind)
		s.say("%s %v for %v", f.kind, f.who, f.lasts)
		if f.kind == storeAway {
			under.Go(func() { s.withoutStore(ctx, n) }) // it waits for the operator, and other faults do not
			continue
		}
		under.Go(func() {
			for _, who := range f.who {
				s.hurt(f.kind, who)
			}
			select {
			case <-ctx.Done():
			case <-time.After(f.lasts):
			}
			for _, who := range f.who {
				s.mend(f.kind, who)
			}
		})
	}
	<-ctx.Done()
}

// hurt makes a fault, and mend undoes it. Faults of different kinds may befall the same at once.
func (s *soak) hurt(kind string, who int) {
	if s.away.Load() && (kind == memberKilled || kind == memberStopped) {
		return // it is stopped, as all are
	}
	switch kind {
	case memberKilled:
		s.store.members[who].kill()
	case memberStopped:
		s.store.members[who].running(func(p *process) { p.signal(syscall.SIGSTOP) })
	case memberCut:
		s.must(s.network.cut(s.store.members[who].space.name))
	case hostCut:
		s.must(s.network.cut(s.hosts[who].space.name))
	case hostStopped:
		s.hosts[who].running(func(p *process) { p.signal(syscall.SIGSTOP) })
	case hostKilled:
		s.hosts[who].kill()
	case hostRebooted:
		s.hosts[who].rebootHost()
	}
}

func (s *soak) mend(kind string, who int) {
	if s.away.Load() && (kind == memberKilled || kind == memberStopped) {
		return // later, with all
	}
	switch kind {
	case memberKilled:
		s.must(s.store.members[who].start())
	case memberStopped:
		s.store.members[who].running(func(p *process) { p.signal(syscall.SIGCONT) })
	case memberCut:
		s.must(s.network.join(s.store.members[who].space.name))
	case hostCut:
		s.must(s.network.join(s.hosts[who].space.name))
	case hostStopped:
		s.hosts[who].running(func(p *process) { p.signal(syscall.SIGCONT) })
	}
}

// must notes an error of the soak itself, after which it proves nothing.
func (s *soak) must(err error) {
	if err != nil {
		s.rules.violate(ruleSoak, "%v", err)
	}
}

// heal undoes every fault, whatever became of it, and ends the failpoints.
func (s *soak) heal() {
	for who := range s.store.members {
		for _, kind := range []string{memberStopped, memberCut, memberKilled} {
			s.mend(kind, who)
		}
	}
	for who, h := range s.hosts {
		for _, kind := range []string{hostStopped, hostCut} {
			s.mend(kind, who)
		}
		h.hold(false)
		h.setCalm(true)
	}
}

// awayPatience is how long a create may take while the store is away: a daemon that a failpoint ends takes some seconds to find
// out, at each start, that it must go on without.
const awayPatience = time.Minute

// withoutStore stops all members, and lets each host create a machine, and refuse a move.
func (s *soak) withoutStore(ctx context.Context, n int) {
	s.operating.Lock()
	defer s.operating.Unlock()
	s.away.Store(true)
	for _, m := range s.store.members {
		m.running(func(p *process) { p.signal(syscall.SIGSTOP) })
	}
	defer func() {
		s.away.Store(false)
		for who := range s.store.members {
			s.mend(memberKilled, who)
			s.mend(memberStopped, who)
		}
	}()
	var all sync.WaitGroup
	defer all.Wait()
	for _, h := range s.hosts {
		all.Go(func() { s.createWithoutStore(ctx, h, fmt.Sprintf("away%d-%d", n, h.id)) })
	}
}

func (s *soak) createWithoutStore(ctx context.Context, h *host, name string) {
	l := life{soak: s, client: 300 + int(h.id), name: name, at: h.id}
	patient, cancel := context.WithTimeout(ctx, awayPatience)
	defer cancel()
	l.ctx = patient
	if _, ok := l.until(input{Kind: opCreate, Host: h.id}, 1000, done); !ok && ctx.Err() == nil {
		s.rules.violate(ruleCreates, "host %d did not create %q within %v", h.id, name, awayPatience)
	}
	began := time.Now()
	to := move{skip: 1}.target(h.id)
	out, err := l.call(ctx, l.client, name, input{Kind: opBegin, Host: h.id, To: to})
	if out.Result == done {
		s.rules.violate(ruleRefusal, "host %d began to move %q to host %d", h.id, name, addr.Host(to))
	}
	if took := time.Since(began); took > callTimeout-time.Second && ctx.Err() == nil {
		s.rules.violate(ruleRefusal, "host %d took %v to refuse to move %q: %v", h.id, took, name, err)
	}
}
