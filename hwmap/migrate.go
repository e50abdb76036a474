package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
)

// Begin records that the machine of that name is going to host to, and has the target accept it durably. It can be
// repeated after any error, or aborted; a migration to a host that has died since is aborted first. Errors:
// ErrUnknownMachine, ErrUnknownHost, ErrUsage, ErrStandalone, ErrState, ErrConflict, ErrUnavailable and ErrInDoubt from the
// store, and what the target answers.
func (m *Map) Begin(ctx context.Context, name string, to addr.Host) (MachineView, error) {
	return m.viewOnce(ctx, CallBegin, name, to, func(ctx context.Context) (MachineView, error) { return m.beginNamed(ctx, name, to, false) })
}

func (m *Map) beginNamed(ctx context.Context, name string, to addr.Host, onFirstPacket bool) (MachineView, error) {
	if m.standalone {
		return MachineView{}, fmt.Errorf("%w: configure the endpoints of a fleet's store to migrate machines", ErrStandalone)
	}
	if to == m.Self.ID {
		return MachineView{}, fmt.Errorf("%w: host %d is this host", ErrUsage, to)
	}
	target, err := m.host(to)
	if err != nil {
		return MachineView{}, err
	}
	if target.State != Joined {
		return MachineView{}, fmt.Errorf("%w: host %d is %s and takes no machines", ErrState, to, target.State)
	}
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return MachineView{}, err
	}
	defer unlock()
	if l, err = m.begin(ctx, l, target, onFirstPacket); err != nil {
		m.unsettled.add(l.Machine)
		return MachineView{}, fmt.Errorf("begin migration of %q: %w", name, err)
	}
	return m.view(l)
}

func (m *Map) begin(ctx context.Context, l Local, target Host, onFirstPacket bool) (Local, error) {
	if (l.State == Leaving || l.State == Switching) && l.Peer != target.ID && m.isDead(l.Peer) {
		// Nobody is there to hear of the abort; and what the store decides holds for a target that comes back.
		if err := m.abortLeaving(ctx, l); err != nil {
			return l, err
		}
		l, _ = m.lookup(l.Machine)
	}
	repeated := l.State == Leaving && l.Peer == target.ID
	if !repeated {
		if l.State != Here {
			return l, m.wrongState(l, "begin a migration")
		}
	}
	if !repeated || l.OnFirstPacket != onFirstPacket { // the last word counts
		l.State, l.Peer, l.From, l.OnFirstPacket = Leaving, target.ID, 0, onFirstPacket
		if err := m.record(ctx, l); err != nil {
			return l, err
		}
	}
	if err := m.publishLeaving(ctx, l); err != nil {
		// As if never begun, where that is certain: of an earlier call of this kind it is not.
		if !repeated && !errors.Is(err, ErrInDoubt) {
			err = errors.Join(err, m.stay(ctx, l))
		}
		return l, err
	}
	if err := m.Peers.Accept(ctx, target, l.Machine); err != nil {
		return l, fmt.Errorf("host %d did not accept it; repeat, or abort: %w", target.ID, err)
	}
	return l, nil
}

// publishLeaving writes moving_to into the machine's record, and the record itself at its first move.
func (m *Map) publishLeaving(ctx context.Context, l Local) error {
	s, err := m.read(ctx, l.Machine)
	if err != nil {
		return err
	}
	if err := m.disputed(l, s.record); err != nil {
		return err
	}
	r := m.owned(l)
	r.MovingTo, r.OnFirstPacket = l.Peer, l.OnFirstPacket
	if s.record != nil && *s.record == r {
		return nil
	}
	e, target, err := m.readHost(ctx, l.Peer)
	if err != nil {
		return err
	}
	if target.State != Joined {
		return fmt.Errorf("%w: host %d is %s and takes no machines", ErrState, target.ID, target.State)
	}
	// That the target's record is unchanged: nothing points at a host that is removed at the same time.
	_, err = m.replace(ctx, s, &r, e.unchanged())
	return err
}

