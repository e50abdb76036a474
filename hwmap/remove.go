package hwmap

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"ip6d/addr"
)

// Remove takes a host out of the fleet, which nothing in the fleet's map may point at: no block, no machine, no machine on
// its way. The host is marked as removing first: whatever would make something point at it compares its record, so that one of
// the two loses. Then it is looked again, and what is deleted are this host's keys, and no others.
//
// Refused, it leaves the host's state as it was. A repetition that finds no host any more is ErrUnknownHost. Errors:
// ErrState, ErrConflict when somebody else changed the host meanwhile, ErrUnknownHost, ErrStandalone, ErrUnavailable and
// ErrInDoubt; repeat it after these, because the host may be left removing.
func (m *Map) Remove(ctx context.Context, id addr.Host) error {
	if m.standalone {
		return fmt.Errorf("%w: a standalone host is a fleet of its own, and cannot be removed", ErrStandalone)
	}
	e, before, err := m.readHost(ctx, id)
	if err != nil {
		return err
	}
	if err := m.checkUnused(ctx, before); err != nil { // the usual refusal changes nothing, not even for a moment
		return err
	}
	removing := e
	if before.State != Removing {
		if removing, err = m.writeState(ctx, e, before, Removing); err != nil {
			return fmt.Errorf("remove host %d: %w", id, err)
		}
	}
	if err := m.checkUnused(ctx, before); err != nil {
		return errors.Join(err, m.keepHost(ctx, removing, before.State))
	}
	return m.deleteHost(ctx, removing, id)
}

// checkUnused returns an error that wraps ErrState while something in the store points at the host, and says what.
func (m *Map) checkUnused(ctx context.Context, h Host) error {
	entries, _, err := m.Fleet.List(ctx, blocksPrefix)
	if err != nil {
		return fmt.Errorf("list blocks: %w", err)
	}
	var blocks, adopted, on, coming []string
	for _, e := range entries {
		b, err := decode[Block](e)
		if err != nil {
			return err // it may be that host's
		}
		if b.Home == h.ID {
			blocks = append(blocks, fmt.Sprint(b.Block))
		}
		if b.AdoptedFrom == h.ID { // its machines that have no record are still this host's
			adopted = append(adopted, fmt.Sprint(b.Block))
		}
	}
	entries, _, err = m.Fleet.List(ctx, machinesPrefix)
	if err != nil {
		return fmt.Errorf("list machines: %w", err)
	}
	for _, e := range entries {
		r, err := decode[Machine](e)
		if err != nil {
			return err // it may be on that host
		}
		switch {
		case r.Destroyed: // its home frees the id
		case r.Host == h.ID:
			on = append(on, fmt.Sprintf("%q", r.Name))
		case r.MovingTo == h.ID:
			coming = append(coming, fmt.Sprintf("%q", r.Name))
		}
	}
	var reasons []string
	for _, r := range []struct {
		what string
		of   []string
	}{{"home of %d blocks (%s)", blocks}, {"earlier home of %d adopted blocks that are frozen (%s)", adopted}, {"host of %d machines (%s)", on}, {"target of %d moves (%s)", coming}} {
		if len(r.of) > 0 {
			reasons = append(reasons, fmt.Sprintf(r.what, len(r.of), firstOf(r.of)))
		}
	}
	if len(reasons) == 0 {
		return nil
	}
	return fmt.Errorf("%w: host %d cannot be removed: it is %s; drain it first", ErrState, h.ID, strings.Join(reasons, ", and "))
}

// keepHost gives a host that is not removed its earlier state back.
func (m *Map) keepHost(ctx context.Context, removing Entry, state HostState) error {
	if state == Removing {
		return nil // an earlier call's, and nobody knows what it was before; `ip6d host cordon` calls the removal off
	}
	h, err := decode[Host](removing)
	if err != nil {
		return err
	}
	_, err = m.writeState(ctx, removing, h, state)
	if errors.Is(err, ErrConflict) {
		return nil // somebody else has decided
	}
	return err
}

// deleteHost deletes what the store has of a host that is removing, and has been since it was looked for what points at it.
func (m *Map) deleteHost(ctx context.Context, removing Entry, id addr.Host) error {
	keys := []Key{removing.Key, appliedKey(id), witnessKey(id)}
	for {
		entries, err := m.Fleet.Get(ctx, keys...)
		if err != nil {
			return fmt.Errorf("remove host %d: %w", id, err)
		}
		if entries[0].ModRevision != removing.ModRevision {
			return fmt.Errorf("remove host %d: %w", id, ErrConflict)
		}
		var t Txn
		for _, e := range entries {
			t.If = append(t.If, e.unchanged())
			t.Then = append(t.Then, Write{Key: e.Key})
		}
		switch _, err := m.Fleet.Commit(ctx, t); {
		case errors.Is(err, ErrConflict): // the host lives, and tells what it does; or somebody else has decided
		case err != nil:
			return fmt.Errorf("remove host %d: %w", id, err)
		default:
			m.Logger.Info("host removed", "host", id)
			return nil
		}
	}
}
