package hwmap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ip6d/addr"
)

// Outcome is how a switchover ended.
type Outcome string

const (
	Committed Outcome = "committed" // the target is the owner
	Aborted   Outcome = "aborted"   // an abort came first; the machine is still here
	InDoubt   Outcome = "in doubt"  // the store did not say; the source keeps forwarding to the target
)

// Begin records that the machine of that name is going to host to, and has the target accept it durably. It can be
// repeated after any error, or aborted. Errors: ErrUnknownMachine, ErrUnknownHost, ErrUsage, ErrStandalone, ErrState,
// ErrUnavailable and ErrInDoubt from the store, and what the target answers.
func (m *Map) Begin(ctx context.Context, name string, to addr.Host) (MachineView, error) {
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
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return MachineView{}, err
	}
	defer unlock()
	repeated := l.State == Leaving && l.Peer == to
	if !repeated {
		if l.State != Here {
			return MachineView{}, m.wrongState(l, "begin a migration")
		}
		l.State, l.Peer = Leaving, to
		if err := m.record(ctx, l); err != nil {
			return MachineView{}, err
		}
	}
	if err := m.publishLeaving(ctx, l); err != nil {
		// As if never begun, where that is certain: of an earlier call of this kind it is not.
		if !repeated && !errors.Is(err, ErrInDoubt) {
			err = errors.Join(err, m.stay(ctx, l))
		}
		return MachineView{}, fmt.Errorf("begin migration of %q: %w", name, err)
	}
	if err := m.Peers.Accept(ctx, target, l.Machine); err != nil {
		return MachineView{}, fmt.Errorf("begin migration of %q: host %d did not accept it: %w; repeat, or abort", name, to, err)
	}
	return m.view(l)
}

// publishLeaving writes moving_to into the machine's record, and the record itself at its first move.
func (m *Map) publishLeaving(ctx context.Context, l Local) error {
	key, block := machineKey(l.Machine), blockKey(l.Machine.Block())
	e, err := m.Fleet.Get(ctx, key, block)
	if err != nil {
		return err
	}
	t := Txn{If: []Condition{{Key: key, ModRevision: e[0].ModRevision}}}
	r := Machine{Machine: l.Machine, Name: l.Name, Network: l.Network, Host: m.Self.ID, Epoch: l.Epoch, MovingTo: l.Peer}
	if e[0].Value == nil {
		// The first key of a machine is bound to its block: a block that changed hands meanwhile refuses it.
		t.If = append(t.If, Condition{Key: block, ModRevision: e[1].ModRevision})
	} else {
		now, err := decode[Machine](e[0])
		if err != nil {
			return err
		}
		if now == r {
			return nil
		}
		if now.Host != m.Self.ID || now.Epoch != l.Epoch || now.Destroyed {
			return fmt.Errorf("%w: the store has the machine on host %d at epoch %d, this host has it at epoch %d", ErrConflict, now.Host, now.Epoch, l.Epoch)
		}
	}
	t.Then = []Write{{Key: key, Value: encode(r)}}
	_, err = m.Fleet.Commit(ctx, t)
	return err
}

// Switchover makes the target the owner. Outcome InDoubt comes without error: repeat the call, or abort.
// Errors, after which nothing has changed: ErrUnknownMachine, ErrState, ErrNotReady, ErrUnavailable, ErrConflict.
func (m *Map) Switchover(ctx context.Context, name string) (Outcome, uint64, error) {
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return "", 0, err
	}
	defer unlock()
	switch l.State {
	case Away: // repeated
		return Committed, l.Epoch + 1, nil
	case Leaving, Switching:
	default:
		return "", 0, m.wrongState(l, "switch over")
	}
	// A switchover that is already in doubt stays flipped, and in doubt, until its outcome is known.
	undecided := func(l Local, err error) (Outcome, uint64, error) {
		if l.State == Switching {
			m.Logger.Warn("switchover in doubt", "machine", name, "error", err)
			return InDoubt, l.Epoch, nil
		}
		return "", 0, fmt.Errorf("switchover of %q: %w", name, err)
	}
	e, err := m.Fleet.Get(ctx, machineKey(l.Machine), hostKey(l.Peer))
	if err != nil {
		return undecided(l, err)
	}
	verdict, err := m.resolve(ctx, &l, e[0])
	if err != nil {
		return "", 0, err
	}
	if verdict != "" {
		return verdict, m.epochAfter(l), nil
	}
	target, err := decode[Host](e[1])
	if err != nil || target.State != Joined {
		return undecided(l, fmt.Errorf("%w: host %d takes no machines", ErrNotReady, l.Peer))
	}
	seen, err := m.Peers.Check(ctx, target, l.Machine)
	if err != nil {
		return undecided(l, fmt.Errorf("%w: host %d: %w", ErrNotReady, l.Peer, err))
	}
	if !seen.Ready || seen.Epoch != l.Epoch {
		return undecided(l, fmt.Errorf("%w: host %d has no port for the machine; attach it there first", ErrNotReady, l.Peer))
	}
	// A caller who goes away must not make the outcome doubtful.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return m.handOver(ctx, l, e)
}

