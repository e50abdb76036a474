package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
)

// issueFrom lets ids be issued from a block that this host leases. The caller holds mu.
func (m *Map) issueFrom(b Block) {
	if b.Home != m.Self.ID || b.Frozen || m.allocator.Leased(b.Block) {
		return
	}
	m.allocator.Lease(b.Block)
	for number, l := range m.local {
		if number.Block() == b.Block {
			m.account(l)
		}
	}
}

// account tells the allocator about one local machine. The caller holds mu.
func (m *Map) account(l Local) {
	switch l.State {
	case Free:
	case Quarantined:
		m.allocator.Quarantine(l.Machine, l.Until)
	default:
		m.allocator.Use(l.Machine)
	}
}

// lease gets this host another block whenever three quarters of its ids are in use, so that creating a machine does not
// wait for the store.
func (m *Map) lease(ctx context.Context) error {
	for {
		m.mu.Lock()
		wanted := m.allocator.Free()*4 <= m.allocator.Size()
		m.mu.Unlock()
		if wanted {
			if err := m.leaseBlock(ctx); err != nil {
				m.Logger.Warn("no further block leased", "error", err)
				if err := pause(ctx, retryPause); err != nil {
					return err
				}
				continue
			}
		}
		select {
		case <-m.leaseWanted:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leaseBlock claims the lowest block that nobody has. Errors: ErrUnavailable, ErrInDoubt (the next listing tells),
// addr.ErrExhausted.
func (m *Map) leaseBlock(ctx context.Context) error {
	for {
		entries, _, err := m.Fleet.List(ctx, blocksPrefix)
		if err != nil {
			return fmt.Errorf("list blocks: %w", err)
		}
		taken := make(map[addr.Block]bool, len(entries))
		for _, e := range entries {
			n, err := e.Key.number(blocksPrefix)
			if err != nil {
				return err
			}
			taken[addr.Block(n)] = true
		}
		b := Block{Home: m.Self.ID, Epoch: 1}
		for taken[b.Block] {
			b.Block++
		}
		if b.Block > addr.MaxBlock {
			return fmt.Errorf("%w: every block of cell %d is leased", addr.ErrExhausted, m.Cell)
		}
		key := blockKey(b.Block)
		revision, err := m.Fleet.Commit(ctx, Txn{If: []Condition{{Key: key}}, Then: []Write{{Key: key, Value: encode(b)}}})
		switch {
		case errors.Is(err, ErrConflict): // another host was faster
			continue
		case err != nil:
			return fmt.Errorf("lease block %d: %w", b.Block, err)
		}
		m.Logger.Info("block leased", "block", b.Block)
		m.mu.Lock()
		defer m.mu.Unlock()
		// The watch brings it too; ids are wanted now.
		return m.apply([]Entry{{Key: key, Value: encode(b), ModRevision: revision}})
	}
}
