package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
)

// DeclareDead records, on an operator's word, that a host is lost: every other host refuses its packets from then on, its
// machines can be claimed (Claim) and its blocks adopted (Adopt). Should it still run it stops all its machines as soon as it
// learns of it, and should it come back it carries nothing; see fence.go. It is refused for this host, and for one that holds
// its `alive` key unless forced. Errors: ErrUsage, ErrUnknownHost, ErrState, ErrStandalone, ErrUnavailable, ErrInDoubt.
func (m *Map) DeclareDead(ctx context.Context, id addr.Host, force bool) (Host, error) {
	if m.standalone {
		return Host{}, fmt.Errorf("%w: there is no other host that could be dead", ErrStandalone)
	}
	if id == m.Self.ID {
		return Host{}, fmt.Errorf("%w: host %d is this host, and answers; declare it dead on another one", ErrUsage, id)
	}
	for {
		e, h, err := m.readHost(ctx, id)
		if err != nil || h.State == Dead { // repeated
			return h, err
		}
		var silent []Condition
		if !force {
			alive, err := m.Fleet.Get(ctx, aliveKey(id))
			if err != nil {
				return Host{}, fmt.Errorf("look whether host %d is alive: %w", id, err)
			}
			if alive[0].ModRevision != 0 {
				return Host{}, fmt.Errorf("%w: host %d is alive: it reached the store less than %s ago; stop it, or force this if it cannot be stopped", ErrState, id, aliveFor)
			}
			silent = []Condition{alive[0].unchanged()}
		}
		now := h
		now.State, now.Fenced = Dead, false
		if _, err = m.writeHost(ctx, e, h, now, silent...); !errors.Is(err, ErrConflict) {
			return now, err
		}
	}
}

// Revive takes that back: the host is cordoned. It gives up what was claimed meanwhile, and then carries packets for the
// machines that it still has. It must have stopped, and said so: one that was cut off may not know yet that it was declared
// dead, and would go on in the name of machines that others have by now. Errors: ErrUnknownHost, ErrState, ErrUnavailable, ErrInDoubt.
func (m *Map) Revive(ctx context.Context, id addr.Host) (Host, error) {
	return m.changeHost(ctx, id, func(h Host) (HostState, error) {
		switch {
		case h.State == Dead && !h.Fenced:
			return "", refusedIn(h, "has not stopped yet, as far as is known: start its daemon where it reaches the store, then repeat")
		case h.State == Dead, h.State == Cordoned: // or repeated
			return Cordoned, nil
		}
		return "", refusedIn(h, "is not dead")
	})
}

// isDead reports whether a host is dead, as far as this one knows.
func (m *Map) isDead(id addr.Host) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fleet.hosts[id].State == Dead
}

// refuseDead has the datapath refuse what a host sends whose record says that it is dead, and of no other; nil: it has none.
// The caller holds mu.
func (m *Map) refuseDead(id addr.Host, now *Host) error {
	switch {
	case id == m.Self.ID:
		return nil // it is fenced
	case now != nil && now.State == Dead:
		return m.Datapath.PutDead(id)
	case m.fleet.restoring:
		return nil // the cache may be older than the kernel's maps
	}
	return m.Datapath.DeleteDead(id)
}

// dropStrayDead is dropStrays for dead hosts. The caller holds mu.
func (m *Map) dropStrayDead() error {
	dead, err := m.Datapath.DeadHosts()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range dead {
		if m.fleet.hosts[id].State != Dead {
			m.Logger.Info("host is not dead any more", "host", id)
			errs = append(errs, m.Datapath.DeleteDead(id))
		}
	}
	return errors.Join(errs...)
}
