package hwmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"ip6d/addr"
)

// A home has a Local of every machine of its blocks, which is how it knows what ids are in use, and what epochs they had. Of
// a block that it leased it has made them itself. Of one that it was given, by the home before or by an operator's word
// that this is dead, it makes them from the records in the store. Only then is anything issued.

// keepHomes makes this host what it is to be for the blocks that it was given, and for those that it gave away, until ctx ends.
func (m *Map) keepHomes(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			block, err := m.changedHome.take(ctx)
			if err != nil {
				return err
			}
			if err := m.keepHome(ctx, block); err != nil && ctx.Err() == nil {
				wait, back := unfollowedPause, m.whenFollowed()
				if back == nil { // else follow has told it
					wait = retryPause
					m.Logger.Warn("block not taken over, trying again", "block", block, "error", err)
				}
				g.Go(func() error {
					defer m.changedHome.add(block)
					return pauseOr(ctx, wait, back)
				})
			}
		}
	})
	return g.Wait()
}

func (m *Map) keepHome(ctx context.Context, block addr.Block) error {
	unlock, err := m.lockBlock(ctx, block)
	if err != nil {
		return err
	}
	defer unlock()
	if m.trusted() != nil { // who accepts it has all of them kept
		return nil
	}
	// Not by the view: the cache may be old, and what is erased is gone.
	e, err := m.Fleet.Get(ctx, blockKey(block))
	if err != nil {
		return err
	}
	b, err := optional[Block](e[0])
	switch {
	case errors.Is(err, errMalformed):
		m.Logger.Error("record left alone", "error", err)
		return nil
	case err != nil:
		return err
	case b == nil: // gone from the store, which frees nothing
		return nil
	case b.Home != m.Self.ID:
		return m.eraseLeft(ctx, block)
	}
	return m.inherit(ctx, *b)
}

// inherit makes the Locals of a block that this host was given. What this host knows of a machine already, it knows better.
// The caller holds the block's lock.
func (m *Map) inherit(ctx context.Context, b Block) error {
	m.mu.Lock()
	complete := m.isComplete(b)
	m.mu.Unlock()
	if complete {
		return nil
	}
	records, err := m.readBlock(ctx, b.Block)
	if err != nil {
		return err
	}
	writes := []Write{{Key: homeKey(b.Block), Value: encode(b.Epoch)}}
	var made []Local
	m.mu.Lock()
	for number, r := range records {
		if _, known := m.local[number]; !known {
			l := m.inherited(*r)
			made = append(made, l)
			writes = append(writes, Write{Key: localKey(number), Value: encode(l)})
		}
	}
	m.mu.Unlock()
	err = m.writeTruth(ctx, writes, func() {
		m.complete[b.Block] = b.Epoch
		for _, l := range made {
			m.remember(l)
		}
		if now := m.fleet.blocks[b.Block]; now == b {
			m.issueFrom(b)
		}
	})
	if err != nil {
		return err
	}
	for _, l := range made {
		m.unsettled.add(l.Machine) // the record may have changed meanwhile
	}
	m.Logger.Info("block taken over", "block", b.Block, "machines", len(made))
	return nil
}

// inherited is what a home has of a machine whose record is all that it knows.
func (m *Map) inherited(r Machine) Local {
	if r.Destroyed {
		return Local{Machine: r.Machine, Epoch: r.Epoch, State: Quarantined, Until: m.Now().Add(m.Quarantine)}
	}
	return Local{Machine: r.Machine, Name: r.Name, Network: r.Network, Epoch: r.Epoch, State: Issued}
}

// settleUnknown takes in a record of a machine of which this host, its home, knows nothing: it came after the block.
func (m *Map) settleUnknown(ctx context.Context, number addr.Machine) error {
	if home, err := m.isHome(number); err != nil || !home {
		return err
	}
	s, err := m.read(ctx, number)
	if err != nil || s.record == nil {
		return err
	}
	l := m.inherited(*s.record)
	m.Logger.Info("machine of a block of this host taken in", "machine", number, "name", l.Name, "host", s.record.Host)
	return m.record(ctx, l)
}

// isComplete reports whether this host has a Local of every machine of its block. The caller holds mu.
func (m *Map) isComplete(b Block) bool {
	return b.Epoch <= firstEpoch || m.complete[b.Block] == b.Epoch
}

// firstEpoch is that of a block which was leased, and never given: nobody else has ever issued an id of it.
const firstEpoch = 1

// restoreHomes reads for which blocks the Locals are complete.
func (m *Map) restoreHomes(ctx context.Context) error {
	entries, _, err := m.Truth.List(ctx, homesPrefix)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		n, err := e.Key.number(homesPrefix)
		if err == nil {
			m.complete[addr.Block(n)], err = decode[uint64](e)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	for _, b := range m.fleet.blocks {
		if b.Home == m.Self.ID {
			m.issueFrom(b) // the cache was restored before this host's own database
		}
	}
	return nil
}

// unkeptHomes returns the blocks for which keepHome has something to do: this host stopped, or fell behind, when it was given
// them or they were handed over.
func (m *Map) unkeptHomes() []addr.Block {
	m.mu.Lock()
	defer m.mu.Unlock()
	left := make(map[addr.Block]struct{})
	for _, b := range m.fleet.blocks {
		if b.Home == m.Self.ID && !m.isComplete(b) {
			left[b.Block] = struct{}{}
		}
	}
	look := func(block addr.Block) {
		if b, known := m.fleet.blocks[block]; known && b.Home != m.Self.ID {
			left[block] = struct{}{}
		}
	}
	for block := range m.complete {
		look(block)
	}
	for number, l := range m.local {
		if l.isHomes() {
			look(number.Block())
		}
	}
	return slices.Collect(maps.Keys(left))
}

// isHomes reports whether l is what only its home has to know.
func (l Local) isHomes() bool {
	return l.State == Issued || l.State == Quarantined || l.State == Free
}
