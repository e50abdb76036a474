package hwmap

import (
	"context"
	"sync"
)

// keyedLocks is a lock for each key. The zero value is ready.
type keyedLocks[K comparable] struct {
	mu   sync.Mutex // guards held
	held map[K]chan struct{}
}

// lock waits for the lock of k and returns how to release it, or ctx's error.
func (l *keyedLocks[K]) lock(ctx context.Context, k K) (unlock func(), err error) {
	for {
		l.mu.Lock()
		released, busy := l.held[k]
		if !busy {
			released = make(chan struct{})
			if l.held == nil {
				l.held = make(map[K]chan struct{})
			}
			l.held[k] = released
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.held, k)
				close(released)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-released:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// queue is a set of things to do, for any number of workers. The zero value is empty, and ready.
type queue[K comparable] struct {
	mu     sync.Mutex // guards wanted and wake
	wanted map[K]struct{}
	wake   chan struct{} // holds a wish while wanted is not empty and nobody is known to look
}

// add puts ks in; one that waits already is not put in twice.
func (q *queue[K]) add(ks ...K) {
	if len(ks) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.wanted == nil {
		q.wanted = make(map[K]struct{})
	}
	for _, k := range ks {
		q.wanted[k] = struct{}{}
	}
	wish(q.waker())
}

// len is how many wait.
func (q *queue[K]) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.wanted)
}

// take waits until there is one and takes it, or returns ctx's error.
func (q *queue[K]) take(ctx context.Context) (K, error) {
	for {
		q.mu.Lock()
		for k := range q.wanted {
			delete(q.wanted, k)
			if len(q.wanted) > 0 {
				wish(q.waker()) // for the next worker
			}
			q.mu.Unlock()
			return k, nil
		}
		wake := q.waker()
		q.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			var none K
			return none, ctx.Err()
		}
	}
}

func (q *queue[K]) waker() chan struct{} {
	if q.wake == nil {
		q.wake = make(chan struct{}, 1)
	}
	return q.wake
}

// wish asks for something once, however often it is called before the wish is taken.
func wish(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
