package hwmap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"ip6d/addr"
)

// KnownStore is what a host remembers, in its cache, of the fleet's store, to recognise it by.
type KnownStore struct {
	ID         string `json:"id"`
	Generation uint64 `json:"generation"` // see Meta
	Told       Mark   `json:"told"`       // what it was told last of this host's truth
}

// knownStoreKey is the key of the cache's KnownStore.
const knownStoreKey Key = "store"

// judgeStore decides whether the store that answers is the one that this host knows, and has not gone back in time: an etcd
// that was restored from a backup, set up anew, or is another fleet's. While it is suspect, this host neither reads nor
// writes there, and issues nothing. It returns the store's meta, nil where there is none.
// Errors: ErrSuspect with ErrUnavailable, those of the store.
func (m *Map) judgeStore(ctx context.Context) (*Meta, error) {
	if m.standalone {
		return nil, nil
	}
	// What is known is looked at before the store is: it grows meanwhile.
	m.mu.Lock()
	known, seen := m.fleet.known, m.fleet.revision
	keys := []Key{witnessKey(m.Self.ID), hostKey(m.Self.ID)}
	for number, b := range m.fleet.blocks {
		if b.Home == m.Self.ID && len(keys) == 2 {
			keys = append(keys, blockKey(number))
		}
	}
	m.mu.Unlock()
	contradiction := m.gate.contradiction()
	store := m.gate.Store
	id, err := store.ID(ctx) // from here on what it answers is not compared with what it answered before
	if err != nil {
		return nil, m.noteRestored(fmt.Errorf("identify the store: %w", err))
	}
	entries, revision, err := store.List(ctx, metaKey)
	if err != nil {
		return nil, m.noteRestored(fmt.Errorf("read the store's meta: %w", err))
	}
	own, err := store.Get(ctx, keys...)
	if err != nil {
		return nil, m.noteRestored(fmt.Errorf("read this host's records: %w", err))
	}
	e := Entry{Key: metaKey}
	for _, listed := range entries {
		if listed.Key == metaKey {
			e = listed
		}
	}
	meta, err := optional[Meta](e)
	if err != nil {
		return nil, err
	}
	reason := m.contradicted(known, id, meta)
	sameStore := meta != nil && meta.Store == id && known.ID == id
	if reason == "" && sameStore && meta.Generation == known.Generation { // else an operator accepted it since
		switch {
		case contradiction != "":
			reason = contradiction
		case revision < seen:
			reason = fmt.Sprintf("it is at revision %d, this host saw revision %d", revision, seen)
		default:
			if reason, err = forgotten(own, known.Told); err != nil {
				return nil, err
			}
		}
	}
	if reason == "" {
		m.gate.trust()
		m.mu.Lock()
		if m.fleet.suspect != "" {
			for number := range m.local {
				m.unsettled.add(number)
			}
		}
		m.fleet.suspect, m.fleet.id = "", id
		m.mu.Unlock()
		return meta, nil
	}
	m.suspectStore(reason)
	if sameStore && meta.Suspect == "" {
		// Other hosts, that saw less of it, would not notice. Where they can see it themselves, or where this host may
		// be the one that is wrong, it tells nobody.
		marked := *meta
		marked.Suspect = fmt.Sprintf("%s (host %d)", reason, m.Self.ID)
		_, err := store.Commit(ctx, Txn{If: []Condition{{Key: metaKey, ModRevision: e.ModRevision}}, Then: []Write{{Key: metaKey, Value: encode(marked)}}})
		if err != nil && !errors.Is(err, ErrConflict) {
			m.Logger.Warn("other hosts not told that the store is suspect, trying again", "error", err)
		}
	}
	return nil, m.gate.check()
}

// contradicted says what of the store contradicts what this host knows of it.
func (m *Map) contradicted(known KnownStore, id string, meta *Meta) string {
	switch {
	case meta == nil && (known.ID != "" || m.known):
		return "it has no records of a fleet, and this host had joined one in it"
	case meta == nil:
		return ""
	case meta.Suspect != "":
		return meta.Suspect
	case meta.Store != "" && meta.Store != id:
		return fmt.Sprintf("it is %s, and its records are of store %s", id, meta.Store)
	case known.ID == "" || meta.Generation > known.Generation: // an operator accepted it since
		return ""
	case meta.Generation < known.Generation:
		return fmt.Sprintf("it is of generation %d, this host knew it in generation %d", meta.Generation, known.Generation)
	case id != known.ID:
		return fmt.Sprintf("it is %s, this host knew store %s", id, known.ID)
	}
	return ""
}