// handOver flips and commits; what it needs was read in e: the machine's record and the target's.
func (m *Map) handOver(ctx context.Context, l Local, e []Entry) (Outcome, uint64, error) {
	first := l.State == Leaving
	l.State = Switching
	if err := m.record(ctx, l); err != nil {
		return "", 0, err
	}
	if err := m.Datapath.Flip(m.id(l.Machine), l.Peer, l.Epoch); err != nil {
		return "", 0, errors.Join(fmt.Errorf("switchover of %q: %w", l.Name, err), m.goBack(ctx, l))
	}
	next := Machine{Machine: l.Machine, Name: l.Name, Network: l.Network, Host: l.Peer, Epoch: l.Epoch + 1}
	// That the target's record is unchanged keeps a switchover from racing with the target's removal.
	revision, err := m.Fleet.Commit(ctx, Txn{
		If: []Condition{
			{Key: e[0].Key, ModRevision: e[0].ModRevision},
			{Key: e[1].Key, ModRevision: e[1].ModRevision},
		},
		Then: []Write{{Key: e[0].Key, Value: encode(next)}},
	})
	if err == nil {
		if err := m.depart(ctx, l, revision); err != nil {
			return "", 0, err
		}
		return Committed, next.Epoch, nil
	}
	if first && errors.Is(err, ErrUnavailable) { // certainly not written, now or before
		return "", 0, errors.Join(fmt.Errorf("switchover of %q: %w", l.Name, err), m.goBack(ctx, l))
	}
	if !errors.Is(err, ErrConflict) {
		m.Logger.Warn("switchover in doubt", "machine", l.Name, "to", l.Peer, "error", err)
		return InDoubt, l.Epoch, nil
	}
	now, err := m.Fleet.Get(ctx, e[0].Key)
	if err != nil {
		return InDoubt, l.Epoch, nil
	}
	verdict, err := m.resolve(ctx, &l, now[0])
	if err != nil || verdict != "" {
		return verdict, m.epochAfter(l), err
	}
	// The record stands as it was read: it was the target's that changed. The store has refused this transaction, and
	// will refuse every earlier one of the same conditions, so there is nothing in doubt.
	if err := m.goBack(ctx, l); err != nil {
		return "", 0, err
	}
	return "", 0, fmt.Errorf("switchover of %q: %w: the record of host %d; repeat, or abort", l.Name, ErrConflict, l.Peer)
}

func (m *Map) epochAfter(l Local) uint64 {
	if l.State == Away {
		return l.Epoch + 1
	}
	return l.Epoch
}

// resolve compares a leaving or switching machine with its record, read just now, and acts on what is decided:
// Committed when the target owns it, Aborted when moving_to is gone; nothing yet otherwise. It updates l.
func (m *Map) resolve(ctx context.Context, l *Local, e Entry) (Outcome, error) {
	if e.Value == nil {
		return "", fmt.Errorf("%w: the record of machine %q has gone from the store", ErrState, l.Name)
	}
	r, err := decode[Machine](e)
	if err != nil {
		return "", err
	}
	switch {
	case r.Epoch > l.Epoch:
		err := m.depart(ctx, *l, e.ModRevision)
		l.State = Away
		return Committed, err
	case r.MovingTo != l.Peer:
		err := m.stay(ctx, *l)
		l.State, l.Peer = Here, 0
		return Aborted, err
	}
	return "", nil
}

