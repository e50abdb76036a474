package hwmap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ip6d/addr"
)

// settle acts on machines of this host whose record changed, by reading it from the store: it may be long outdated in
// the watch, and the hints of other hosts say nothing but that there is something to read.
func (m *Map) settle(ctx context.Context) error {
	for {
		machines, err := m.unsettled.take(ctx)
		if err != nil {
			return err
		}
		failed := false
		for _, number := range machines {
			if err := m.settleMachine(ctx, number); err != nil && ctx.Err() == nil {
				failed = true
				m.Logger.Warn("machine not settled, trying again", "machine", number, "error", err)
				m.unsettled.add(number)
			}
		}
		if failed {
			if err := pause(ctx, retryPause); err != nil {
				return err
			}
		}
	}
}

func (m *Map) settleMachine(ctx context.Context, number addr.Machine) error {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	l, known := m.lookup(number)
	if !known {
		return nil
	}
	e, err := m.Fleet.Get(ctx, machineKey(number))
	if err != nil {
		return err
	}
	if e[0].Value == nil {
		return nil // never moved
	}
	r, err := decode[Machine](e[0])
	if errors.Is(err, errMalformed) {
		m.Logger.Error("record left alone", "error", err)
		return nil
	}
	switch l.State {
	case Leaving, Switching:
		if l.State == Leaving && r.MovingTo == 0 && r.Epoch == l.Epoch {
			return nil // begin has not come so far, or an abort did: the next call on it finds out
		}
		_, err := m.resolve(ctx, &l, e[0])
		return err
	case Incoming:
		switch {
		case r.Host == m.Self.ID && r.Epoch > l.Epoch && !r.Destroyed:
			return m.arrive(ctx, l, r)
		case r.MovingTo != m.Self.ID || r.Epoch != l.Epoch:
			return m.withdraw(ctx, l)
		}
	case Here:
		switch {
		case r.Host != m.Self.ID && r.Epoch > l.Epoch:
			m.Logger.Error("another host owns a machine that this host has; destroy one of the two", "machine", l.Name, "host", r.Host, "epoch", r.Epoch)
		case r.Host == m.Self.ID && r.MovingTo != 0:
			// Left by a begin that was given up while its outcome was unknown.
			return m.abort(ctx, l)
		}
	case Issued:
		if r.Destroyed {
			return m.quarantine(ctx, l, r.Epoch)
		}
	case Quarantined:
		if !r.Destroyed && r.Epoch <= l.Epoch {
			return m.publishDestroyed(ctx, l)
		}
	}
	return nil
}

// publishDestroyed marks the machine's record, where it has one, as destroyed. Errors: ErrUnavailable, ErrInDoubt,
// ErrConflict: the machine is another host's.
func (m *Map) publishDestroyed(ctx context.Context, l Local) error {
	key := machineKey(l.Machine)
	e, err := m.Fleet.Get(ctx, key)
	if err != nil || e[0].Value == nil {
		return err
	}
	r, err := decode[Machine](e[0])
	if err != nil {
		return err
	}
	if r.Destroyed {
		return nil
	}
	if r.Host != m.Self.ID || r.Epoch != l.Epoch {
		return fmt.Errorf("%w: the store has the machine on host %d at epoch %d, this host has it at epoch %d", ErrConflict, r.Host, r.Epoch, l.Epoch)
	}
	r.Destroyed, r.MovingTo = true, 0
	_, err = m.Fleet.Commit(ctx, Txn{
		If:   []Condition{{Key: key, ModRevision: e[0].ModRevision}},
		Then: []Write{{Key: key, Value: encode(r)}},
	})
	return err
}

// sweepPause is how often quarantines are looked at.
const sweepPause = 10 * time.Second

// sweep frees the ids whose quarantine has passed. The key goes first: while it stands, the id is not free.
func (m *Map) sweep(ctx context.Context) error {
	for {
		for _, number := range m.localInStates(Quarantined) {
			if err := m.release(ctx, number); err != nil && ctx.Err() == nil {
				m.Logger.Warn("id not freed, trying again", "machine", number, "error", err)
			}
		}
		if err := pause(ctx, sweepPause); err != nil {
			return err
		}
	}
}

func (m *Map) release(ctx context.Context, number addr.Machine) error {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	l, ok := m.lookup(number)
	if !ok || l.State != Quarantined || m.Now().Before(l.Until) {
		return nil
	}
	key := machineKey(number)
	e, err := m.Fleet.Get(ctx, key)
	if err != nil {
		return err
	}
	if e[0].Value != nil {
		if err := m.publishDestroyed(ctx, l); err != nil {
			return err
		}
		if e, err = m.Fleet.Get(ctx, key); err != nil {
			return err
		}
		_, err := m.Fleet.Commit(ctx, Txn{
			If:   []Condition{{Key: key, ModRevision: e[0].ModRevision}},
			Then: []Write{{Key: key}},
		})
		if err != nil {
			return err
		}
	}
	return m.free(ctx, l)
}
