package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
	"ip6d/nat"
)

// invites reports whether the record says that the machine comes to self from where l says.
func (s stored) invites(self addr.Host, l Local) bool {
	r := s.record
	return r != nil && r.MovingTo == self && r.Host == l.Peer && r.Epoch == l.Epoch && !r.Destroyed
}

// arrived reports whether the record says that self owns the machine by now.
func (s stored) arrived(self addr.Host, l Local) bool {
	r := s.record
	return r != nil && r.Host == self && r.Epoch > l.Epoch && !r.Destroyed
}

// Accept makes this host the durable target of a machine's migration, if the store's record says so: the record alone
// counts, not the caller. Errors: ErrState, ErrSuspect, ErrFenced, ErrNameTaken, ErrUnavailable, those of Datapath and of the
// truth's store.
func (m *Map) Accept(ctx context.Context, number addr.Machine) error {
	if err := m.mayChange(); err != nil {
		return err
	}
	// Read twice, because the name's lock comes before the machine's, and only the record tells the name.
	s, err := m.read(ctx, number)
	if err != nil {
		return err
	}
	if s.record == nil {
		return fmt.Errorf("%w: the store has no record of machine %d", ErrState, number)
	}
	name := s.record.Name
	unlockName, err := m.naming.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlockName()
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	if s, err = m.read(ctx, number); err != nil {
		return err
	}
	if r := s.record; r == nil || r.Name != name || r.MovingTo != m.Self.ID || r.Host == m.Self.ID || r.Destroyed {
		return fmt.Errorf("%w: the record of machine %q does not say that it moves to host %d", ErrState, name, m.Self.ID)
	}
	return m.accept(ctx, *s.record)
}

func (m *Map) accept(ctx context.Context, r Machine) error {
	m.mu.Lock()
	now := m.local[r.Machine]
	holder, taken := m.byName[r.Name]
	m.mu.Unlock()
	switch {
	case taken && holder != r.Machine:
		return fmt.Errorf("%w: host %d has another machine %q, with number %d", ErrNameTaken, m.Self.ID, r.Name, holder)
	case now.Epoch > r.Epoch:
		return fmt.Errorf("%w: host %d knows machine %q at epoch %d, the record is of epoch %d", ErrState, m.Self.ID, r.Name, now.Epoch, r.Epoch)
	case now.Claiming:
		return fmt.Errorf("%w: machine %q is being claimed by host %d", ErrState, r.Name, m.Self.ID)
	case now.State == Incoming && now.Epoch == r.Epoch && now.Peer == r.Host: // repeated
		return m.acceptAgain(ctx, now, r)
	case now.State == Incoming: // of an earlier migration that was aborted
		if err := m.withdraw(ctx, now); err != nil {
			return err
		}
	case now.State != Issued && now.State != Free && now.State != "":
		return fmt.Errorf("%w: machine %q is %s on host %d; finish that migration first", ErrState, now.Name, now.State, m.Self.ID)
	}
	l := Local{Machine: r.Machine, Name: r.Name, Network: r.Network, Epoch: r.Epoch, State: Incoming, Peer: r.Host, OnFirstPacket: r.OnFirstPacket}
	if err := m.record(ctx, l); err != nil {
		return err
	}
	m.unsettled.add(l.Machine) // an abort may have come since the record was read
	if err := m.Datapath.PutMachine(m.natMachine(l, nat.Port{})); err != nil {
		return errors.Join(err, m.withdraw(ctx, l))
	}
	return nil
}

// acceptAgain keeps what was accepted, but for how the switchover is to come.
func (m *Map) acceptAgain(ctx context.Context, l Local, r Machine) error {
	if err := m.putEntry(l); err != nil || l.OnFirstPacket == r.OnFirstPacket {
		return err
	}
	l.OnFirstPacket = r.OnFirstPacket
	if err := m.record(ctx, l); err != nil {
		return err
	}
	m.active.forget(l.Machine)
	return m.awaitPacket(l)
}

// Check tells what this host does for the machine. Errors: ErrFenced, that of ctx.
//
// It waits for what is being done with the machine: an abort here that has won, and does not know it yet, is about to take
// the port away. Had that been ready, a migration begun again meanwhile could be switched over to nothing.
func (m *Map) Check(ctx context.Context, number addr.Machine) (PeerView, error) {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return PeerView{}, err
	}
	defer unlock()
	if err := m.checkFence(); err != nil {
		return PeerView{}, err
	}
	e, ok, err := m.Datapath.Machine(m.id(number))
	if err != nil || !ok {
		return PeerView{}, err
	}
	// Only what is durable counts: the other host relies on it.
	l, _ := m.lookup(number)
	durable := l.Epoch == e.Epoch && l.entry() == e.State
	attached := durable && e.Port.Ifindex != 0
	return PeerView{
		Epoch:      e.Epoch,
		Accepted:   durable && e.State == nat.Incoming,
		Ready:      attached && e.State == nat.Incoming,
		Here:       durable && e.State == nat.Delivering,
		Delivering: attached && e.State == nat.Delivering,
		Active:     attached && l.awaitsPacket() && m.active.has(l),
	}, nil
}

// arrive makes an incoming machine one that is here: r, read from the store, says that it is this host's.
func (m *Map) arrive(ctx context.Context, l Local, r Machine) error {
	awaited := l.OnFirstPacket
	l.State, l.From, l.Peer, l.Claiming, l.Epoch, l.OnFirstPacket = Here, l.Peer, 0, false, r.Epoch, false
	if err := m.putEntry(l); err != nil { // first of all: packets are waiting
		return err
	}
	m.active.forget(l.Machine)
	if awaited {
		if err := m.awaitPacket(l); err != nil {
			return err
		}
	}
	// gofail: var afterArrival struct{}
	return m.record(ctx, l)
}

// withdraw ends an incoming machine that does not come: its port goes.
func (m *Map) withdraw(ctx context.Context, l Local) error {
	m.active.forget(l.Machine)
	if err := m.removePort(l); err != nil {
		return err
	}
	if err := m.Datapath.DeleteMachine(m.id(l.Machine), l.Epoch); err != nil {
		return err
	}
	return m.yield(ctx, l, l.Epoch)
}
