package hwmap

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"ip6d/addr"
)

// EventsOptions say what WatchEvents is to tell.
type EventsOptions struct {
	After    string        // the token to go on from; empty: from the earliest event since which none is missing
	Snapshot bool          // first the present state, instead of After
	Follow   bool          // go on with what happens; else end with what has happened
	Idle     time.Duration // how long to be silent at most; 0: for ever
}

// WatchEvents calls f with what happened to the machines of this host and to the fleet's hosts, in the order in which it
// became durable. After the token that comes with an event, or with nil, one can go on later, also after the daemon has
// started again: nothing is then left out or told twice. An event without a token is part of a snapshot; the snapshot is
// whole with the first token. nil comes when f has been told all there is, and then now and then.
//
// It reads the history as fast as f takes it, and keeps nobody waiting.
//
// Errors: ErrUsage (the token is none), ErrExpired, ErrUnavailable, those of f and of ctx.
func (m *Map) WatchEvents(ctx context.Context, o EventsOptions, f func(e *Event, token string) error) error {
	w := watcher{m: m, f: f}
	var err error
	if w.at, err = m.position(o.After); err != nil {
		return err
	}
	if o.Snapshot {
		err = w.snapshot()
	}
	for err == nil {
		var more <-chan struct{}
		if more, err = w.readOn(ctx); err != nil || more == nil {
			continue
		}
		if w.token() != "" { // else a snapshot waits for what is being written
			if err = f(nil, w.token()); err != nil || !o.Follow {
				return err
			}
		}
		err = w.wait(ctx, more, o.Idle)
	}
	return err
}

// position returns the number of the event that a token was given with. Errors: ErrUsage, ErrExpired.
func (m *Map) position(token string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := &m.history
	if token == "" {
		return h.floor, nil
	}
	_, number, _ := strings.Cut(token, ".")
	n, err := strconv.ParseUint(number, 10, 64)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w: %.80q is no token of an event", ErrUsage, token)
	case token != m.token(n) || n > h.durable:
		return 0, fmt.Errorf("%w: %s is of another database than this host has now; begin anew, with a snapshot", ErrExpired, token)
	}
	return n, m.kept(n)
}

// kept returns an error that wraps ErrExpired when events after number n have been pruned. The caller holds mu.
func (m *Map) kept(n uint64) error {
	if n < m.history.floor {
		return fmt.Errorf("%w: events after %s are not kept any more; begin anew, with a snapshot", ErrExpired, m.token(n))
	}
	return nil
}

// token is the token of event number n of this database. A copy that was accepted is another one: its events are others. The
// caller holds mu.
func (m *Map) token(n uint64) string { return fmt.Sprintf("%x.%d", m.database.ID[:6], n) }

// watcher is one who watches events.
type watcher struct {
	m  *Map
	f  func(*Event, string) error
	at uint64 // the event that was told last

	// What the snapshot has in it: events of machines and hosts up to these.
	machines map[addr.Machine]uint64
	hosts    map[addr.Host]uint64
	whole    uint64 // the snapshot is, once at has come here
}

// snapshot tells the present state. Some of it may have come after what is not decided yet: that is told next, and with it
// the snapshot is that of one moment.
func (w *watcher) snapshot() error {
	m := w.m
	m.mu.Lock()
	h, now := &m.history, m.Now().UTC()
	w.at, w.whole = h.durable, h.durable
	w.machines, w.hosts = make(map[addr.Machine]uint64), make(map[addr.Host]uint64)
	for number, events := range h.machines {
		if last := events[len(events)-1]; last > w.at {
			w.machines[number], w.whole = last, max(w.whole, last)
		}
	}
	var events []*Event
	for _, id := range slices.Sorted(maps.Keys(h.hosts)) {
		w.hosts[id], w.whole = h.hosts[id].seq, max(w.whole, h.hosts[id].seq)
		events = append(events, &Event{Time: now, Kind: EventPresent, Host: id, HostState: h.hosts[id].state})
	}
	for _, number := range slices.Sorted(maps.Keys(m.local)) {
		if l := m.local[number]; l.holdsName() && l.State != Issued {
			events = append(events, &Event{
				Time: now, Kind: EventPresent, Machine: number, Name: l.Name, Network: l.Network, Epoch: l.Epoch,
				To: l.State, Peer: l.Peer, Port: l.Port,
			})
		}
	}
	m.mu.Unlock()
	for _, e := range events {
		if err := w.f(e, ""); err != nil {
			return err
		}
	}
	return nil
}

// readOn tells the next events. Where there are none, it returns what is closed when there are.
func (w *watcher) readOn(ctx context.Context) (<-chan struct{}, error) {
	m := w.m
	m.mu.Lock()
	last := min(w.at+historyBatch, m.history.durable)
	if last <= w.at {
		defer m.mu.Unlock()
		if m.history.grown == nil {
			m.history.grown = make(chan struct{})
		}
		return m.history.grown, nil
	}
	m.mu.Unlock()
	events, err := m.readEvents(ctx, span(w.at+1, last))
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	err = m.kept(w.at) // what was pruned meanwhile was not read
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		w.at = e.Seq
		if e.Kind == eventAnswered || w.has(e) {
			continue
		}
		if err := w.f(e, w.token()); err != nil {
			return nil, err
		}
	}
	w.at = last
	return nil, nil
}

// has reports whether the snapshot has it in it.
func (w *watcher) has(e *Event) bool {
	if e.Kind == EventHost {
		return e.Seq <= w.hosts[e.Host]
	}
	return e.Seq <= w.machines[e.Machine]
}

// token is where one can go on from; empty while the snapshot is not whole.
func (w *watcher) token() string {
	if w.at < w.whole {
		return ""
	}
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	return w.m.token(w.at)
}

// wait waits for more, or until it is time to say something.
func (w *watcher) wait(ctx context.Context, more <-chan struct{}, idle time.Duration) error {
	var silent <-chan time.Time
	if idle > 0 {
		t := time.NewTimer(idle)
		defer t.Stop()
		silent = t.C
	}
	select {
	case <-more:
	case <-silent:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