// depart makes l a machine that has left: this host forwards what still comes for it.
func (m *Map) depart(ctx context.Context, l Local, revision Revision) error {
	l.State, l.Revision = Away, revision
	if err := m.putEntry(l); err != nil {
		return err
	}
	if err := m.record(ctx, l); err != nil {
		return err
	}
	m.hint(l.Peer, l.Machine)
	return nil
}

// stay makes l a machine that is here and going nowhere. The flip is undone; the caller knows that no switchover can
// win any more.
func (m *Map) stay(ctx context.Context, l Local) error {
	target := l.Peer
	l.State, l.Peer = Here, 0
	if err := m.putEntry(l); err != nil {
		return err
	}
	if err := m.record(ctx, l); err != nil {
		return err
	}
	m.hint(target, l.Machine)
	return nil
}

// goBack makes a switching machine a leaving one again; the caller knows that no switchover can win any more.
func (m *Map) goBack(ctx context.Context, l Local) error {
	l.State = Leaving
	if err := m.putEntry(l); err != nil {
		return err
	}
	return m.record(ctx, l)
}

// hint tells a host to read the machine's record now instead of when its watch says so. It is a hint only: nothing
// depends on its arrival.
func (m *Map) hint(to addr.Host, number addr.Machine) {
	h, err := m.host(to)
	if err != nil {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := m.Peers.Reread(ctx, h, number); err != nil {
			m.Logger.Debug("hint not delivered", "host", to, "machine", number, "error", err)
		}
	}()
}

// Finish waits until the machine's host delivers and every live host has applied the switchover; then this host forgets
// the machine, and its port goes. Errors: ErrUnknownMachine, ErrState, ErrUnavailable, ErrLagging when ctx ends first,
// with the hosts that lag.
func (m *Map) Finish(ctx context.Context, name string) error {
	l, unlock, err := m.lockNamed(ctx, name)
	if errors.Is(err, ErrUnknownMachine) && m.isElsewhere(name) {
		return nil // repeated
	}
	if err != nil {
		return err
	}
	unlock() // not held while waiting: it may take long
	if l.State != Away {
		return m.wrongState(l, "finish")
	}
	if err := m.waitFollowed(ctx, l); err != nil {
		return fmt.Errorf("finish migration of %q: %w", name, err)
	}
	unlock, err = m.operations.lock(ctx, l.Machine)
	if err != nil {
		return err
	}
	defer unlock()
	if now, ok := m.lookup(l.Machine); !ok || now.State != Away || now.Epoch != l.Epoch {
		return nil // somebody else finished it
	}
	if l.Port != nil {
		if err := m.removePort(*l.Port); err != nil {
			return fmt.Errorf("finish migration of %q: %w", name, err)
		}
	}
	if err := m.Datapath.DeleteMachine(m.id(l.Machine), l.Epoch+1); err != nil {
		return fmt.Errorf("finish migration of %q: %w", name, err)
	}
	if m.isHome(l.Machine) {
		return m.record(ctx, Local{Machine: l.Machine, Name: l.Name, Network: l.Network, Epoch: l.Epoch + 1, State: Issued})
	}
	return m.erase(ctx, l.Machine)
}

// isElsewhere reports whether the fleet's map has a machine of that name on another host.
func (m *Map) isElsewhere(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.fleet.machines {
		if r.Name == name && !r.Destroyed && r.Host != m.Self.ID {
			return true
		}
	}
	return false
}

// waitFollowed waits until the machine is delivered where the store says it is, and every live host sends there by itself.
func (m *Map) waitFollowed(ctx context.Context, l Local) error {
	for {
		err := m.followed(ctx, l)
		if err == nil || !errors.Is(err, ErrLagging) && !errors.Is(err, ErrUnavailable) {
			return err
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return err
		}
	}
}

