package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
)

// issueFrom lets ids be issued from a block that this host leases, once it knows what ids are in use and the quarantine of
// all is over; and from no other. The caller holds mu.
func (m *Map) issueFrom(b Block) {
	delete(m.waiting, b.Block)
	switch {
	case b.Home != m.Self.ID || b.Frozen:
		m.allocator.Drop(b.Block)
	case !m.isComplete(b) || m.Now().Before(b.IssueAfter):
		m.allocator.Drop(b.Block)
		m.waiting[b.Block] = struct{}{}
	case len(m.fleet.pending) > 0 && !m.allocator.Leased(b.Block): // its ids may be another host's, which has not said so yet
		m.waiting[b.Block] = struct{}{}
	case !m.allocator.Leased(b.Block):
		m.allocator.Lease(b.Block)
		m.truth.leased(b.Block)
		for number, l := range m.local {
			if number.Block() == b.Block {
				m.account(l)
			}
		}
	}
}

// issueFromWaiting lets ids be issued from the blocks that have waited for it long enough.
func (m *Map) issueFromWaiting() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for block := range m.waiting {
		if b, known := m.fleet.blocks[block]; known {
			m.issueFrom(b)
		}
	}
}

// account tells the allocator about one local machine. An id in quarantine counts as in use: it is free only when its
// record is gone from the store too. The caller holds mu.
func (m *Map) account(l Local) {
	if l.State == Free {
		m.allocator.Cancel(l.Machine)
	} else {
		m.allocator.Use(l.Machine)
	}
}

// keepBlocks gets this host another block whenever three quarters of its ids are in use, so that creating a machine does
// not wait for the store; but none while it takes no machines. A block of this host whose record has gone from the store is
// published again.
func (m *Map) keepBlocks(ctx context.Context) error {
	var trouble backoff
	for {
		err := m.republishBlocks(ctx)
		wanted := m.wantsBlock()
		if wanted {
			err = errors.Join(err, m.leaseBlock(ctx))
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			trouble.tell(m.Logger, "blocks not kept, trying again", err)
			if err := trouble.pause(ctx); err != nil {
				return err
			}
			continue
		case wanted:
			continue // until they suffice
		}
		trouble.over()
		select {
		case <-m.leaseWanted:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Map) wantsBlock() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state == Joined && m.believes() == nil && len(m.fleet.pending) == 0 && m.allocator.Free()*4 <= m.allocator.Size()
}

// leaseBlock claims the lowest block that nobody has, if another one is wanted. Errors: ErrUnavailable, ErrInDoubt (the next call finds out),
// addr.ErrExhausted, nat.ErrFull.
func (m *Map) leaseBlock(ctx context.Context) error {
	for {
		self, err := m.Fleet.Get(ctx, hostKey(m.Self.ID))
		if err != nil {
			return err
		}
		h, err := m.mayOwn(self[0])
		if err != nil {
			return err
		}
		entries, _, err := m.Fleet.List(ctx, blocksPrefix)
		if err != nil {
			return fmt.Errorf("list blocks: %w", err)
		}
		if err := m.recognise(entries); err != nil {
			return err
		}
		if !m.wantsBlock() {
			return nil
		}
		if h.State != Joined {
			return fmt.Errorf("%w: this host is %s, and leases no block", ErrState, h.State)
		}
		b := Block{Block: m.lowestFree(entries), Home: m.Self.ID, Epoch: 1}
		if b.Block > addr.MaxBlock {
			return fmt.Errorf("%w: every block of cell %d is leased", addr.ErrExhausted, m.Cell)
		}
		key := blockKey(b.Block)
		revision, err := m.Fleet.Commit(ctx, Txn{
			If:   []Condition{{Key: key}, self[0].unchanged()},
			Then: []Write{{Key: key, Value: encode(b)}},
		})
		switch {
		case errors.Is(err, ErrConflict): // another host was faster, or an operator had his say about this one
			continue
		case err != nil:
			return fmt.Errorf("lease block %d: %w", b.Block, err)
		}
		m.Logger.Info("block leased", "block", b.Block)
		// The watch brings it too; ids are wanted now.
		return m.recognise([]Entry{{Key: key, Value: encode(b), ModRevision: revision}})
	}
}

// recognise applies what was leased for this host with an outcome unknown at the time, or could not be applied then. Its
// error means that there is a block which cannot be used yet: another one could not either.
func (m *Map) recognise(entries []Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		b, err := decode[Block](e)
		if err != nil || b.Home != m.Self.ID || b.Frozen || m.allocator.Leased(b.Block) {
			continue
		}
		if err := m.apply([]Entry{e}); err != nil {
			return fmt.Errorf("take block %d: %w", b.Block, err)
		}
	}
	return nil
}

// lowestFree returns the lowest block that nobody has. Standalone, blocks are left out that may have been leased by a
// database that this one is a copy of.
func (m *Map) lowestFree(blocks []Entry) addr.Block {
	taken := make(map[Key]bool, len(blocks))
	for _, e := range blocks {
		taken[e.Key] = true
	}
	m.mu.Lock()
	b := m.database.FirstBlock
	m.mu.Unlock()
	for taken[blockKey(b)] {
		b++
	}
	return b
}

// republishBlocks writes the records of this host's blocks that have gone from the store: a missing record frees nothing.
func (m *Map) republishBlocks(ctx context.Context) error {
	m.mu.Lock()
	var lost []Block
	for b := range m.fleet.lost {
		lost = append(lost, m.fleet.blocks[b])
	}
	m.mu.Unlock()
	if len(lost) == 0 {
		return nil
	}
	self, err := m.Fleet.Get(ctx, hostKey(m.Self.ID))
	if err == nil {
		_, err = m.mayOwn(self[0])
	}
	if err != nil {
		return fmt.Errorf("publish blocks again: %w", err)
	}
	for _, b := range lost {
		key := blockKey(b.Block)
		_, err := m.Fleet.Commit(ctx, Txn{
			If:   []Condition{{Key: key}, self[0].unchanged()},
			Then: []Write{{Key: key, Value: encode(b)}},
		})
		if err != nil { // a conflict too: where somebody wrote it, the watch tells what
			return fmt.Errorf("publish block %d again: %w", b.Block, err)
		}
		m.Logger.Warn("the record of this host's block had gone from the store", "block", b.Block)
		m.mu.Lock()
		delete(m.fleet.lost, b.Block)
		m.mu.Unlock()
	}
	return nil
}