// Abort calls a migration off, on its source or its target. Errors: ErrUnknownMachine, ErrState when there is none,
// ErrCommitted when the switchover won, ErrUnavailable and ErrInDoubt from the store: repeat it then.
func (m *Map) Abort(ctx context.Context, name string) error {
	return m.doneOnce(ctx, CallAbort, name, func(ctx context.Context) error { return m.abort(ctx, name) })
}

func (m *Map) abort(ctx context.Context, name string) error {
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	switch l.State {
	case Here:
		if l.From != 0 {
			err = fmt.Errorf("%w: it came from host %d; migrate it back from here", ErrCommitted, l.From)
		} // else repeated
	case Leaving, Switching:
		err = m.abortLeaving(ctx, l)
	case Incoming:
		if l.Claiming {
			err = fmt.Errorf("%w: it is being claimed from host %d; repeat the claim", ErrState, l.Peer)
			break
		}
		err = m.abortIncoming(ctx, l)
	case Away:
		err = fmt.Errorf("%w: it is on host %d; migrate it back from there", ErrCommitted, l.Peer)
	default:
		err = m.wrongState(l, "abort a migration")
	}
	if err != nil {
		m.unsettled.add(l.Machine)
		return fmt.Errorf("abort migration of %q: %w", name, err)
	}
	return nil
}

// abortLeaving clears moving_to, on the source. It always writes, also where moving_to is not set or there is no record: a
// begin or a switchover whose outcome is unknown may still be on its way to the store, and this takes the revision from
// under it.
func (m *Map) abortLeaving(ctx context.Context, l Local) error {
	for {
		s, err := m.read(ctx, l.Machine)
		if err != nil {
			return err
		}
		if s.destroyed(l) {
			return m.stay(ctx, l) // and then it ends
		}
		if err := m.disputed(l, s.record); err != nil {
			return fmt.Errorf("%w: %w", ErrCommitted, err)
		}
		r := m.owned(l)
		switch _, err := m.replace(ctx, s, &r); {
		case errors.Is(err, ErrConflict): // a switchover or another abort came first: see which
		case err != nil:
			return err
		default:
			return m.stay(ctx, l)
		}
	}
}

// abortIncoming clears moving_to, on the target. Its revision goes from under the source's switchover.
func (m *Map) abortIncoming(ctx context.Context, l Local) error {
	for {
		s, err := m.read(ctx, l.Machine)
		if err != nil {
			return err
		}
		if s.arrived(m.Self.ID, l) {
			return fmt.Errorf("%w: it is on this host at epoch %d", ErrCommitted, s.record.Epoch)
		}
		if !s.invites(m.Self.ID, l) {
			return m.withdraw(ctx, l) // aborted already, and this host only had to hear of it
		}
		r := *s.record
		r.MovingTo, r.OnFirstPacket = 0, false
		switch _, err := m.replace(ctx, s, &r); {
		case errors.Is(err, ErrConflict):
		case err != nil:
			return err
		default:
			m.hints.add(hint{l.Peer, l.Machine})
			return m.withdraw(ctx, l)
		}
	}
}

// stay makes l a machine that is here and going nowhere. A flip is undone; the caller knows that no switchover can
// win any more. What else its record says is settled after that.
func (m *Map) stay(ctx context.Context, l Local) error {
	target := l.Peer
	l.State, l.Peer, l.OnFirstPacket = Here, 0, false
	if err := m.putEntry(l); err != nil {
		return err
	}
	if err := m.record(ctx, l); err != nil {
		return err
	}
	m.hints.add(hint{target, l.Machine})
	m.unsettled.add(l.Machine)
	return nil
}

// host returns a host of the fleet. Errors: ErrUnknownHost.
func (m *Map) host(id addr.Host) (Host, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.fleet.hosts[id]
	if !ok {
		return h, unknownHost(id)
	}
	return h, nil
}

func (m *Map) wrongState(l Local, what string) error {
	why := fmt.Sprintf("it is %s", l.State)
	if l.Peer != 0 {
		why = fmt.Sprintf("it is %s, and the other host is %d", l.State, l.Peer)
	}
	return fmt.Errorf("%w: cannot %s of machine %q: %s", ErrState, what, l.Name, why)
}
