package hwmap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"ip6d/addr"
)

// settlers is how many machines are settled at once, so that one that waits for a slow host or a long operation does not
// hold up the others.
const settlers = 8

// settle acts on machines of this host whose record may have changed, by reading it from the store: what the watch said may
// be long outdated, and the hints of other hosts say nothing but that there is something to read.
func (m *Map) settle(ctx context.Context) error {
	probes := rate.NewLimiter(rate.Every(maxRetryPause), 1)
	g, ctx := errgroup.WithContext(ctx)
	for range settlers {
		g.Go(func() error {
			for {
				number, err := m.unsettled.take(ctx)
				if err != nil {
					return err
				}
				wait, back := retryPause, m.whenFollowed()
				if back == nil || probes.Allow() {
					err = m.settleMachine(ctx, number)
				} else {
					wait, err = unfollowedPause, errUnfollowed
				}
				if err == nil || ctx.Err() != nil {
					continue
				}
				if back == nil { // else follow has told it
					m.Logger.Warn("machine not settled, trying again", "machine", number, "error", err)
				}
				g.Go(func() error {
					defer m.unsettled.add(number)
					return pauseOr(ctx, wait, back)
				})
			}
		})
	}
	return g.Wait()
}

// unfollowedPause is how long a machine waits at most before it is settled, while the fleet's store is away: there may be
// many, and each that asks a store in trouble adds to that. So one asks now and then, which may find that the store answers
// though it is not followed; the others wait until it is.
const unfollowedPause = time.Minute

var errUnfollowed = fmt.Errorf("%w: it is not followed", ErrUnavailable)

// whenFollowed returns what is closed when the fleet's store is followed again; nil while it is, or is not for another reason
// than that it is away.
func (m *Map) whenFollowed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fleet.following || !errors.Is(m.fleet.err, ErrUnavailable) {
		return nil
	}
	if m.fleet.back == nil {
		m.fleet.back = make(chan struct{})
	}
	return m.fleet.back
}

func (m *Map) settleMachine(ctx context.Context, number addr.Machine) error {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	return m.settleHeld(ctx, number)
}

// settleHeld is settleMachine for a caller who holds the machine's lock.
func (m *Map) settleHeld(ctx context.Context, number addr.Machine) error {
	l, known := m.lookup(number)
	if m.mayChange() != nil || m.mayMove() != nil { // what lets it change again has all of them settled
		return nil
	}
	if !known {
		return m.settleUnknown(ctx, number)
	}
	s, err := m.read(ctx, number)
	if errors.Is(err, errMalformed) {
		m.Logger.Error("record left alone", "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	if l.Silenced {
		return m.settleSilenced(ctx, l, s)
	}
	switch l.State {
	case Here:
		return m.settleHere(ctx, l, s)
	case Leaving, Switching:
		_, err := m.resolve(ctx, l, s)
		if errors.Is(err, ErrState) {
			m.Logger.Error("machine needs an operator", "error", err)
			return nil
		}
		return err
	case Incoming:
		switch {
		case l.Claiming:
			return m.pursueClaim(ctx, l)
		case s.arrived(m.Self.ID, l):
			return m.arrive(ctx, l, *s.record)
		case !s.invites(m.Self.ID, l):
			return m.withdraw(ctx, l)
		}
	case Destroying:
		if s.record != nil && !s.destroyed(l) && m.disputed(l, s.record) == nil {
			if err := m.publishDestroyed(ctx, l); err != nil {
				return errors.Join(err, m.silence(l))
			}
		} // else its home knows, or has freed the id already
		return m.end(ctx, l)
	case Issued:
		if r := s.record; r != nil && r.Destroyed {
			return m.quarantine(ctx, l, max(l.Epoch, r.Epoch))
		}
	case Quarantined:
		if err := m.disputed(l, s.record); err != nil && !s.record.Destroyed {
			m.Logger.Error("the id in quarantine is in use; it is not freed", "machine", s.record.Name, "error", err)
			return nil
		}
		return m.publishDestroyed(ctx, l)
	case Free:
		if r := s.record; r != nil {
			// A transaction wrote it that was very long on its way. Whoever read it has a quarantine's time to forget it.
			return m.quarantine(ctx, l, l.Epoch)
		}
	}
	return nil
}

// settleHere acts on the record of a machine that is on this host and going nowhere.
func (m *Map) settleHere(ctx context.Context, l Local, s stored) error {
	home, err := m.isHome(l.Machine)
	if err != nil {
		return err
	}
	owned := m.owned(l)
	switch r := s.record; {
	case r == nil && home, r != nil && *r == owned: // it never moved, or all is well
		return nil
	case r != nil && r.Destroyed && r.Epoch == l.Epoch && r.Host == m.Self.ID: // a destroy that did not come to its end
		return m.end(ctx, l)
	}
	if err := m.disputed(l, s.record); err != nil {
		m.Logger.Error("another host owns a machine that this host has; detach it here", "machine", l.Name, "error", err)
		return nil
	}
	// The record is missing, which frees nothing; or of an earlier owner; or left by a begin that was given up while its
	// outcome was unknown.
	_, err = m.replace(ctx, s, &owned)
	return err
}

// sweepPause is how often quarantines are looked at.
const sweepPause = 10 * time.Second

// sweep frees the ids whose quarantine has passed, one by one or by the block.
func (m *Map) sweep(ctx context.Context) error {
	var trouble backoff
	for {
		m.issueFromWaiting()
		var unavailable error
		for _, number := range m.localInState(Quarantined) {
			err := m.release(ctx, number)
			if errors.Is(err, ErrUnavailable) { // so it would be for the others
				unavailable = err
				break
			}
			if err != nil && ctx.Err() == nil {
				m.Logger.Warn("id not freed, trying again", "machine", number, "error", err)
			}
		}
		if unavailable == nil {
			trouble.over()
		} else if ctx.Err() == nil {
			trouble.tell(m.Logger, "ids not freed, trying again", unavailable)
		}
		if err := pause(ctx, sweepPause); err != nil {
			return err
		}
	}
}

// release makes an id free to be issued again, above its epoch, if its quarantine has passed. The key goes first: while
// it stands, the id is not free.
func (m *Map) release(ctx context.Context, number addr.Machine) error {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	l, ok := m.lookup(number)
	if !ok || m.mayChange() != nil || m.mayMove() != nil || l.State != Quarantined || m.Now().Before(l.Until) {
		return nil
	}
	s, err := m.read(ctx, number)
	if err != nil {
		return err
	}
	b, err := optional[Block](s.block)
	if err != nil {
		return err
	}
	if b != nil && b.AdoptedFrom != 0 && s.record != nil {
		return nil // without the record, the machine could be claimed, as one of the dead host's that never moved
	}
	if r := s.record; r != nil {
		if err := m.disputed(l, r); err != nil && !r.Destroyed {
			return err
		}
		l.Epoch = max(l.Epoch, r.Epoch)
		if _, err := m.replace(ctx, s, nil); err != nil {
			return err
		}
	}
	return m.record(ctx, Local{Machine: number, Epoch: l.Epoch, State: Free})
}
