package hwmap

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Finish waits until the machine's host delivers and every live host has applied the switchover; then this host forgets
// the machine, and its port goes. Errors: ErrUnknownMachine, ErrState, ErrUnavailable, ErrLagging when ctx ends first,
// with the hosts that lag.
func (m *Map) Finish(ctx context.Context, name string) error {
	return m.doneOnce(ctx, CallFinish, name, func(ctx context.Context) error { return m.finishNamed(ctx, name) })
}

func (m *Map) finishNamed(ctx context.Context, name string) error {
	l, unlock, err := m.lockNamed(ctx, name)
	if _, away := m.knownElsewhere(name); errors.Is(err, ErrUnknownMachine) && away {
		return nil // repeated
	}
	if err != nil {
		return err
	}
	unlock() // not held while waiting: it may take long
	if l.State != Away {
		return m.wrongState(l, "finish the migration")
	}
	gone, err := m.waitFollowed(ctx, l)
	if err == nil {
		err = m.finish(ctx, l, gone)
	}
	if err != nil {
		return fmt.Errorf("finish migration of %q: %w", name, err)
	}
	return nil
}

// finish forgets l; gone: the store has no record of it.
func (m *Map) finish(ctx context.Context, l Local, gone bool) error {
	unlock, err := m.operations.lock(ctx, l.Machine)
	if err != nil {
		return err
	}
	defer unlock()
	now, ok := m.lookup(l.Machine)
	if !ok || now.State != Away || now.Epoch != l.Epoch {
		return nil // somebody else finished it
	}
	if err := m.removePort(now); err != nil {
		return err
	}
	if err := m.Datapath.DeleteMachine(m.id(l.Machine), l.Epoch); err != nil {
		return err
	}
	if gone && m.wasDestroyed(l) {
		m.Logger.Info("machine was destroyed before its block came here", "machine", l.Name)
		return m.quarantine(ctx, now, l.Epoch+1)
	}
	return m.yield(ctx, now, l.Epoch+1)
}

// wasDestroyed reports whether a machine that left this host, of which there is no record and which its target has not, was
// destroyed before this host was given its block: each machine that there was then had a record. Of a block that this host leased
// itself, or adopted, a missing record says nothing.
func (m *Map) wasDestroyed(l Local) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.fleet.blocks[l.Machine.Block()]
	return b.Home == m.Self.ID && b.Epoch > firstEpoch && b.AdoptedFrom == 0 && l.Epoch < b.EpochFloor
}

// How often finish looks: at first, and at least.
const (
	finishPause    = 50 * time.Millisecond
	maxFinishPause = time.Second
)

// waitFollowed waits until the machine is delivered where the store says it is, and every live host sends there by itself. gone:
// the store has no record of it.
func (m *Map) waitFollowed(ctx context.Context, l Local) (gone bool, err error) {
	wait := finishPause
	for {
		gone, err := m.followed(ctx, l)
		if err == nil || !errors.Is(err, ErrLagging) && !errors.Is(err, ErrUnavailable) {
			return gone, err
		}
		if pause(ctx, wait) != nil {
			return false, err
		}
		wait = min(2*wait, maxFinishPause)
	}
}

func (m *Map) followed(ctx context.Context, l Local) (gone bool, err error) {
	s, err := m.read(ctx, l.Machine)
	if err != nil {
		return false, err
	}
	switch r := s.record; {
	case r == nil:
		// Destroyed, and its id is free: nobody needs forwarding. Or the store lost it, and its owner publishes it again.
		err = m.checkDelivered(ctx, l, Machine{Host: l.Peer, Epoch: l.Epoch + 1}, false)
	case r.Epoch > l.Epoch && (r.Name != l.Name || r.Network != l.Network):
		// Destroyed, and its id is another machine's by now, which nobody looks for here.
	case !r.Destroyed && r.Host != m.Self.ID:
		err = m.checkDelivered(ctx, l, *r, true)
	}
	if err != nil {
		return false, err
	}
	hosts, err := m.lagging(ctx, l.Revision)
	if err != nil {
		return false, err
	}
	if len(hosts) > 0 {
		return false, fmt.Errorf("%w: hosts %v have not applied revision %d", ErrLagging, hosts, l.Revision)
	}
	return s.record == nil, nil
}

// checkDelivered asks the owner of r whether it delivers the machine at that epoch. Errors: ErrLagging when the answer is
// not as wanted; ErrUnknownHost.
func (m *Map) checkDelivered(ctx context.Context, l Local, r Machine, wanted bool) error {
	owner, err := m.host(r.Host)
	if err != nil {
		if !wanted {
			return nil
		}
		return err
	}
	seen, err := m.Peers.Check(ctx, owner, l.Machine)
	switch {
	case err != nil:
		return fmt.Errorf("%w: host %d: %w", ErrLagging, r.Host, err)
	case wanted && !seen.Delivering && !(seen.Here && l.Port == nil): // a machine that left without a port has none to be delivered to
		return fmt.Errorf("%w: host %d does not deliver yet", ErrLagging, r.Host)
	case !wanted && (seen.Delivering || seen.Here) && seen.Epoch == r.Epoch:
		return fmt.Errorf("%w: the record of the machine has gone from the store, and host %d has it", ErrLagging, r.Host)
	}
	return nil
}
