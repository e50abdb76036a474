package hwmap

import (
	"context"
	"sync"

	"ip6d/addr"
)

// keyedLocks is a lock for each machine. The zero value is ready.
type keyedLocks struct {
	mu   sync.Mutex // guards held
	held map[addr.Machine]chan struct{}
}

// lock waits for the machine's lock and returns how to release it, or ctx's error.
func (k *keyedLocks) lock(ctx context.Context, m addr.Machine) (unlock func(), err error) {
	for {
		k.mu.Lock()
		released, busy := k.held[m]
		if !busy {
			released = make(chan struct{})
			if k.held == nil {
				k.held = make(map[addr.Machine]chan struct{})
			}
			k.held[m] = released
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				defer k.mu.Unlock()
				delete(k.held, m)
				close(released)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-released:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// queue is a set of machines that somebody has to look at. The zero value is empty, and ready.
type queue struct {
	mu     sync.Mutex // guards wanted and wake
	wanted map[addr.Machine]struct{}
	wake   chan struct{}
}

// add puts machines in.
func (q *queue) add(machines ...addr.Machine) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.wanted == nil {
		q.wanted = make(map[addr.Machine]struct{})
	}
	for _, m := range machines {
		q.wanted[m] = struct{}{}
	}
	wish(q.waker())
}

// take waits until there are machines and takes them all, or returns ctx's error.
func (q *queue) take(ctx context.Context) ([]addr.Machine, error) {
	for {
		q.mu.Lock()
		var all []addr.Machine
		for m := range q.wanted {
			all = append(all, m)
		}
		clear(q.wanted)
		wake := q.waker()
		q.mu.Unlock()
		if len(all) > 0 {
			return all, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *queue) waker() chan struct{} {
	if q.wake == nil {
		q.wake = make(chan struct{}, 1)
	}
	return q.wake
}
