package hwmap

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Outcome is how a switchover ended.
type Outcome string

const (
	Committed Outcome = "committed" // the target is the owner
	Aborted   Outcome = "aborted"   // an abort came first; the machine is still here
	InDoubt   Outcome = "in doubt"  // the store did not say; the source keeps forwarding to the target
)

// switchoverTimeout bounds what happens after the flip. A caller who goes away must not make the outcome doubtful.
const switchoverTimeout = 10 * time.Second

// Switchover makes the target the owner, and returns the machine's epoch. Outcome InDoubt comes without error: repeat
// the call, or abort. Errors, after which the machine is still here: ErrUnknownMachine, ErrState, ErrNotReady,
// ErrUnavailable, ErrConflict, those of Datapath and of the truth's store.
func (m *Map) Switchover(ctx context.Context, name string) (Outcome, uint64, error) {
	r, err := m.once(ctx, CallSwitchover, name, nil, func(ctx context.Context) (r result, err error) {
		r.outcome, r.epoch, err = m.switchoverNamed(ctx, name)
		return r, err
	})
	return r.outcome, r.epoch, err
}

func (m *Map) switchoverNamed(ctx context.Context, name string) (Outcome, uint64, error) {
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return "", 0, err
	}
	defer unlock()
	return m.switchoverHeld(ctx, l)
}

// switchoverHeld is switchoverNamed for a caller who holds the machine's lock.
func (m *Map) switchoverHeld(ctx context.Context, l Local) (Outcome, uint64, error) {
	switch l.State {
	case Away: // repeated
		return Committed, l.Epoch + 1, nil
	case Here:
		if m.hasRecord(l) { // it was aborted, on the target perhaps, and this host has acted on it already
			return Aborted, l.Epoch, nil
		}
		return "", 0, m.wrongState(l, "switch over the migration")
	case Leaving, Switching:
	default:
		return "", 0, m.wrongState(l, "switch over the migration")
	}
	outcome, err := m.switchover(ctx, l)
	if err != nil || outcome == InDoubt {
		m.unsettled.add(l.Machine)
	}
	now, _ := m.lookup(l.Machine)
	switch {
	case outcome == Committed:
		if err != nil { // the target is the owner all the same; settling repeats what failed
			m.Logger.Error("switchover committed, but not written down", "machine", l.Name, "to", l.Peer, "error", err)
		}
		return Committed, l.Epoch + 1, nil
	case err != nil && now.State == Switching && !errors.Is(err, ErrState):
		// It stays flipped until its outcome is known.
		m.Logger.Warn("switchover in doubt", "machine", l.Name, "to", l.Peer, "error", err)
		return InDoubt, l.Epoch, nil
	case err != nil:
		return "", 0, fmt.Errorf("switchover of %q: %w", l.Name, err)
	}
	return outcome, l.Epoch, nil
}

// hasRecord reports whether the fleet's map has a record of this ownership of l: a migration was begun at some time.
func (m *Map) hasRecord(l Local) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.fleet.machines.get(l.Machine)
	return ok && r.Epoch == l.Epoch
}

func (m *Map) switchover(ctx context.Context, l Local) (Outcome, error) {
	s, e, err := m.readWith(ctx, l.Machine, l.Peer)
	if err != nil {
		return "", err
	}
	if outcome, err := m.resolve(ctx, l, s); outcome != "" || err != nil {
		return outcome, err
	}
	if err := m.checkReady(ctx, l, e[0]); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), switchoverTimeout)
	defer cancel()
	return m.handOver(ctx, l, s, e[0])
}

// checkReady asks the host that l goes to, whose record e is, whether it is ready for the switchover. It needs a port there
// only where it has one here: a machine that is stopped is moved without, and attached when it starts. Errors: ErrNotReady.
func (m *Map) checkReady(ctx context.Context, l Local, e Entry) error {
	target, err := optional[Host](e)
	if err != nil || target == nil || target.State != Joined {
		return fmt.Errorf("%w: host %d takes no machines", ErrNotReady, l.Peer)
	}
	seen, err := m.Peers.Check(ctx, *target, l.Machine)
	switch {
	case err != nil:
		return fmt.Errorf("%w: host %d: %w", ErrNotReady, l.Peer, err)
	case seen.Epoch == l.Epoch && (seen.Ready || l.Port == nil && seen.Accepted):
		return nil
	case l.Port == nil:
		return fmt.Errorf("%w: host %d has not accepted the machine; repeat the begin", ErrNotReady, l.Peer)
	}
	return fmt.Errorf("%w: host %d has no port for the machine; attach it there first", ErrNotReady, l.Peer)
}

