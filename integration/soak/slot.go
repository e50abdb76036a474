package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"ip6d/addr"
)

const (
	slots    = 20 // machines at a time
	meddlers = 2  // who interfere with them
)

// slot has one machine after the other.
type slot struct {
	number int

	mu   sync.Mutex // guards all below
	name string
	home addr.Host
}

func (t *slot) now() (string, addr.Host) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.name, t.home
}

// plan is the life of a machine. All of it is drawn before it begins, so that it does not depend on what comes of it.
type plan struct {
	home  addr.Host
	moves []move
	pause time.Duration // between steps
}

type move struct {
	skip    addr.Host // 1 to hosts-1: how many hosts on
	abortOn int       // 1: the source, 2: the target, before the switchover; else no
	beside  int       // what somebody else asks for at the same time as the switchover
	lazy    bool      // finish comes only when it has to
}

// besides are what somebody asks for at the same time as the switchover: the first of the source, the others of the target.
var besides = []kind{opSwitchover, opAbort, opDestroy, opAbort, opAbort, opAbort}

const besidesAtTarget = 3

func newPlan(r *rand.Rand) plan {
	p := plan{home: addr.Host(1 + r.IntN(hosts)), pause: time.Duration(r.IntN(300)) * time.Millisecond}
	if r.IntN(3) == 0 {
		return p // most machines never move
	}
	for range 1 + r.IntN(5) {
		p.moves = append(p.moves, move{skip: addr.Host(1 + r.IntN(hosts-1)), abortOn: r.IntN(20), beside: r.IntN(10), lazy: r.IntN(4) == 0})
	}
	return p
}

func (m move) target(from addr.Host) addr.Host { return (from-1+m.skip)%hosts + 1 }

// drive lets one machine after the other live in a slot.
func (s *soak) drive(ctx context.Context, t *slot) {
	for generation := 0; ctx.Err() == nil; generation++ {
		p := newPlan(s.random(streamSlots + uint64(t.number)<<16 + uint64(generation)))
		name := fmt.Sprintf("m%d-%d", t.number, generation)
		t.mu.Lock()
		t.name, t.home = name, p.home
		t.mu.Unlock()
		l := life{soak: s, ctx: ctx, client: t.number, name: name, at: p.home, pause: p.pause}
		l.live(p)
	}
}

// life is a machine's life as its orchestrator sees it.
type life struct {
	*soak
	ctx    context.Context
	client int
	name   string
	at     addr.Host // where it is, as far as is known
	pause  time.Duration
}

// until calls the host until the answer is one of those wanted, or it has tried often enough.
func (l *life) until(in input, tries int, wanted ...result) (output, bool) {
	var out output
	for range tries {
		out, _ = l.call(l.ctx, l.client, l.name, in)
		for _, w := range wanted {
			if out.Result == w {
				return out, true
			}
		}
		if !l.rest() {
			break
		}
	}
	return out, false
}

// rest lets some time pass, and reports whether there is any left.
func (l *life) rest() bool {
	select {
	case <-l.ctx.Done():
		return false
	case <-time.After(50*time.Millisecond + l.pause):
		return true
	}
}

func (l *life) live(p plan) {
	if _, ok := l.until(input{Kind: opCreate, Host: p.home}, 100, done); !ok {
		return
	}
	l.until(input{Kind: opAttach, Host: p.home}, 3, done)
	for _, m := range p.moves {
		if !l.find() {
			return
		}
		l.move(m)
		if !l.rest() {
			return
		}
	}
	for l.find() {
		if _, ok := l.until(input{Kind: opDestroy, Host: l.at}, 3, done); ok {
			return
		}
		l.until(input{Kind: opAbort, Host: l.at}, 1)
	}
}

// find looks for the host that owns the machine. It may be destroyed, by somebody else.
func (l *life) find() bool {
	for range 15 {
		for n := range addr.Host(hosts) {
			h := (l.at-1+n)%hosts + 1
			if out, _ := l.call(l.ctx, l.client, l.name, input{Kind: opSee, Host: h}); out.Result == done {
				l.at = h
				return true
			}
		}
		if !l.rest() {
			return false
		}
	}
	return false
}

// move tries to move the machine; whatever comes of it, the next step goes on from there.
func (l *life) move(m move) {
	from, to := l.at, m.target(l.at)
	if _, ok := l.until(input{Kind: opBegin, Host: from, To: to}, 3, done); !ok {
		l.until(input{Kind: opFinish, Host: to}, 1) // of a move from there, perhaps
		l.until(input{Kind: opAbort, Host: from}, 3, done, failed)
		return
	}
	switch m.abortOn {
	case 1:
		l.until(input{Kind: opAbort, Host: from}, 3, done, failed)
	case 2:
		l.until(input{Kind: opAbort, Host: to}, 3, done, failed)
	}
	l.until(input{Kind: opAttach, Host: to}, 5, done, failed)
	var other sync.WaitGroup
	defer other.Wait()
	if m.beside < len(besides) {
		in := input{Kind: besides[m.beside], Host: from}
		if m.beside >= besidesAtTarget {
			in.Host = to
		}
		other.Go(func() { _, _ = l.call(l.ctx, l.client+100, l.name, in) })
	}
	out, _ := l.until(input{Kind: opSwitchover, Host: from}, 10, committed, aborted, failed)
	if out.Result != committed {
		l.until(input{Kind: opAbort, Host: from}, 5, done, failed)
		return
	}
	l.at = to
	if !m.lazy {
		l.until(input{Kind: opFinish, Host: from}, 5, done)
	}
}

// meddle interferes with machines that others have plans for.
func (s *soak) meddle(ctx context.Context, n int) {
	r := s.random(streamMeddlers + uint64(n))
	for {
		t := s.slots[r.IntN(len(s.slots))]
		in := input{Host: addr.Host(1 + r.IntN(hosts)), Kind: []kind{
			opSee, opSee, opSee, opBegin, opSwitchover, opSwitchover, opAbort, opAbort, opFinish, opFinish, opAttach, opDestroy, opCreate,
		}[r.IntN(13)]}
		in.To = (in.Host+addr.Host(r.IntN(hosts-1)))%hosts + 1
		wait := time.Duration(r.IntN(500)) * time.Millisecond
		name, home := t.now()
		switch in.Kind {
		case opCreate:
			in.Host, in.To = home, 0 // a name is unique in the fleet: that is the orchestrator's business
		case opBegin:
		default:
			in.To = 0
		}
		if name != "" {
			_, _ = s.call(ctx, slots+200+n, name, in)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}
