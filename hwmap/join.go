package hwmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"ip6d/addr"
)

// catchUp joins the fleet and adopts its map as it is now. It returns the revision to watch from.
// Errors: ErrDisagree, ErrClaimed, ErrUnavailable, ErrInDoubt (try again).
func (m *Map) catchUp(ctx context.Context) (Revision, error) {
	meta, err := m.judgeStore(ctx)
	if err != nil {
		return 0, err
	}
	if err := m.join(ctx); err != nil {
		return 0, err
	}
	if err := m.askStore(ctx); err != nil {
		return 0, err
	}
	if !m.standalone {
		if meta == nil || meta.Store == "" { // which this host has made, or another one, of before there were generations
			meta = &Meta{Store: m.storeID(), Generation: firstGeneration}
		}
		if err := m.takeStore(ctx, *meta); err != nil {
			return 0, err
		}
	}
	if err := m.checkConfirmed(ctx); err != nil {
		return 0, err
	}
	entries, revision, err := m.Fleet.List(ctx, mapPrefix)
	if err != nil {
		return 0, fmt.Errorf("list the fleet's map: %w", err)
	}
	return revision, m.adopt(ctx, entries, revision)
}

// join checks that the fleet's store agrees with this host's settings, and claims the host's id with its identity. Only
// then does this host write to the store. Errors: as catchUp.
func (m *Map) join(ctx context.Context) error {
	o := m.Options
	o.Fleet = m.gate.Store // past the gate, which this is to open
	record, err := o.claim(ctx, m.mayRejoin, false)
	switch {
	case err == nil:
		if err := m.heedOwn(ctx, record); err != nil {
			return err
		}
		m.mu.Lock()
		m.member = true
		m.mu.Unlock()
		m.gate.set(nil)
	case errors.Is(err, ErrDisagree), errors.Is(err, ErrClaimed):
		m.gate.set(err)
	case errors.Is(err, ErrRemoved):
		m.gate.set(err)
		err = errors.Join(err, m.closeUnlisted(ctx))
	}
	return err
}

// Join makes a host a member of the fleet, also one that was removed: its id is claimed with its identity in the store
// that is o.Fleet; of o, only Plan, Cell and Self count besides. A host that is a member stays what it is. isNew: the server
// has no database yet, and so nothing that others would have to wait for after the store was accepted. The host's record is
// returned. Errors: ErrDisagree, ErrClaimed, ErrUnavailable, ErrInDoubt (try again).
func Join(ctx context.Context, o Options, isNew bool) (Host, error) {
	return o.claim(ctx, func(_ context.Context, record *Host) error {
		record.State = Joined
		return nil
	}, isNew)
}

// claim claims the host's id. unlisted completes the record of a host that has none, or says why it may have none. isNew: it
// then says in the host's name that it has nothing to publish.
func (o Options) claim(ctx context.Context, unlisted func(context.Context, *Host) error, isNew bool) (Host, error) {
	for {
		h, err := o.claimOnce(ctx, unlisted, isNew)
		if !errors.Is(err, ErrConflict) { // another host joined at the same time, or an operator had his say
			return h, err
		}
	}
}

func (o Options) claimOnce(ctx context.Context, unlisted func(context.Context, *Host) error, isNew bool) (Host, error) {
	self := hostKey(o.Self.ID)
	e, err := o.Fleet.Get(ctx, metaKey, self, witnessKey(o.Self.ID))
	if err != nil {
		return Host{}, fmt.Errorf("join the fleet: %w", err)
	}
	t := Txn{If: []Condition{e[0].unchanged(), e[1].unchanged()}}
	id, err := o.Fleet.ID(ctx)
	if err != nil {
		return Host{}, fmt.Errorf("identify the store: %w", err)
	}
	meta := o.newMeta(id)
	if e[0].Value == nil {
		t.Then = append(t.Then, Write{Key: metaKey, Value: encode(meta)})
	} else if meta, err = decode[Meta](e[0]); err != nil {
		return Host{}, err
	} else if meta.Store == "" { // of before there was one
		meta.Store, meta.Generation = id, firstGeneration
		t.Then = append(t.Then, Write{Key: metaKey, Value: encode(meta)})
	}
	if err := o.agree(meta); err != nil {
		return Host{}, err
	}
	if err := o.checkIdentity(ctx); err != nil {
		return Host{}, err
	}
	record := o.Self
	if e[1].Value != nil {
		claimed, err := decode[Host](e[1])
		if err != nil {
			return Host{}, err
		}
		if claimed.Identity != o.Self.Identity {
			return Host{}, fmt.Errorf("%w: id %d belongs to %q with identity %q, this server's is %q; give this server an id of its own",
				ErrClaimed, o.Self.ID, claimed.Name, claimed.Identity, o.Self.Identity)
		}
		record.State, record.Fenced = claimed.State, claimed.Fenced
	} else if err := unlisted(ctx, &record); err != nil {
		return Host{}, err
	} else if isNew && e[2].Value == nil {
		// It names no database: to the one that the daemon makes when it starts, it says nothing.
		t.If = append(t.If, e[2].unchanged())
		t.Then = append(t.Then, Write{Key: e[2].Key, Value: encode(StoreWitness{Generation: meta.Generation})})
	}
	if value := encode(record); !bytes.Equal(value, e[1].Value) {
		t.Then = append(t.Then, Write{Key: self, Value: value})
	}
	if len(t.Then) > 0 {
		if _, err := o.Fleet.Commit(ctx, t); err != nil {
			return Host{}, fmt.Errorf("claim host id %d: %w", o.Self.ID, err)
		}
	}
	return record, nil
}

