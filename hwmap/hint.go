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

	// How many packets that went astray are told of in a second, and how many wait for being told of.
	astrayRate     = 20
	maxAstrayHints = 64
)

// Astray tells a host that it sent a packet here for a machine that is not here, so that what it knows of that machine may
// be old. It does so soon, at a limited rate, and only if the host is one of the fleet's; the caller is never kept waiting.
func (m *Map) Astray(from addr.Host, id addr.ID) {
	if _, err := m.host(from); err != nil || from == m.Self.ID || id.Cell != m.Cell {
		return
	}
	// The next packet that goes astray is told of again.
	if m.hints.len() < maxAstrayHints && m.astray.Allow() {
		m.hints.add(hint{from, id.Machine})
	}
}

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
				return nil
			}
			m.hintsSent.Add(1)
			return nil
		})
	}
}
