package hwmap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"ip6d/addr"
)

// What an operator may say of a host. Any daemon takes his word for any host and writes it into that host's record, on the
// record's revision; the host learns it from its watch. Saying the same again changes nothing.

// Cordon keeps new machines from a host: none is created there, none moves there, and it leases no block. A removal that
// has not come to its end is called off. Errors: ErrUnknownHost, ErrState, ErrUnavailable, ErrInDoubt.
func (m *Map) Cordon(ctx context.Context, id addr.Host) (Host, error) {
	return m.changeHost(ctx, id, func(h Host) (HostState, error) {
		switch h.State {
		case Joined, Cordoned, Removing:
			return Cordoned, nil
		case Draining: // which is cordoned, and more
			return Draining, nil
		}
		return "", refusedIn(h, "cannot be cordoned")
	})
}

// Uncordon lets a host take machines again; a drain is called off. Errors: as Cordon.
func (m *Map) Uncordon(ctx context.Context, id addr.Host) (Host, error) {
	return m.changeHost(ctx, id, func(h Host) (HostState, error) {
		switch h.State {
		case Joined, Cordoned, Draining:
			return Joined, nil
		case Removing:
			return "", fmt.Errorf("%w: host %d is being removed; `ip6d host cordon %d` calls that off", ErrState, h.ID, h.ID)
		}
		return "", refusedIn(h, "cannot be uncordoned")
	})
}

// BeginDrain records that a host is to be emptied. Like a cordoned one it takes no machines; that it is draining is what a
// drain that was interrupted is resumed by. Errors: as Cordon.
func (m *Map) BeginDrain(ctx context.Context, id addr.Host) (Host, error) {
	return m.changeHost(ctx, id, func(h Host) (HostState, error) {
		switch h.State {
		case Joined, Cordoned, Draining:
			return Draining, nil
		}
		return "", refusedIn(h, "cannot be drained")
	})
}

// EndDrain ends a drain, come to its end or called off: the host is cordoned. Once it is empty and has handed over its
// blocks, nothing in the fleet points at it: it can be switched off, removed, or uncordoned, and then leases anew.
// Errors: as Cordon.
func (m *Map) EndDrain(ctx context.Context, id addr.Host) (Host, error) {
	return m.changeHost(ctx, id, func(h Host) (HostState, error) {
		switch h.State {
		case Draining, Cordoned:
			return Cordoned, nil
		}
		return "", refusedIn(h, "has no drain to end")
	})
}

func refusedIn(h Host, what string) error {
	return fmt.Errorf("%w: host %d is %s and %s", ErrState, h.ID, h.State, what)
}

// changeHost makes the state of a host's record the one that next says.
func (m *Map) changeHost(ctx context.Context, id addr.Host, next func(Host) (HostState, error)) (Host, error) {
	for {
		e, h, err := m.readHost(ctx, id)
		if err != nil {
			return Host{}, err
		}
		state, err := next(h)
		if err != nil || state == h.State {
			return h, err
		}
		switch _, err := m.writeState(ctx, e, h, state); {
		case errors.Is(err, ErrConflict): // somebody else changed it: see to what
			continue
		case err != nil:
			return Host{}, err
		}
		h.State = state
		return h, nil
	}
}

// writeState writes a state into a host's record, if that is still as it was read: h is what e says. It returns the record as
// it is then. Errors: those of Store.Commit.
func (m *Map) writeState(ctx context.Context, e Entry, h Host, state HostState) (Entry, error) {
	now := h
	now.State = state
	return m.writeHost(ctx, e, h, now)
}

// writeHost is writeState for a record that says now afterwards, and on more conditions.
func (m *Map) writeHost(ctx context.Context, e Entry, before, now Host, more ...Condition) (written Entry, err error) {
	written = e
	if written.Value, err = withState(e, before, now); err != nil {
		return Entry{}, err
	}
	written.ModRevision, err = m.Fleet.Commit(ctx, Txn{
		If:   append(more, e.unchanged()),
		Then: []Write{{Key: e.Key, Value: written.Value}},
	})
	if err != nil {
		return Entry{}, fmt.Errorf("record that host %d is %s: %w", now.ID, now.State, err)
	}
	m.Logger.Info("host changed", "host", now.ID, "from", before.State, "to", now.State)
	if now.State == Joined {
		// Ids are issued by what the store said until then, all of it: not ahead of the watch.
		return written, nil
	}
	return written, m.applyWritten(ctx, []Entry{written})
}

// withState is the record of e, which says before, saying now. What a newer daemon wrote into it, and this one does not
// know, stays.
func withState(e Entry, before, now Host) ([]byte, error) {
	if string(encode(before)) == string(e.Value) {
		return encode(now), nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(e.Value, &fields); err != nil {
		return nil, fmt.Errorf("%w: %s at revision %d: %v", errMalformed, e.Key, e.ModRevision, err)
	}
	fields["state"] = encode(now.State)
	if now.Fenced != before.Fenced {
		fields["fenced"] = encode(now.Fenced)
	}
	return encode(fields), nil
}

// readHost reads a host's record from the store. Errors: ErrUnknownHost, ErrUnavailable, errMalformed.
func (m *Map) readHost(ctx context.Context, id addr.Host) (Entry, Host, error) {
	e, err := m.Fleet.Get(ctx, hostKey(id))
	if err != nil {
		return Entry{}, Host{}, fmt.Errorf("read the record of host %d: %w", id, err)
	}
	h, err := optional[Host](e[0])
	if err == nil && h == nil {
		err = unknownHost(id)
	}
	if err != nil {
		return Entry{}, Host{}, err
	}
	return e[0], *h, nil
}

// FindHost returns the id of a host, which is given by name or by id. Errors: ErrUnknownHost; ErrUsage where several have
// that name.
func (m *Map) FindHost(host string) (addr.Host, error) {
	if id, err := addr.ParseHost(host); err == nil { // a name is never a number: the configuration refuses one
		return id, nil
	}
	m.mu.Lock()
	var found []addr.Host
	for id, h := range m.fleet.hosts {
		if h.Name == host {
			found = append(found, id)
		}
	}
	m.mu.Unlock()
	switch slices.Sort(found); len(found) {
	case 0:
		return 0, fmt.Errorf("%w %q: `ip6d host list` shows those of the fleet", ErrUnknownHost, host)
	case 1:
		return found[0], nil
	}
	return 0, fmt.Errorf("%w: hosts %v have the name %q; give the id of one", ErrUsage, found, host)
}

func unknownHost(id addr.Host) error {
	return fmt.Errorf("%w %d: `ip6d host list` shows those of the fleet", ErrUnknownHost, id)
}

// takesMachines returns an error that wraps ErrState where no machine may be made on this host. The caller holds mu.
func (m *Map) takesMachines() error {
	switch m.state {
	case Joined:
		return nil
	case Cordoned, Draining:
		return fmt.Errorf("%w: this host is %s and takes no new machines; create it on another one, or `ip6d host uncordon %d`", ErrState, m.state, m.Self.ID)
	}
	return fmt.Errorf("%w: this host is %s and takes no new machines; create it on another one", ErrState, m.state)
}
