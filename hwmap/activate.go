package hwmap

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"ip6d/addr"
	"ip6d/nat"
)

// A migration that activates on the first packet needs no call of Switchover: the machine's record says so, the target waits
// for the machine to send, and then has the source switch over. The source believes nobody but the target that it asks itself,
// and does what Switchover does. What the target has seen it need not remember: after a restart, the next packet tells again.

// active are the machines on their way here that have sent something, with the epoch at which they did. The zero value is
// ready.
type active struct {
	mu    sync.Mutex // guards seen
	seen  map[addr.Machine]uint64
	ready queue[addr.Machine]
}

// add puts l in, and reports whether that is news.
func (a *active) add(l Local) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seen[l.Machine] == l.Epoch {
		return false
	}
	if a.seen == nil {
		a.seen = make(map[addr.Machine]uint64)
	}
	a.seen[l.Machine] = l.Epoch
	return true
}

func (a *active) has(l Local) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	epoch, ok := a.seen[l.Machine]
	return ok && epoch == l.Epoch
}

// forget takes a machine out: it is here, or does not come. Another migration of it may be of the same epoch.
func (a *active) forget(number addr.Machine) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.seen, number)
}

// awaitsPacket reports whether what l sends is to have it switched over.
func (l Local) awaitsPacket() bool { return l.State == Incoming && l.OnFirstPacket && !l.Claiming }

// BeginOnFirstPacket is Begin, and what the machine sends first on the target has the switchover done.
func (m *Map) BeginOnFirstPacket(ctx context.Context, name string, to addr.Host) (MachineView, error) {
	arguments := []any{to, "on first packet"}
	return m.viewOnce(ctx, CallBegin, name, arguments, func(ctx context.Context) (MachineView, error) { return m.beginNamed(ctx, name, to, true) })
}

// Sent tells that the machine sends here. It counts where the machine is on its way here and is to be activated by that; the
// caller is never kept waiting.
func (m *Map) Sent(id addr.ID) {
	l, _ := m.lookup(id.Machine)
	if id.Cell == m.Cell && l.awaitsPacket() && m.active.add(l) {
		m.active.ready.add(l.Machine)
	}
}

// activators is how many sources are asked at once.
const activators = 8

// activate has the sources of active machines switch over, each until the machine is here or does not come any more.
func (m *Map) activate(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	var said sync.Map // by machine: a trouble that lasts is told once
	for range activators {
		g.Go(func() error {
			for {
				number, err := m.active.ready.take(ctx)
				if err != nil {
					return err
				}
				err = m.askToSwitch(ctx, number)
				if err == nil {
					said.Delete(number)
				} else if ctx.Err() == nil {
					if before, _ := said.Swap(number, err.Error()); before != err.Error() {
						m.Logger.Warn("source did not switch over upon the machine's first packet, asking again", "machine", number, "error", err)
					}
					g.Go(func() error {
						defer m.active.ready.add(number)
						return pause(ctx, retryPause)
					})
				}
			}
		})
	}
	return g.Wait()
}

// askToSwitch asks the source once, if the machine is still on its way. Without an error it has switched over, or there is
// no migration any more; the record tells which.
func (m *Map) askToSwitch(ctx context.Context, number addr.Machine) error {
	l, _ := m.lookup(number)
	if !l.awaitsPacket() || !m.active.has(l) {
		return nil
	}
	source, err := m.host(l.Peer)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*switchoverTimeout)
	defer cancel()
	if err := m.Peers.Activate(ctx, source, number); err != nil {
		return fmt.Errorf("host %d: %w", l.Peer, err)
	}
	if err := m.settleMachine(ctx, number); err != nil {
		return err
	}
	if now, _ := m.lookup(number); now.awaitsPacket() && now.Epoch == l.Epoch {
		return fmt.Errorf("%w: the record of the machine says so, and host %d does not", ErrState, l.Peer)
	}
	return nil
}

// Activate switches a machine over if it is leaving, is to activate on its first packet, and its target says that there was
// one: who asks does not matter. A machine that has left, or goes nowhere, is not changed. Errors: ErrState, ErrInDoubt,
// those of Switchover.
func (m *Map) Activate(ctx context.Context, number addr.Machine) error {
	if err := m.mayChange(); err != nil {
		return err
	}
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	l, _ := m.lookup(number)
	switch {
	case l.State != Leaving && l.State != Switching:
		return nil
	case l.Silenced:
		return m.silenced(l)
	case !l.OnFirstPacket:
		return fmt.Errorf("%w: the migration of machine %q waits for a switchover, not for a packet", ErrState, l.Name)
	}
	target, err := m.host(l.Peer)
	if err != nil {
		return err
	}
	seen, err := m.Peers.Check(ctx, target, number)
	switch {
	case err != nil:
		return fmt.Errorf("%w: host %d: %w", ErrNotReady, l.Peer, err)
	case !seen.Active || seen.Epoch != l.Epoch:
		return fmt.Errorf("%w: host %d has seen no packet of machine %q", ErrNotReady, l.Peer, l.Name)
	}
	outcome, _, err := m.switchoverHeld(ctx, l)
	if err == nil && outcome == InDoubt {
		err = fmt.Errorf("switchover of %q: %w", l.Name, ErrInDoubt)
	}
	return err
}

// awaitPacket has the kernel tell of what l sends by its port, where that is waited for, and else not.
func (m *Map) awaitPacket(l Local) error {
	e, _, err := m.Datapath.Machine(m.id(l.Machine))
	if err != nil || e.Port.Ifindex == 0 {
		return err
	}
	if err := m.Datapath.AwaitPacket(e.Port.Ifindex, l.awaitsPacket()); !errors.Is(err, nat.ErrNotFound) {
		return err
	}
	return nil // the device has gone; the one that is attached instead is told
}