// forgotten says what the store has forgotten of what it acknowledged to this host. That tells also where a restore raised
// the revisions. own are this host's witness, its record, and a block of it, if it has any. Where
// its record is not there, the host may have been removed; its blocks then have another home, and their records stay.
func forgotten(own []Entry, told Mark) (string, error) {
	switch {
	case told.Count > 0 && own[0].Value == nil && own[1].Value == nil && len(own) > 2 && own[2].Value == nil:
		return fmt.Sprintf("it has forgotten this host and %s", own[2].Key), nil
	case told.Count == 0 || own[1].Value == nil:
		return "", nil
	}
	w, err := optional[StoreWitness](own[0])
	switch {
	case err != nil:
		return "", err
	case w == nil: // the host was removed, and joined again
		return "", nil
	case w.ID == told.ID && w.Count < told.Count:
		return fmt.Sprintf("it knows of %d commits of this host's database, and was told of %d", w.Count, told.Count), nil
	}
	return "", nil
}

func (m *Map) knownStore() KnownStore {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fleet.known
}

// noteRestored keeps that the store contradicted itself for the next judgement.
func (m *Map) noteRestored(err error) error {
	m.gate.note(err)
	return err
}

func (m *Map) suspectStore(reason string) {
	m.mu.Lock()
	told := m.fleet.suspect == reason
	m.fleet.suspect = reason
	m.mu.Unlock()
	if !told {
		m.Logger.Error("the fleet's store was restored or replaced: nothing is issued or moved until an operator accepts it, packets go on",
			"reason", reason, "remedy", "bring the right store back, or run `ip6d store accept` on one host")
	}
	m.gate.distrust(fmt.Errorf("%w: the fleet's store: %s; bring the right one back, or run `ip6d store accept` on one host", ErrSuspect, reason))
}

// believes returns why this host may not issue anything. Errors: ErrSuspect. The caller holds mu.
func (m *Map) believes() error {
	if err := m.trustedLocked(); err != nil {
		return err
	}
	if m.fleet.suspect != "" {
		return fmt.Errorf("%w: the fleet's store: %s; bring the right one back, or run `ip6d store accept` on one host", ErrSuspect, m.fleet.suspect)
	}
	return nil
}

// mayMove returns why what the store says of machines and blocks may not be acted upon: after it was accepted, not before
// every host has published again what it knows. Until then a record that is missing may be one that is lost.
// Errors: ErrSuspect with ErrUnavailable.
func (m *Map) mayMove() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.fleet.suspect != "":
		return fmt.Errorf("%w: %w", ErrUnavailable, m.believes())
	case len(m.fleet.pending) == 0:
		return nil
	}
	return fmt.Errorf("%w: %w: the fleet's store was accepted, and hosts %v have not published their records again; start them, or declare them dead",
		ErrUnavailable, ErrSuspect, m.fleet.pending)
}

// AcceptStore makes a suspect store the fleet's store, on an operator's word, and returns its new generation. Every host then
// publishes again what it knows, and until all have, none leases a block or moves a machine.
// Errors: ErrState when it is not suspect, ErrDisagree, ErrConflict, ErrUnavailable, ErrInDoubt.
func (m *Map) AcceptStore(ctx context.Context) (generation uint64, err error) {
	if m.standalone {
		return 0, fmt.Errorf("%w: its own database is its store; `ip6d db accept` accepts that", ErrStandalone)
	}
	unlock, err := m.accepting.lock(ctx, struct{}{})
	if err != nil {
		return 0, err
	}
	defer unlock()
	_, err = m.judgeStore(ctx)
	if err == nil {
		return 0, fmt.Errorf("%w: the fleet's store is not suspect; there is nothing to accept", ErrState)
	}
	if !errors.Is(err, ErrSuspect) {
		return 0, err
	}
	id, err := m.gate.Store.ID(ctx)
	if err != nil {
		return 0, err
	}
	e, err := m.gate.Store.Get(ctx, metaKey)
	if err != nil {
		return 0, err
	}
	meta := m.newMeta(id)
	if e[0].Value != nil {
		if meta, err = decode[Meta](e[0]); err != nil {
			return 0, err
		}
		if err := m.agree(meta); err != nil {
			return 0, err
		}
	}
	// Before anybody believes the store: every host is to know whom it waits for.
	m.republishHosts(ctx)
	meta.Store, meta.Suspect, meta.Generation = id, "", max(meta.Generation, m.knownStore().Generation)+1
	_, err = m.gate.Store.Commit(ctx, Txn{
		If:   []Condition{{Key: metaKey, ModRevision: e[0].ModRevision}},
		Then: []Write{{Key: metaKey, Value: encode(meta)}},
	})
	if err != nil {
		return 0, fmt.Errorf("accept the store: %w", err)
	}
	m.Logger.Warn("the fleet's store was accepted", "store", id, "generation", meta.Generation)
	wish(m.followWanted)
	return meta.Generation, nil
}