// newMeta is the record about a store of that id which is new.
func (o Options) newMeta(id string) Meta {
	return Meta{
		Version: FormatVersion, MinimumReader: FormatVersion,
		Stable: o.Plan.StablePrefix(), Routing: o.Plan.RoutingPrefix(), Cell: o.Cell,
		FirstHost: 1, LastHost: math.MaxUint32,
		Store: id, Generation: firstGeneration,
	}
}

// storeID is the id of the store that answers; standalone there is none.
func (m *Map) storeID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fleet.id
}

// mayRejoin says what the record of this host is to say while the store has none: that it is joined, at its first start; later
// what it was, for a record that was lost frees nothing. But where the store has nothing that points at it, it was removed.
// Errors: ErrRemoved, ErrUnavailable.
func (m *Map) mayRejoin(ctx context.Context, record *Host) error {
	m.mu.Lock()
	record.State = m.state
	member := m.member
	m.mu.Unlock()
	if !member {
		record.State = Joined
		return nil
	}
	held := false
	var err error
	if record.State != Removing && record.State != Dead {
		held, err = m.isHeld(ctx)
	}
	if err != nil || held {
		return err
	}
	return fmt.Errorf("%w: the store has no record of host %d, and nothing that points at it; `ip6d host join` on this server makes it a member again",
		ErrRemoved, m.Self.ID)
}

// isHeld reports whether the store has something that would be lost with this host: a block or a machine of it; or whether
// a block that was this host's has gone from the store too. What this host believes itself does not count: it may have been
// dead for long.
func (m *Map) isHeld(ctx context.Context) (bool, error) {
	homes, err := m.homes(ctx)
	if err != nil || len(homes[m.Self.ID]) > 0 {
		return true, err
	}
	stored := make(map[addr.Block]bool)
	for _, blocks := range homes {
		for _, b := range blocks {
			stored[b] = true
		}
	}
	m.mu.Lock()
	for _, b := range m.fleet.blocks {
		if b.Home == m.Self.ID && !stored[b.Block] {
			m.mu.Unlock()
			return true, nil
		}
	}
	m.mu.Unlock()
	machines, _, err := m.Fleet.List(ctx, machinesPrefix)
	if err != nil {
		return false, fmt.Errorf("list machines: %w", err)
	}
	return slices.ContainsFunc(machines, func(e Entry) bool {
		r, err := decode[Machine](e)
		return err == nil && r.Host == m.Self.ID && !r.Destroyed
	}), nil
}

// checkIdentity refuses a second id for one server: two hosts of the map would then be one, and each in the other's way.
// A server that was copied with its keys is none of its own either.
func (o Options) checkIdentity(ctx context.Context) error {
	entries, _, err := o.Fleet.List(ctx, hostsPrefix)
	if err != nil {
		return fmt.Errorf("list hosts: %w", err)
	}
	for _, e := range entries {
		h, err := decode[Host](e)
		if err == nil && h.Identity == o.Self.Identity && h.ID != o.Self.ID {
			return fmt.Errorf("%w: this server, with identity %q, is host %d already, not %d; correct host, or give this server an identity of its own",
				ErrClaimed, h.Identity, h.ID, o.Self.ID)
		}
		if err == nil && o.Self.PeerKey != "" && h.PeerKey == o.Self.PeerKey && h.ID != o.Self.ID {
			return fmt.Errorf("%w: this server's key for other hosts is that of host %d, %q; remove peer.key in state_dir, for a key of its own",
				ErrClaimed, h.ID, h.Name)
		}
		if err == nil && o.Self.WireGuardKey != "" && h.WireGuardKey == o.Self.WireGuardKey && h.ID != o.Self.ID {
			return fmt.Errorf("%w: this server's WireGuard key is that of host %d, %q; remove wireguard.key in state_dir, for a key of its own",
				ErrClaimed, h.ID, h.Name)
		}
	}
	return nil
}

// CheckMeta compares the store's Meta, where there is one, with this host's settings. It needs Plan, Cell, Self and Fleet.
// Errors: ErrDisagree, ErrUnavailable, errMalformed.
func (o Options) CheckMeta(ctx context.Context) error {
	e, err := o.Fleet.Get(ctx, metaKey)
	if err != nil {
		return err
	}
	meta, err := optional[Meta](e[0])
	if err != nil || meta == nil {
		return err
	}
	return o.agree(*meta)
}

