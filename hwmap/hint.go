package hwmap

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"ip6d/addr"
)

// hint tells a host to read a machine's record now instead of when its watch says so. Nothing depends on its arrival.
type hint struct {
	to      addr.Host
	machine addr.Machine
}

const (
	hintTimeout = 5 * time.Second
	hintsAtOnce = 16
)

// deliverHints delivers hints until ctx ends. A host that does not answer holds up no other.
func (m *Map) deliverHints(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(hintsAtOnce)
	defer g.Wait() //nolint:errcheck // they return none
	for {
		h, err := m.hints.take(ctx)
		if err != nil {
			return err
		}
		to, err := m.host(h.to)
		if err != nil {
			continue
		}
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, hintTimeout)
			defer cancel()
			if err := m.Peers.Reread(ctx, to, h.machine); err != nil {
				m.Logger.Debug("hint not delivered", "host", h.to, "machine", h.machine, "error", err)
			}
			return nil
		})
	}
}
