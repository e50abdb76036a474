package hwmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"ip6d/addr"
)

// catchUp joins the fleet and adopts its map as it is now. It returns the revision to watch from.
// Errors: ErrDisagree, ErrClaimed, ErrUnavailable, ErrInDoubt (try again).
func (m *Map) catchUp(ctx context.Context) (Revision, error) {
	if err := m.join(ctx); err != nil {
		return 0, err
	}
	if err := m.askStore(ctx); err != nil {
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
	for {
		err := m.joinOnce(ctx)
		switch {
		case err == nil:
			m.gate.set(nil)
		case errors.Is(err, ErrConflict): // another host joined at the same time
			continue
		case errors.Is(err, ErrDisagree), errors.Is(err, ErrClaimed):
			m.gate.set(err)
		}
		return err
	}
}

func (m *Map) joinOnce(ctx context.Context) error {
	self := hostKey(m.Self.ID)
	e, err := m.Fleet.Get(ctx, metaKey, self)
	if err != nil {
		return fmt.Errorf("join the fleet: %w", err)
	}
	t := Txn{If: []Condition{{Key: metaKey, ModRevision: e[0].ModRevision}, {Key: self, ModRevision: e[1].ModRevision}}}
	meta := Meta{
		Version: FormatVersion, MinimumReader: FormatVersion,
		Stable: m.Plan.StablePrefix(), Routing: m.Plan.RoutingPrefix(), Cell: m.Cell,
		FirstHost: 1, LastHost: math.MaxUint32,
	}
	if e[0].Value == nil {
		t.Then = append(t.Then, Write{Key: metaKey, Value: encode(meta)})
	} else if meta, err = decode[Meta](e[0]); err != nil {
		return err
	}
	if err := m.agree(meta); err != nil {
		return err
	}
	if err := m.checkIdentity(ctx); err != nil {
		return err
	}
	record := m.Self
	record.State, record.Deaths = m.ownState() // of a record that has gone from the store, as it was
	if e[1].Value != nil {
		claimed, err := decode[Host](e[1])
		if err != nil {
			return err
		}
		if claimed.Identity != m.Self.Identity {
			return fmt.Errorf("%w: id %d belongs to %q with identity %q, this server's is %q; give this server an id of its own",
				ErrClaimed, m.Self.ID, claimed.Name, claimed.Identity, m.Self.Identity)
		}
		record.State, record.Deaths = claimed.State, claimed.Deaths
	}
	if value := encode(record); !bytes.Equal(value, e[1].Value) {
		t.Then = append(t.Then, Write{Key: self, Value: value})
	}
	if len(t.Then) > 0 {
		// Past the gate, which this is to open.
		if _, err := m.gate.Store.Commit(ctx, t); err != nil {
			return fmt.Errorf("claim host id %d: %w", m.Self.ID, err)
		}
	}
	return m.heedOwn(ctx, record)
}

// ownState is what this host's record said last: its state, and how often it was declared dead.
func (m *Map) ownState() (HostState, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state, max(m.fleet.hosts[m.Self.ID].Deaths, m.fence.is.Deaths)
}

// checkIdentity refuses a second id for one server: two hosts of the map would then be one, and each in the other's way.
// A server that was copied with its keys is none of its own either.
func (m *Map) checkIdentity(ctx context.Context) error {
	entries, _, err := m.Fleet.List(ctx, hostsPrefix)
	if err != nil {
		return fmt.Errorf("list hosts: %w", err)
	}
	for _, e := range entries {
		h, err := decode[Host](e)
		if err == nil && h.Identity == m.Self.Identity && h.ID != m.Self.ID {
			return fmt.Errorf("%w: this server, with identity %q, is host %d already, not %d; correct host, or give this server an identity of its own",
				ErrClaimed, h.Identity, h.ID, m.Self.ID)
		}
		if err == nil && m.Self.PeerKey != "" && h.PeerKey == m.Self.PeerKey && h.ID != m.Self.ID {
			return fmt.Errorf("%w: this server's key for other hosts is that of host %d, %q; remove peer.key in state_dir, for a key of its own",
				ErrClaimed, h.ID, h.Name)
		}
		if err == nil && m.Self.WireGuardKey != "" && h.WireGuardKey == m.Self.WireGuardKey && h.ID != m.Self.ID {
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
	for {
		if err := m.Fleet.Hold(ctx, aliveKey(m.Self.ID), []byte("{}"), aliveFor); err != nil && ctx.Err() == nil {
			m.Logger.Warn("alive key lost", "error", err)
		}
		if err := pause(ctx, retryPause); err != nil {
			return err
		}
	}
}

// publishApplied publishes what this host has applied, which finish waits for: at most once a second, at once where a
// machine's owner changed, and a while after any other change of a machine's record.
func (m *Map) publishApplied(ctx context.Context) error {
	for {
		select {
		case <-m.appliedWanted:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := m.publishRevision(ctx); err != nil && ctx.Err() == nil {
			m.Logger.Warn("applied revision not published, trying again", "error", err)
			wish(m.appliedWanted)
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
}

// publishRevision writes which revision this host's kernel maps reflect. It is conditional like every write: an older one
// that was long on its way must not take it back.
func (m *Map) publishRevision(ctx context.Context) error {
	key := appliedKey(m.Self.ID)
	e, err := m.Fleet.Get(ctx, key)
	if err != nil {
		return err
	}
	m.mu.Lock()
	revision := m.fleet.revision
	m.mu.Unlock()
	_, err = m.Fleet.Commit(ctx, Txn{
		If:   []Condition{{Key: key, ModRevision: e[0].ModRevision}},
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