// takeStore makes the store, whose meta this is, the one that this host knows. One that was accepted since is first told all
// that this host knows and it does not.
func (m *Map) takeStore(ctx context.Context, meta Meta) error {
	known := m.knownStore()
	if known.ID == meta.Store && known.Generation == meta.Generation {
		return nil
	}
	if meta.Generation > firstGeneration {
		if err := m.republish(ctx); err != nil {
			return fmt.Errorf("publish again what this host knows: %w", err)
		}
		var err error
		if known.Told, err = m.confirm(ctx, meta.Generation); err != nil {
			return fmt.Errorf("tell the store that all is published again: %w", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fleet.known.Told = known.Told
	m.fleet.known.ID, m.fleet.known.Generation = meta.Store, meta.Generation
	m.fleet.isNew = true
	return nil
}

// confirm tells that this host has published all that it knows, in this generation of the store, and what the store knows
// of the truth with that.
func (m *Map) confirm(ctx context.Context, generation uint64) (Mark, error) {
	for {
		e, err := m.Fleet.Get(ctx, witnessKey(m.Self.ID), hostKey(m.Self.ID))
		if err != nil {
			return Mark{}, err
		}
		w, err := optional[StoreWitness](e[0])
		if err != nil {
			return Mark{}, err
		}
		if w == nil {
			w = new(StoreWitness)
		}
		if mark := m.truth.now(); mark.ID != (DatabaseID{}) { // else it is suspect, and the store may know better
			w.Mark = mark
		}
		w.Generation = generation
		_, err = m.Fleet.Commit(ctx, Txn{
			If:   []Condition{e[0].unchanged(), e[1].unchanged()},
			Then: []Write{{Key: e[0].Key, Value: encode(*w)}},
		})
		if !errors.Is(err, ErrConflict) {
			return w.Mark, err
		}
	}
}

// unconfirmed returns the hosts that have not published all that they know in this generation of the store. A dead one never
// will.
func (m *Map) unconfirmed(ctx context.Context, generation uint64) (hosts []addr.Host, err error) {
	if generation <= firstGeneration {
		return nil, nil
	}
	entries, _, err := m.Fleet.List(ctx, hostsPrefix)
	if err != nil {
		return nil, err
	}
	var keys []Key
	var ids []addr.Host
	for _, e := range entries {
		if h, err := decode[Host](e); err == nil && h.State != Dead {
			keys, ids = append(keys, witnessKey(h.ID)), append(ids, h.ID)
		}
	}
	witnesses, err := m.Fleet.Get(ctx, keys...)
	if err != nil {
		return nil, err
	}
	for i, e := range witnesses {
		w, err := optional[StoreWitness](e)
		if err != nil {
			return nil, err
		}
		if w == nil || w.Generation < generation {
			hosts = append(hosts, ids[i])
		}
	}
	return hosts, nil
}

// checkConfirmed looks whether this host may act on what the store says by now.
func (m *Map) checkConfirmed(ctx context.Context) error {
	if m.standalone {
		return nil
	}
	pending, err := m.unconfirmed(ctx, m.knownStore().Generation)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(pending) == 0 && len(m.fleet.pending) > 0 {
		m.Logger.Info("every host has published its records again; machines move as before")
		for number := range m.local {
			m.unsettled.add(number)
		}
		for _, b := range m.fleet.blocks {
			m.fleet.pending = nil // or it would not
			m.issueFrom(b)
		}
		wish(m.leaseWanted)
	}
	m.fleet.pending = pending
	return nil
}

// confirmPause is how often a host looks whether all others have published again.
const confirmPause = 2 * time.Second

// awaitConfirmed does so while some have not.
func (m *Map) awaitConfirmed(ctx context.Context) error {
	for {
		m.mu.Lock()
		waits := len(m.fleet.pending) > 0
		m.mu.Unlock()
		if waits {
			if err := m.checkConfirmed(ctx); err != nil && ctx.Err() == nil {
				m.Logger.Debug("hosts that have published again not read", "error", err)
			}
		}
		if err := pause(ctx, confirmPause); err != nil {
			return err
		}
	}
}