// CheckTarget returns nil when the target of a migration that has begun here is ready for the switchover. Errors: ErrNotReady,
// ErrUnknownMachine, ErrState, ErrUnavailable.
func (m *Map) CheckTarget(ctx context.Context, name string) error {
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return err
	}
	unlock() // a look changes nothing, and is to keep nothing waiting
	if l.State != Leaving && l.State != Switching {
		return m.wrongState(l, "look at the target of a migration")
	}
	e, err := m.Fleet.Get(ctx, hostKey(l.Peer))
	if err != nil {
		return err
	}
	return m.checkReady(ctx, l, e[0])
}

// handOver flips and commits: s is the machine's record and target that of its new host, as just read.
func (m *Map) handOver(ctx context.Context, l Local, s stored, target Entry) (Outcome, error) {
	first := l.State == Leaving
	l.State = Switching
	if err := m.record(ctx, l); err != nil {
		return "", err
	}
	// gofail: var beforeFlip struct{}
	if err := m.Datapath.Flip(m.id(l.Machine), l.Peer, l.Epoch); err != nil {
		if first {
			err = errors.Join(err, m.goBack(ctx, l))
		}
		return "", err
	}
	// gofail: var afterFlip struct{}
	next := m.owned(l)
	next.Host, next.Epoch = l.Peer, l.Epoch+1
	// That the target's record is unchanged keeps a switchover from racing with the target's removal.
	revision, err := m.Fleet.Commit(ctx, Txn{
		If:   []Condition{s.unchanged(), {Key: target.Key, ModRevision: target.ModRevision}},
		Then: []Write{{Key: s.key.Key, Value: encode(next)}},
	})
	switch {
	case err == nil:
		return Committed, m.depart(ctx, l, revision)
	case errors.Is(err, ErrConflict):
		return m.refused(ctx, l, s, err)
	case first && errors.Is(err, ErrUnavailable): // certainly not written, now or before
		return "", errors.Join(err, m.goBack(ctx, l))
	}
	return "", err
}

// refused finds out why the store refused the switchover.
func (m *Map) refused(ctx context.Context, l Local, before stored, why error) (Outcome, error) {
	now, err := m.read(ctx, l.Machine)
	if err != nil {
		return "", err
	}
	if outcome, err := m.resolve(ctx, l, now); outcome != "" || err != nil {
		return outcome, err
	}
	if now.key.ModRevision != before.key.ModRevision {
		return InDoubt, nil
	}
	// The machine's record is as it was, so the target's has changed. What refused this transaction refuses all earlier
	// ones, because revisions never return. So nothing is in doubt.
	return "", errors.Join(fmt.Errorf("%w; repeat, or abort", why), m.goBack(ctx, l))
}

// resolve compares a leaving or switching machine with its record, read just now, and acts on what is decided:
// Committed when the target owns it, Aborted when nothing says any more that it is to; else nothing yet.
func (m *Map) resolve(ctx context.Context, l Local, s stored) (Outcome, error) {
	r := s.record
	switch {
	case r == nil && l.State == Switching:
		// Whoever took it has taken the outcome too.
		return "", fmt.Errorf("%w: the record of machine %q has gone from the store while its switchover was in doubt; abort it to keep the machine here", ErrState, l.Name)
	case r != nil && r.Epoch > l.Epoch && r.Host == m.Self.ID:
		return "", fmt.Errorf("%w: the store has machine %q on this host at epoch %d, this host's database at epoch %d; is it an old copy?", ErrState, l.Name, r.Epoch, l.Epoch)
	case r != nil && r.Epoch > l.Epoch:
		return Committed, m.depart(ctx, l, s.key.ModRevision)
	case r == nil || r.Epoch < l.Epoch || r.MovingTo != l.Peer:
		return Aborted, m.stay(ctx, l)
	}
	return "", nil
}

// depart makes l a machine that has left: this host forwards what still comes for it.
func (m *Map) depart(ctx context.Context, l Local, revision Revision) error {
	m.hints.add(hint{l.Peer, l.Machine})
	l.State, l.Revision, l.OnFirstPacket = Away, revision, false
	if err := m.putEntry(l); err != nil {
		return err
	}
	return m.record(ctx, l)
}

// goBack makes a switching machine a leaving one again; the caller knows that no switchover can win any more.
func (m *Map) goBack(ctx context.Context, l Local) error {
	l.State = Leaving
	if err := m.putEntry(l); err != nil {
		return err
	}
	return m.record(ctx, l)
}
