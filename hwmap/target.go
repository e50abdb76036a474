package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
	"ip6d/nat"
)

// Accept makes this host the durable target of a machine's migration, if the store's record says so: the record alone
// counts, not the caller. Errors: ErrState, ErrNameTaken, ErrUnavailable.
func (m *Map) Accept(ctx context.Context, number addr.Machine) error {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	e, err := m.Fleet.Get(ctx, machineKey(number))
	if err != nil {
		return err
	}
	if e[0].Value == nil {
		return fmt.Errorf("%w: the store has no record of machine %d", ErrState, number)
	}
	r, err := decode[Machine](e[0])
	if err != nil {
		return err
	}
	if r.MovingTo != m.Self.ID || r.Host == m.Self.ID || r.Destroyed {
		return fmt.Errorf("%w: the record of machine %q has it on host %d, moving to %d; this is host %d", ErrState, r.Name, r.Host, r.MovingTo, m.Self.ID)
	}
	l := Local{Machine: number, Name: r.Name, Network: r.Network, Epoch: r.Epoch, State: Incoming, Peer: r.Host}
	now, known := m.lookup(number)
	switch {
	case known && now.State == Incoming && now.Epoch == r.Epoch && now.Peer == r.Host:
		return m.putEntry(now) // repeated
	case known && now.State != Issued && now.State != Free && now.State != Incoming:
		return fmt.Errorf("%w: machine %q is %s on host %d; finish that migration first", ErrState, now.Name, now.State, m.Self.ID)
	}
	m.mu.Lock()
	holder, taken := m.byName[r.Name]
	m.mu.Unlock()
	if taken && holder != number {
		return fmt.Errorf("%w: host %d has another machine %q, with number %d", ErrNameTaken, m.Self.ID, r.Name, holder)
	}
	if err := m.record(ctx, l); err != nil {
		return err
	}
	if err := m.Datapath.PutMachine(m.natMachine(l, nat.Incoming, nat.Port{})); err != nil {
		return errors.Join(err, m.withdraw(ctx, l))
	}
	return nil
}

// Check tells what this host does for the machine.
func (m *Map) Check(number addr.Machine) (PeerView, error) {
	e, ok, err := m.Datapath.Machine(m.id(number))
	if err != nil || !ok {
		return PeerView{}, err
	}
	return PeerView{
		Epoch:      e.Epoch,
		Ready:      e.State == nat.Incoming && e.Port.Ifindex != 0,
		Delivering: e.State == nat.Delivering && e.Port.Ifindex != 0,
	}, nil
}

// Reread asks for the machine's record to be read again soon.
func (m *Map) Reread(number addr.Machine) {
	if _, known := m.lookup(number); known {
		m.unsettled.add(number)
	}
}

// arrive makes an incoming machine one that is here: r, read from the store, says that it is this host's.
func (m *Map) arrive(ctx context.Context, l Local, r Machine) error {
	l.State, l.Peer, l.Epoch = Here, 0, r.Epoch
	if err := m.putEntry(l); err != nil { // first of all: packets are waiting
		return err
	}
	return m.record(ctx, l)
}

// withdraw ends an incoming machine that does not come: its port goes.
func (m *Map) withdraw(ctx context.Context, l Local) error {
	if l.Port != nil {
		if err := m.removePort(*l.Port); err != nil {
			return err
		}
	}
	if err := m.Datapath.DeleteMachine(m.id(l.Machine), l.Epoch); err != nil {
		return err
	}
	if m.isHome(l.Machine) {
		return m.record(ctx, Local{Machine: l.Machine, Name: l.Name, Network: l.Network, Epoch: l.Epoch, State: Issued})
	}
	return m.erase(ctx, l.Machine)
}
