package nat

import (
	"sync"
	"sync/atomic"
)

// Feed hands events on to those who follow them. One who is slow misses events, and holds up nobody. The zero value has no
// followers, and is ready.
type Feed struct {
	mu        sync.Mutex // guards followers
	followers map[*Follower]struct{}
}

// Follower gets the events that it wants.
type Follower struct {
	feed   *Feed
	wants  func(Event) bool
	events chan Event
	missed atomic.Uint64
}

// Follow begins to hand on the events that wants is true of, which must be quick to tell. At most queue events wait for
// the follower. It has to be closed.
func (f *Feed) Follow(queue int, wants func(Event) bool) *Follower {
	w := &Follower{feed: f, wants: wants, events: make(chan Event, queue)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.followers == nil {
		f.followers = make(map[*Follower]struct{})
	}
	f.followers[w] = struct{}{}
	return w
}

// Publish hands e on, without waiting for anybody.
func (f *Feed) Publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.followers {
		if !w.wants(e) {
			continue
		}
		select {
		case w.events <- e:
		default:
			w.missed.Add(1)
		}
	}
}

// Events are what the follower takes events from. It is never closed.
func (w *Follower) Events() <-chan Event { return w.events }

// Missed returns how many events the follower was too slow for, since it was asked last.
func (w *Follower) Missed() uint64 { return w.missed.Swap(0) }

// Close ends the following.
func (w *Follower) Close() {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	delete(w.feed.followers, w)
}
