package hwmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"ip6d/addr"
)

// A host that was declared dead carries nothing: other hosts may have its machines by now. It is told by its own record:
// it closes the datapath with one write, and remembers that in its truth; a later start without the store stays closed. Then it
// says so in its record, without which it cannot be revived. When it has been, it compares each of its machines with the store, gives up those that others own, and opens the datapath again.

// fenceKey is the key of the truth's fenceRecord.
const fenceKey Key = "fence"

// fenceRecord is what a host knows of its own deaths.
type fenceRecord struct {
	Fenced bool `json:"fenced,omitempty"` // it was declared dead, and has not taken up its machines since
}

// fence is a fenceRecord in memory, and the order in which it changes.
type fence struct {
	changing keyedLocks[struct{}]      // guards closed; who changes anything here holds it, across calls to stores
	closed   bool                      // kernel and truth both say that it is fenced
	wanted   chan struct{}             // asks for a look whether this host was revived; holds one wish
	is       fenceRecord               // guarded by Map.mu
	silenced map[addr.Machine]struct{} // the machines that are; guarded by Map.mu
}

func (f *fence) lock(ctx context.Context) (unlock func(), err error) {
	return f.changing.lock(ctx, struct{}{})
}

// checkFence returns ErrFenced where this host may carry nothing, make nothing and move nothing.
func (m *Map) checkFence() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.fence.is.Fenced {
		return nil
	}
	return fmt.Errorf("%w: host %d carries nothing, since other hosts may have its machines by now; `ip6d host revive %d` takes it back",
		ErrFenced, m.Self.ID, m.Self.ID)
}