// agree checks the store's Meta against this host's settings.
func (o Options) agree(meta Meta) error {
	disagree := func(what string, theirs, ours any) error {
		return fmt.Errorf("%w: its %s is %v, this host's is %v", ErrDisagree, what, theirs, ours)
	}
	switch {
	case meta.MinimumReader > FormatVersion:
		return fmt.Errorf("%w: its records need format %d, this ip6d reads %d; upgrade this host", ErrDisagree, meta.MinimumReader, FormatVersion)
	case meta.Stable != o.Plan.StablePrefix():
		return disagree("stable prefix", meta.Stable, o.Plan.StablePrefix())
	case meta.Routing != o.Plan.RoutingPrefix():
		return disagree("routing prefix", meta.Routing, o.Plan.RoutingPrefix())
	case meta.Cell != o.Cell:
		return disagree("cell", meta.Cell, o.Cell)
	case o.Self.ID < meta.FirstHost || o.Self.ID > meta.LastHost:
		return fmt.Errorf("%w: its host ids are %d to %d, this host's is %d", ErrDisagree, meta.FirstHost, meta.LastHost, o.Self.ID)
	}
	return nil
}

// aliveFor is how long a host that died still counts as live: finish waits for it as long.
const aliveFor = 10 * time.Second

// stayAlive holds the one leased key: a hint that this host lives. Losing it deletes nothing.
func (m *Map) stayAlive(ctx context.Context) error {
	var trouble backoff
	for {
		began := time.Now()
		err := m.Fleet.Hold(ctx, aliveKey(m.Self.ID), []byte("{}"), aliveFor)
		if time.Since(began) > aliveFor { // it was held until now
			trouble.over()
		}
		if err != nil && ctx.Err() == nil {
			trouble.tell(m.Logger, "alive key lost", err)
		}
		if err := trouble.pause(ctx); err != nil {
			return err
		}
	}
}

// publishApplied publishes what this host has applied, which finish waits for: at most once a second, at once where a
// machine's owner changed, and a while after any other change of a machine's record.
func (m *Map) publishApplied(ctx context.Context) error {
	var trouble backoff
	for {
		select {
		case <-m.appliedWanted:
		case <-ctx.Done():
			return ctx.Err()
		}
		err := m.publishRevision(ctx)
		if err == nil {
			trouble.over()
		} else if ctx.Err() == nil {
			trouble.tell(m.Logger, "applied revision not published, trying again", err)
			wish(m.appliedWanted)
		}
		if err := trouble.pause(ctx); err != nil { // also after it was published: at most once a second
			return err
		}
	}
}

// publishRevision writes which revision this host's kernel maps reflect. It is conditional like every write: an older one
// that was long on its way must not take it back, and a host that was removed leaves nothing behind.
func (m *Map) publishRevision(ctx context.Context) error {
	key := appliedKey(m.Self.ID)
	e, err := m.Fleet.Get(ctx, key, hostKey(m.Self.ID))
	if err != nil {
		return err
	}
	if _, err := m.readMember(e[1]); err != nil {
		return err
	}
	m.mu.Lock()
	revision := m.fleet.revision
	m.mu.Unlock()
	_, err = m.Fleet.Commit(ctx, Txn{
		If:   []Condition{e[0].unchanged(), e[1].unchanged()},
		Then: []Write{{Key: key, Value: encode(revision)}},
	})
	return err
}

// lagging returns the live hosts that have not yet applied revision, this one among them.
func (m *Map) lagging(ctx context.Context, revision Revision) ([]addr.Host, error) {
	var lagging []addr.Host
	m.mu.Lock()
	if m.fleet.revision < revision {
		lagging = append(lagging, m.Self.ID)
	}
	m.mu.Unlock()
	alive, _, err := m.Fleet.List(ctx, alivePrefix)
	if err != nil {
		return nil, err
	}
	var keys []Key
	var hosts []addr.Host
	for _, e := range alive {
		n, err := e.Key.number(alivePrefix)
		if err != nil {
			return nil, err
		}
		// One that is not known here was removed, or joined since, and so has applied what was before.
		if _, err := m.host(addr.Host(n)); err != nil {
			continue
		}
		if h := addr.Host(n); h != m.Self.ID {
			hosts, keys = append(hosts, h), append(keys, appliedKey(h))
		}
	}
	if len(keys) == 0 {
		return lagging, nil
	}
	applied, err := m.Fleet.Get(ctx, keys...)
	if err != nil {
		return nil, err
	}
	for i, e := range applied {
		at := Revision(0)
		if e.Value != nil {
			if at, err = decode[Revision](e); err != nil {
				return nil, err
			}
		}
		if at < revision {
			lagging = append(lagging, hosts[i])
		}
	}
	return lagging, nil
}
