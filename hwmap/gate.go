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

func (g *gate) check() error {
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
	return g.Store.Commit(ctx, t)
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
