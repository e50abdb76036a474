package hwmap

import (
	"context"
	"fmt"

	"ip6d/addr"
)

// stored is a machine's record as the store has it, and what a change of it is conditional on.
type stored struct {
	key    Entry
	block  Entry
	self   Entry    // this host's own record
	record *Machine // nil: there is none
}

// read reads a machine's record from the store, and not from the watch, which may be behind.
// Errors: ErrUnavailable, errMalformed.
func (m *Map) read(ctx context.Context, number addr.Machine) (stored, error) {
	s, _, err := m.readWith(ctx, number)
	return s, err
}

// readWith is read, and at the same revision reads the records of other hosts.
func (m *Map) readWith(ctx context.Context, number addr.Machine, others ...addr.Host) (stored, []Entry, error) {
	if err := m.mayMove(); err != nil {
		return stored{}, nil, err
	}
	keys := []Key{machineKey(number), blockKey(number.Block()), hostKey(m.Self.ID)}
	for _, h := range others {
		keys = append(keys, hostKey(h))
	}
	e, err := m.Fleet.Get(ctx, keys...)
	if err != nil {
		return stored{}, nil, err
	}
	r, err := optional[Machine](e[0])
	return stored{key: e[0], block: e[1], self: e[2], record: r}, e[3:], err
}

// replace makes r the machine's record; nil deletes it. The condition is that it is still as it was read, so whatever is on
// its way to the store on the same condition has lost when this has won; also adds others. Errors: those of Store.Commit.
func (m *Map) replace(ctx context.Context, s stored, r *Machine, also ...Condition) (Revision, error) {
	t := Txn{If: append([]Condition{s.unchanged()}, also...), Then: []Write{{Key: s.key.Key}}}
	if r != nil {
		t.Then[0].Value = encode(*r)
	}
	if s.record == nil {
		// The first key of a machine is bound to its block: one that changed hands refuses it.
		if err := m.checkBlock(s.block); err != nil {
			return 0, err
		}
		// And to this host: one that goes from the fleet must leave nothing that points at it.
		if _, err := m.mayOwn(s.self); err != nil {
			return 0, err
		}
		t.If = append(t.If, s.block.unchanged(), s.self.unchanged())
	}
	return m.Fleet.Commit(ctx, t)
}

// destroyed reports whether the record says that l, or a later owner, was destroyed.
func (s stored) destroyed(l Local) bool {
	return s.record != nil && s.record.Destroyed && s.record.Epoch >= l.Epoch
}

func (s stored) unchanged() Condition { return s.key.unchanged() }

// checkBlock compares a block's home and epoch with what this host knows. Errors: ErrState.
func (m *Map) checkBlock(e Entry) error {
	now, err := optional[Block](e)
	if err != nil || now == nil {
		return err // a block that has gone from the store is being published again
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	known := m.fleet.blocks[now.Block]
	if now.Home != known.Home || now.Epoch != known.Epoch {
		return fmt.Errorf("%w: block %d changed hands: it has home %d at epoch %d, known is home %d at epoch %d", ErrState, now.Block, now.Home, now.Epoch, known.Home, known.Epoch)
	}
	return nil
}

// owned is the record of l, which is on this host and going nowhere.
func (m *Map) owned(l Local) Machine {
	return Machine{Machine: l.Machine, Name: l.Name, Network: l.Network, Host: m.Self.ID, Epoch: l.Epoch}
}

// disputed returns an error that wraps ErrConflict when the store's record is not of this host's ownership at l.Epoch, nor
// of an earlier one: a lower epoch loses. Of the same epoch, destroyed is final: its home may have read it.
func (m *Map) disputed(l Local, r *Machine) error {
	switch {
	case r == nil || r.Epoch < l.Epoch:
		return nil
	case r.Epoch == l.Epoch && r.Host == m.Self.ID && !r.Destroyed:
		return nil
	case r.Destroyed:
		return fmt.Errorf("%w: the store has machine %d as destroyed at epoch %d", ErrConflict, l.Machine, r.Epoch)
	}
	return fmt.Errorf("%w: the store has machine %d on host %d at epoch %d, this host has it at epoch %d", ErrConflict, l.Machine, r.Host, r.Epoch, l.Epoch)
}

// publishDestroyed marks the machine's record as destroyed; an id that was never away from home has none, and needs none.
// Errors: ErrUnavailable, ErrInDoubt, ErrConflict: the machine is another host's.
func (m *Map) publishDestroyed(ctx context.Context, l Local) error {
	s, err := m.read(ctx, l.Machine)
	if err != nil {
		return err
	}
	home, err := m.isHome(l.Machine)
	if err != nil || s.record == nil && home {
		return err
	}
	if s.destroyed(l) {
		return nil
	}
	if err := m.disputed(l, s.record); err != nil {
		return err
	}
	r := m.owned(l)
	r.Destroyed = true
	_, err = m.replace(ctx, s, &r)
	return err
}