func (m *Map) followed(ctx context.Context, l Local) error {
	e, err := m.Fleet.Get(ctx, machineKey(l.Machine))
	if err != nil {
		return err
	}
	if e[0].Value != nil { // else it was destroyed, and its id is free again: nobody needs forwarding
		r, err := decode[Machine](e[0])
		if err != nil {
			return err
		}
		owner, err := m.host(r.Host)
		if err != nil {
			return err
		}
		if !r.Destroyed && r.Host != m.Self.ID {
			seen, err := m.Peers.Check(ctx, owner, l.Machine)
			if err != nil {
				return fmt.Errorf("%w: host %d: %w", ErrLagging, r.Host, err)
			}
			if !seen.Delivering {
				return fmt.Errorf("%w: host %d does not deliver yet", ErrLagging, r.Host)
			}
		}
	}
	hosts, err := m.lagging(ctx, l.Revision)
	if err != nil {
		return err
	}
	if len(hosts) > 0 {
		return fmt.Errorf("%w: hosts %v have not applied revision %d", ErrLagging, hosts, l.Revision)
	}
	return nil
}

// Abort calls a migration off, on its source or its target. Errors: ErrUnknownMachine, ErrState when there is none,
// ErrCommitted when the switchover won, ErrUnavailable and ErrInDoubt from the store: repeat it then.
func (m *Map) Abort(ctx context.Context, name string) error {
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	switch l.State {
	case Here:
		return nil // repeated
	case Leaving, Switching, Incoming:
	case Away:
		return fmt.Errorf("abort migration of %q: %w: it is on host %d; migrate it back from there", name, ErrCommitted, l.Peer)
	default:
		return m.wrongState(l, "abort")
	}
	if err := m.abort(ctx, l); err != nil {
		return fmt.Errorf("abort migration of %q: %w", name, err)
	}
	return nil
}

// abort clears moving_to. It always writes, also where moving_to is not set: a begin or a switchover whose outcome is
// unknown may still be on its way to the store, and this takes the revision from under it.
func (m *Map) abort(ctx context.Context, l Local) error {
	key := machineKey(l.Machine)
	source := m.Self.ID
	if l.State == Incoming {
		source = l.Peer
	}
	for {
		e, err := m.Fleet.Get(ctx, key)
		if err != nil {
			return err
		}
		r := Machine{Machine: l.Machine, Name: l.Name, Network: l.Network, Host: source, Epoch: l.Epoch}
		if e[0].Value != nil {
			if r, err = decode[Machine](e[0]); err != nil {
				return err
			}
		}
		if r.Epoch > l.Epoch {
			m.unsettled.add(l.Machine) // for this host to act on
			return fmt.Errorf("%w: it is on host %d at epoch %d", ErrCommitted, r.Host, r.Epoch)
		}
		if l.State == Incoming && r.MovingTo != m.Self.ID {
			return m.withdraw(ctx, l) // aborted already, and this host only had to hear of it
		}
		r.MovingTo = 0
		_, err = m.Fleet.Commit(ctx, Txn{
			If:   []Condition{{Key: key, ModRevision: e[0].ModRevision}},
			Then: []Write{{Key: key, Value: encode(r)}},
		})
		switch {
		case errors.Is(err, ErrConflict): // a switchover or another abort came first: see which
			continue
		case err != nil:
			return err
		case l.State == Incoming:
			m.hint(source, l.Machine)
			return m.withdraw(ctx, l)
		}
		return m.stay(ctx, l)
	}
}

// host returns a host of the fleet. Errors: ErrUnknownHost.
func (m *Map) host(id addr.Host) (Host, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, ok := m.fleet.hosts[id]
	if !ok {
		return h, fmt.Errorf("%w %d: `ip6d host list` shows those of the fleet", ErrUnknownHost, id)
	}
	return h, nil
}

func (m *Map) wrongState(l Local, what string) error {
	why := fmt.Sprintf("it is %s", l.State)
	if l.Peer != 0 {
		why = fmt.Sprintf("it is %s, and the other host is %d", l.State, l.Peer)
	}
	return fmt.Errorf("%w: cannot %s for machine %q: %s", ErrState, what, l.Name, why)
}
