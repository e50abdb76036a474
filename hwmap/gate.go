package hwmap

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// gate is the fleet's store as this host may use it. It always reads, and it writes only after the host has joined: one
// that disagrees with the store's meta, or whose id another server claimed, writes nothing.
type gate struct {
	Store
	mu     sync.Mutex    // guards all below
	why    error         // nothing is written for this reason; nil: open
	closed chan struct{} // closed when the gate is; nil while it has not been open

	suspect     error  // nothing is read either for this reason; nil: it is believed
	contradicts string // what the store said that contradicts what it said before, while it was the same one
}

var errNotJoined = errors.New("this host has not joined the fleet since it started")

// set opens the gate, or closes it for that reason.
func (g *gate) set(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.why != nil && why == nil:
		g.closed = make(chan struct{})
	case g.why == nil && why != nil:
		close(g.closed)
	}
	g.why = why
}

// joined reports whether the host has joined since its start, and was not refused since.
func (g *gate) joined() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why == nil
}

// distrust closes the gate for reading, too: what a store says that was restored is of no use.
func (g *gate) distrust(why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.suspect = why
}

// trust opens the gate again as far as it was.
func (g *gate) trust() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.suspect, g.contradicts = nil, ""
}

// note keeps that the store contradicted itself.
func (g *gate) note(err error) {
	if !errors.Is(err, ErrRestored) {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !errors.Is(err, ErrOtherStore) { // which is told by its id, and gone when the right one is back
		g.contradicts = err.Error()
	}
	if g.suspect == nil {
		g.suspect = err // until it is judged
	}
}

// contradiction returns what was noted.
func (g *gate) contradiction() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.contradicts
}

// believed returns an error where the store is suspect.
func (g *gate) believed() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.suspect == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, g.suspect)
}

func (g *gate) check() error {
	if err := g.believed(); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.why == nil {
		return nil
	}
	// The reason is text here: what it wraps is about joining, not about what was to be written.
	return fmt.Errorf("%w for writing: %v", ErrUnavailable, g.why)
}

func (g *gate) Commit(ctx context.Context, t Txn) (Revision, error) {
	if err := g.check(); err != nil {
		return 0, err
	}
	r, err := g.Store.Commit(ctx, t)
	g.note(err)
	return r, err
}

// Get and List look twice whether the store is believed: it may have become suspect while it answered.

func (g *gate) Get(ctx context.Context, keys ...Key) ([]Entry, error) {
	if err := g.believed(); err != nil {
		return nil, err
	}
	entries, err := g.Store.Get(ctx, keys...)
	g.note(err)
	if err == nil {
		err = g.believed()
	}
	return entries, err
}

func (g *gate) List(ctx context.Context, prefix Key) ([]Entry, Revision, error) {
	if err := g.believed(); err != nil {
		return nil, 0, err
	}
	entries, revision, err := g.Store.List(ctx, prefix)
	g.note(err)
	if err == nil {
		err = g.believed()
	}
	return entries, revision, err
}

func (g *gate) Watch(ctx context.Context, prefix Key, after Revision, f func(Batch) error) error {
	if err := g.believed(); err != nil {
		return err
	}
	err := g.Store.Watch(ctx, prefix, after, f)
	g.note(err)
	return err
}

func (g *gate) Hold(ctx context.Context, key Key, value []byte, ttl time.Duration) error {
	if err := g.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	go func() { // a host that is no member any more holds no key either
		select {
		case <-closed:
			cancel()
		case <-ctx.Done():
		}
	}()
	return g.Store.Hold(ctx, key, value, ttl)
}
