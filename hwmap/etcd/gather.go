package etcd

import (
	"context"
	"errors"
	"sync"

	"ip6d/hwmap"
)

// Reads that come while others are on their way wait, and go together: what a linearizable read costs etcd is the call, not
// the keys. A read still begins after it was asked for, so it is as new as one that goes alone.

const (
	readsAtOnce = 2  // before others wait
	maxGathered = 16 // keys of a read that waits for others; a larger one is worth a call of its own
)

// gatherer has reads wait for each other. The zero value is ready.
type gatherer struct {
	mu   sync.Mutex // guards all below
	busy int        // reads on their way
	next *gathering // those that wait; nil: none
}

// gathering is reads that go together.
type gathering struct {
	keys []hwmap.Key

	// Written before done is closed.
	entries []hwmap.Entry
	err     error
	done    chan struct{}
}

// gather is get, together with other reads where there are many.
func (s *Store) gather(ctx context.Context, keys []hwmap.Key) ([]hwmap.Entry, error) {
	g, at := s.reads.join(keys)
	if g == nil {
		defer s.readOn()
		return s.get(ctx, keys)
	}
	waiting, cancel := context.WithTimeout(ctx, s.o.CallTimeout)
	defer cancel()
	select {
	case <-g.done:
	case <-waiting.Done():
		return nil, s.unavailable(ctx, "get", waiting.Err())
	}
	if _, denied := errors.AsType[*deniedError](g.err); denied { // for the sake of another's key, perhaps
		return s.get(ctx, keys)
	}
	if g.err != nil {
		return nil, g.err
	}
	return g.entries[at : at+len(keys) : at+len(keys)], nil
}

// join returns what the keys will be read with, and where they are in it; nil when they are to be read at once. Who does that
// calls readOn then.
func (r *gatherer) join(keys []hwmap.Key) (g *gathering, at int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	full := r.next != nil && len(r.next.keys)+len(keys) > maxOps
	if r.busy < readsAtOnce || len(keys) > maxGathered || full {
		r.busy++
		return nil, 0
	}
	if r.next == nil {
		r.next = &gathering{done: make(chan struct{})}
	}
	g, at = r.next, len(r.next.keys)
	g.keys = append(g.keys, keys...)
	return g, at
}

// readOn ends a read, and sends those that wait.
func (s *Store) readOn() {
	r := &s.reads
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.next
	if r.next = nil; g == nil {
		r.busy--
		return
	}
	go func() { // until CallTimeout at the latest
		g.entries, g.err = s.get(context.Background(), g.keys)
		close(g.done)
		s.readOn()
	}()
}