// restoreFence closes the datapath before anything is brought into it, where this host was declared dead: by its truth, or by
// what an earlier daemon left in the kernel.
func (m *Map) restoreFence(ctx context.Context) error {
	e, err := m.Truth.Get(ctx, fenceKey)
	if err != nil {
		return err
	}
	known, err := optional[fenceRecord](e[0])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	closed, err := m.Datapath.Fenced()
	if err != nil {
		return err
	}
	var is fenceRecord
	if known != nil {
		is = *known
	}
	m.mu.Lock()
	m.fence.is = is
	m.mu.Unlock()
	if is.Fenced || closed {
		// Only one of them after a crash in between. Which way it was going the store knows; until it answers, closed is safe.
		unlock, err := m.fence.lock(ctx)
		if err != nil {
			return err
		}
		err = m.close(ctx)
		unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// askFence closes the datapath where the store says that this host was declared dead, or that it is none, before its machines
// are brought into it. A store that is suspect says nothing: the cache, by which that is judged, has been restored.
func (m *Map) askFence(ctx context.Context) error {
	if _, err := m.judgeStore(ctx); err != nil {
		m.Logger.Debug("own record not read before the start", "error", err)
		return nil
	}
	_, own, err := m.readHost(ctx, m.Self.ID)
	if errors.Is(err, ErrUnknownHost) && m.known {
		return m.closeUnlisted(ctx)
	}
	if err != nil {
		// A new host has no record, and what else is wrong with it joining says.
		m.Logger.Debug("own record not read before the start", "error", err)
		return nil
	}
	return m.heedOwn(ctx, own)
}

// heedOwn acts on this host's own record, as it was read from the store just now or brought by the watch: one that says that
// it was declared dead closes the datapath at once.
func (m *Map) heedOwn(ctx context.Context, own Host) error {
	unlock, err := m.fence.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	m.mu.Lock()
	is := m.fence.is
	m.mu.Unlock()
	if !is.Fenced && own.State != Dead {
		return nil
	}
	defer wish(m.fence.wanted) // it may have been revived, and has to say that it has stopped
	if m.fence.closed {
		return nil
	}
	m.Logger.Error("this host was declared dead: it carries nothing until an operator revives it", "host", m.Self.ID)
	return m.close(ctx)
}

// close closes the datapath, and remembers it. The kernel is first: each packet may be in another machine's name. The caller
// holds changing.
func (m *Map) close(ctx context.Context) error {
	m.mu.Lock()
	m.fence.is.Fenced = true
	is := m.fence.is
	m.mu.Unlock()
	// Neither waits for the other to succeed.
	err := errors.Join(m.Datapath.SetFenced(true), m.writeFence(ctx, is))
	m.fence.closed = err == nil
	if err != nil {
		return fmt.Errorf("stop this host, which was declared dead: %w", err)
	}
	return nil
}

// closeUnlisted closes the datapath of a host that was a member, and of which the store has no record: it may have been dead,
// and removed since. When it is a member again, its machines are compared with the store as after a revival.
func (m *Map) closeUnlisted(ctx context.Context) error {
	unlock, err := m.fence.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if m.fence.closed {
		return nil
	}
	return m.close(ctx)
}

// heedBatch is heedOwn for records of which this host's own may be one.
func (m *Map) heedBatch(ctx context.Context, entries []Entry) error {
	for _, e := range entries {
		if e.Key != hostKey(m.Self.ID) || e.Value == nil {
			continue
		}
		own, err := decode[Host](e)
		if err != nil {
			return nil // applying it says so
		}
		return m.heedOwn(ctx, own)
	}
	return nil
}

func (m *Map) writeFence(ctx context.Context, is fenceRecord) error {
	_, err := m.Truth.Commit(context.WithoutCancel(ctx), Txn{Then: []Write{{Key: fenceKey, Value: encode(is)}}})
	if err != nil {
		return fmt.Errorf("write this host's database: %w", err)
	}
	return nil
}

// keepFence takes this host's machines up again when it was revived, until ctx ends.
func (m *Map) keepFence(ctx context.Context) error {
	var trouble backoff
	for {
		select {
		case <-m.fence.wanted:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := m.takeUp(ctx)
		if err == nil {
			trouble.over()
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		trouble.tell(m.Logger, "revived, but machines not taken up yet, trying again", err)
		wish(m.fence.wanted)
		if err := trouble.pause(ctx); err != nil {
			return err
		}
	}
}

// takeUp compares every machine of a host that was revived with the store, and opens the datapath when all are. It does
// nothing while the host is dead, or its database suspect, or where it is not fenced. Errors: ErrUnavailable and ErrInDoubt, ErrConflict: something changed
// meanwhile; those of Datapath, Ports and the truth's store.
func (m *Map) takeUp(ctx context.Context) error {
	if m.checkFence() == nil || m.trusted() != nil {
		return nil
	}
	before, own, err := m.readHost(ctx, m.Self.ID)
	switch {
	case err != nil:
		return err
	case own.State == Dead:
		return m.sayFenced(ctx, before, own)
	}
	m.mu.Lock()
	numbers := slices.Sorted(maps.Keys(m.local))
	m.mu.Unlock()
	for _, number := range numbers {
		if err := m.takeUpMachine(ctx, number, before); err != nil {
			return fmt.Errorf("machine %d: %w", number, err)
		}
	}
	if err := m.open(ctx, before); err != nil {
		return err
	}
	m.Logger.Warn("this host was revived and carries packets again", "host", m.Self.ID)
	m.unsettled.add(numbers...)
	wish(m.leaseWanted)
	wish(m.appliedWanted)
	return nil
}

// sayFenced records that this host has stopped since it was declared dead: only then can it be revived, because the others
// take its packets again from then on.
func (m *Map) sayFenced(ctx context.Context, before Entry, own Host) error {
	unlock, err := m.fence.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if own.Fenced {
		return nil
	}
	if !m.fence.closed {
		return errors.New("this host's datapath is not closed yet")
	}
	now := own
	now.Fenced = true
	_, err = m.writeHost(ctx, before, own, now)
	return err
}

// open opens the datapath, if this host's record is still as it was when its machines were compared.
func (m *Map) open(ctx context.Context, before Entry) error {
	unlock, err := m.fence.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	now, _, err := m.readHost(ctx, m.Self.ID)
	if err != nil {
		return err
	}
	if now.ModRevision != before.ModRevision {
		// Whatever it says: what comes after this, heedOwn is told of, and waits for the lock.
		return fmt.Errorf("%w: the record of this host", ErrConflict)
	}
	is := fenceRecord{}
	if err := m.writeFence(ctx, is); err != nil {
		return err
	}
	if err := m.Datapath.SetFenced(false); err != nil {
		return err // closed in memory still, so that it is done again
	}
	m.fence.closed = false
	m.mu.Lock()
	m.fence.is = is
	m.mu.Unlock()
	return nil
}

// takeUpMachine resolves what became of a machine while this host was dead. Nothing of it can be claimed any more: own is
// this host's record, by which it is revived, and what is written is conditional on that.
func (m *Map) takeUpMachine(ctx context.Context, number addr.Machine, own Entry) error {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	l, known := m.lookup(number)
	if !known {
		return nil
	}
	if !l.isHere() || l.Silenced {
		return nil // nobody claims what this host does not own; and what is silenced, settling looks at
	}
	s, err := m.read(ctx, number)
	if errors.Is(err, errMalformed) {
		return m.silenceUnresolved(ctx, l, err)
	}
	if err != nil {
		return err
	}
	b, err := optional[Block](s.block)
	if err != nil && s.record == nil {
		return m.silenceUnresolved(ctx, l, err)
	}
	switch r := s.record; {
	case r != nil && r.Epoch > l.Epoch && r.Host != m.Self.ID:
		m.Logger.Warn("machine was taken over by another host while this one was dead", "machine", l.Name, "host", r.Host, "epoch", r.Epoch)
		return m.giveUp(ctx, l, r.Epoch)
	case r != nil, l.State == Switching: // settling it does what there is to be done
		return nil
	}
	return m.takeUpUnrecorded(ctx, l, s, b, own)
}

// takeUpUnrecorded is takeUpMachine for a machine without a record: it goes by its block.
func (m *Map) takeUpUnrecorded(ctx context.Context, l Local, s stored, b *Block, own Entry) error {
	switch {
	case b == nil:
		// A record that has gone frees nothing: whoever is the home publishes it again.
		if home, err := m.isHome(l.Machine); err == nil && home {
			return nil
		}
		return m.silenceUnresolved(ctx, l, fmt.Errorf("the record of block %d has gone from the store, and this host is not its home", l.Machine.Block()))
	case b.Home == m.Self.ID: // nobody else can have issued the id
		return nil
	case b.AdoptedFrom != m.Self.ID:
		// Its ids may have been issued again: whoever unfroze the block said that its machines are gone.
		m.Logger.Warn("machine is lost: its block was given to another host and unfrozen", "machine", l.Name, "block", b.Block, "home", b.Home)
		return m.giveUp(ctx, l, l.Epoch)
	}
	r := m.owned(l)
	_, err := m.Fleet.Commit(ctx, Txn{
		If:   []Condition{s.unchanged(), s.block.unchanged(), own.unchanged()},
		Then: []Write{{Key: s.key.Key, Value: encode(r)}},
	})
	return err
}

// silenceUnresolved has a machine carry nothing of which the store does not tell whose it is, for that reason, so that the host's
// other machines need not wait for it. Its ports and its entry go; what the truth knows of it stays.
func (m *Map) silenceUnresolved(ctx context.Context, l Local, reason error) error {
	m.Logger.Error("it is not known whether another host has the machine by now: it carries nothing until its record and its block's can be read",
		"machine", l.Name, "error", reason,
		"remedy", fmt.Sprintf("repair %s and %s in the store, then attach it again", machineKey(l.Machine), blockKey(l.Machine.Block())))
	if err := m.silence(l); err != nil {
		return err
	}
	l.Silenced, l.Port = true, nil
	return m.record(ctx, l)
}

// silenced is the error of whoever wants to do something with a machine that is silenced.
func (m *Map) silenced(l Local) error {
	return fmt.Errorf("%w: machine %q carries nothing, for it is not known whether another host has it: repair %s and %s in the store",
		ErrState, l.Name, machineKey(l.Machine), blockKey(l.Machine.Block()))
}

// settleSilenced looks again whose a machine is that was silenced, and of which the store has a record that can be read, or
// none. It is here again only once the store says so: what was under way with it has lost then.
func (m *Map) settleSilenced(ctx context.Context, l Local, s stored) error {
	b, err := optional[Block](s.block)
	r := s.record
	if r == nil && (err != nil || b == nil) {
		return nil // the block's record has it settled
	}
	switch {
	case r != nil && r.Epoch > l.Epoch && r.Host != m.Self.ID:
		m.Logger.Warn("the machine that was silenced is another host's", "machine", l.Name, "host", r.Host, "epoch", r.Epoch)
		return m.giveUp(ctx, l, r.Epoch)
	case r != nil && r.Destroyed && r.Epoch == l.Epoch && r.Host == m.Self.ID:
		return m.end(ctx, l)
	case r == nil && b.Home != m.Self.ID && b.AdoptedFrom != m.Self.ID:
		m.Logger.Warn("the machine that was silenced is lost: its block was given to another host", "machine", l.Name, "block", b.Block, "home", b.Home)
		return m.giveUp(ctx, l, l.Epoch)
	}
	if err := m.disputed(l, r); err != nil {
		m.Logger.Error("another host owns a machine that this host has; detach it here", "machine", l.Name, "error", err)
		return nil
	}
	_, err = m.Fleet.Commit(ctx, Txn{
		If:   []Condition{s.unchanged(), s.block.unchanged(), s.self.unchanged()},
		Then: []Write{{Key: s.key.Key, Value: encode(m.owned(l))}},
	})
	if err != nil {
		return err
	}
	l = Local{Machine: l.Machine, Name: l.Name, Network: l.Network, Epoch: l.Epoch, State: Here}
	if err := m.putEntry(l); err != nil {
		return err
	}
	m.Logger.Warn("the machine that was silenced is this host's, and carries packets again", "machine", l.Name)
	return m.record(ctx, l)
}

// isHere reports whether this host is the machine's owner, as far as it knows.
func (l Local) isHere() bool { return l.State == Here || l.State == Leaving || l.State == Switching }

// giveUp removes all that this host has of a machine that is not its own any more; the last owner that is known of had that
// epoch.
func (m *Map) giveUp(ctx context.Context, l Local, epoch uint64) error {
	if err := m.removePort(l); err != nil {
		return err
	}
	if err := m.Datapath.DeleteMachine(m.id(l.Machine), l.Epoch); err != nil {
		return err
	}
	return m.yield(ctx, l, epoch)
}

// mayChange returns an error while nothing may be done with machines: ErrSuspect, ErrFenced.
func (m *Map) mayChange() error {
	if err := m.trusted(); err != nil {
		return err
	}
	return m.checkFence()
}
