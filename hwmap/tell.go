package hwmap

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// StoreWitness is what the fleet's store remembers of a host's truth. `alive` could not carry it: it goes with its lease, and
// who restores a file takes longer than that.
type StoreWitness struct {
	Mark
	Generation uint64 `json:"generation,omitempty"` // of the store, in which the host has published all that it knows
}

// witnessPause is how often the store is told at most. Hosts create machines all the time, and the store is to hear little
// of it: this much of the latest work only the witnesses on this host know.
const witnessPause = 5 * time.Second

// askStore asks the fleet's store, once since the daemon's start, what it knows of this host's truth. Errors: those of the
// stores.
func (m *Map) askStore(ctx context.Context) error {
	m.mu.Lock()
	settled := m.standalone || m.vouched || m.database.Suspect != ""
	id := m.database.ID
	m.mu.Unlock()
	if settled {
		return nil
	}
	e, err := m.Fleet.Get(ctx, witnessKey(m.Self.ID))
	if err != nil {
		return fmt.Errorf("read the witness of this host's database: %w", err)
	}
	seen, err := optional[StoreWitness](e[0])
	if err != nil {
		return err
	}
	reason := ""
	if !m.known && (seen == nil || seen.ID != id) { // else an earlier first start came that far, and no further
		id = DatabaseID{} // it has one for a moment
	}
	if seen != nil {
		reason = seen.against(id, m.opened, fleetStore)
	}
	if reason == "" && !m.known {
		if reason, err = m.unknownLeases(ctx); err != nil {
			return err
		}
	}
	if reason != "" {
		return m.suspectDatabase(ctx, reason)
	}
	m.mu.Lock()
	m.vouched = true
	m.mu.Unlock()
	wish(m.truth.grown)
	return nil
}

// unknownLeases says which blocks this host leases by the store, while its truth is new.
func (m *Map) unknownLeases(ctx context.Context) (string, error) {
	entries, _, err := m.Fleet.List(ctx, blocksPrefix)
	if err != nil {
		return "", fmt.Errorf("list blocks: %w", err)
	}
	for _, e := range entries {
		if b, err := decode[Block](e); err == nil && b.Home == m.Self.ID {
			return fmt.Sprintf("it is new, and this host leased block %d from the fleet's store", b.Block), nil
		}
	}
	return "", nil
}

// tellStore keeps the fleet's store told how far the truth has come.
func (m *Map) tellStore(ctx context.Context) error {
	var trouble backoff
	for {
		select {
		case <-m.truth.grown:
		case <-ctx.Done():
			return ctx.Err()
		}
		if m.standalone {
			continue
		}
		err := m.writeStoreWitness(ctx)
		switch {
		case err == nil:
			trouble.over()
		case ctx.Err() == nil && !errors.Is(err, ErrConflict):
			trouble.tell(m.Logger, "the store is not told of this host's commits, trying again", err)
			wish(m.truth.grown)
		}
		if err := pause(ctx, witnessPause); err != nil {
			return err
		}
	}
}

// writeStoreWitness tells the store how far the truth has come. What it knows by then can only be from here: else a copy of
// the truth is in use somewhere.
func (m *Map) writeStoreWitness(ctx context.Context) error {
	m.mu.Lock()
	vouched := m.vouched && m.database.Suspect == ""
	m.mu.Unlock()
	if !vouched {
		return nil
	}
	e, err := m.Fleet.Get(ctx, witnessKey(m.Self.ID), hostKey(m.Self.ID))
	if err != nil {
		return err
	}
	mark := m.truth.now() // after what the store was told: another task of this daemon may have told it, see confirm
	if mark.ID == (DatabaseID{}) {
		return nil
	}
	seen, err := optional[StoreWitness](e[0])
	if err != nil {
		return err
	}
	if seen != nil {
		if reason := seen.against(mark.ID, mark.Count, fleetStore); reason != "" {
			return m.suspectDatabase(ctx, reason)
		}
		if seen.Mark == mark {
			return nil
		}
	}
	return m.putStoreWitness(ctx, e[0], e[1], mark)
}

// putStoreWitness replaces the witness, now, while this host's own record is as it was read: a host that was removed leaves
// nothing behind.
func (m *Map) putStoreWitness(ctx context.Context, now, self Entry, mark Mark) error {
	if _, err := m.readMember(self); err != nil {
		return err
	}
	_, err := m.Fleet.Commit(ctx, Txn{
		If:   []Condition{now.unchanged(), self.unchanged()},
		Then: []Write{{Key: now.Key, Value: encode(StoreWitness{mark, m.knownStore().Generation})}},
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.fleet.known.Told = mark
	known := m.fleet.known
	m.mu.Unlock()
	return m.cache(ctx, nil, Write{Key: knownStoreKey, Value: encode(known)})
}

// beginStoreWitness has the store know of a new line of commits, whatever it knew before.
func (m *Map) beginStoreWitness(ctx context.Context, mark Mark) error {
	if m.standalone {
		return nil
	}
	for {
		e, err := m.Fleet.Get(ctx, witnessKey(m.Self.ID), hostKey(m.Self.ID))
		if err == nil {
			err = m.putStoreWitness(ctx, e[0], e[1], mark)
		}
		if err == nil {
			m.mu.Lock()
			m.vouched = true
			m.mu.Unlock()
			return nil
		}
		if !errors.Is(err, ErrConflict) {
			return fmt.Errorf("begin the witness of the database in the fleet's store: %w", err)
		}
	}
}
