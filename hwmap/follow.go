package hwmap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"ip6d/addr"
	"ip6d/nat"
)

// follow keeps the kernel's maps and the cache as the fleet's map says: it lists, then watches from there. Whenever the
// watch breaks it lists again and applies the difference; the kernel's maps are never flushed.
func (m *Map) follow(ctx context.Context) error {
	var trouble, behind backoff
	compacted := false // the last time
	for {
		revision, err := m.catchUp(ctx)
		if err == nil {
			if trouble.said != "" {
				m.Logger.Info("fleet's map followed again")
			}
			trouble.over()
			m.setFollowing(true, nil)
			began := time.Now()
			err = m.watchFleet(ctx, revision)
			if time.Since(began) > maxRetryPause {
				compacted = false // it was followed until now
				behind.over()
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		lost := m.isFollowing()
		m.setFollowing(false, err)
		if lost {
			m.writeHeard(ctx)
		}
		again := compacted
		if compacted = errors.Is(err, ErrCompacted); compacted {
			m.Logger.Info("listing the fleet's map anew", "reason", err)
			if !again {
				continue
			}
			// The store compacts faster than this host lists, and each listing is a burden for it.
			if err := behind.pauseOr(ctx, m.followWanted); err != nil {
				return err
			}
			continue
		}
		behind.over()
		if errors.Is(err, errMeta) {
			m.Logger.Info("judging the fleet's store anew", "reason", err)
			if err := pause(ctx, retryPause); err != nil { // not all hosts at once
				return err
			}
			continue
		}
		trouble.tell(m.Logger, "fleet's map not followed, going on with what is known", err)
		if err := trouble.pauseOr(ctx, m.followWanted); err != nil {
			return err
		}
	}
}

// errMeta: the store's meta has changed, so that the store has to be judged anew: somebody found it suspect, or accepted it.
var errMeta = errors.New("the store's meta has changed")

// watchFleet watches the fleet's map from revision on, and the store's meta. Errors: errMeta, those of Store.Watch.
func (m *Map) watchFleet(ctx context.Context, revision Revision) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return m.Fleet.Watch(ctx, mapPrefix, revision, func(b Batch) error {
			return m.advance(ctx, b.Entries, b.Revision)
		})
	})
	if !m.standalone {
		g.Go(func() error {
			return m.Fleet.Watch(ctx, metaKey, revision, func(Batch) error { return errMeta })
		})
	}
	return g.Wait()
}

func (m *Map) setFollowing(following bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fleet.following {
		m.fleet.heard = m.Now()
	}
	m.fleet.following, m.fleet.err = following, err
	if following && m.fleet.back != nil {
		close(m.fleet.back)
		m.fleet.back = nil
	}
}

func (m *Map) isFollowing() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fleet.following
}

// writeHeard has the next daemon know until when the cache is known to have been the fleet's map.
func (m *Map) writeHeard(ctx context.Context) {
	m.mu.Lock()
	heard := m.fleet.heard
	m.mu.Unlock()
	if err := m.cache(ctx, nil, Write{Key: heardKey, Value: encode(heard)}); err != nil {
		m.Logger.Warn("cache does not say until when it was followed", "error", err)
	}
}

// adopt takes a whole listing: what it does not have is deleted, from the view, the kernel's maps and the cache.
func (m *Map) adopt(ctx context.Context, entries []Entry, revision Revision) error {
	m.mu.Lock()
	listed := make(map[Key]bool, len(entries))
	for _, e := range entries {
		listed[e.Key] = true
	}
	clear(m.fleet.ahead) // a listing is newer than what was read before it, also of a store that went back in time
	for _, k := range m.fleet.keys() {
		if !listed[k] {
			entries = append(entries, Entry{Key: k, ModRevision: revision})
		}
	}
	m.mu.Unlock()
	err := m.advance(ctx, entries, revision)
	if err == nil || errors.Is(err, nat.ErrFull) { // then strays may be what takes the room
		err = errors.Join(err, m.dropStrays())
	}
	if err != nil {
		return err
	}
	m.unsettled.add(m.unrecorded()...)
	m.changedHome.add(m.unkeptHomes()...)
	wish(m.appliedWanted)
	return nil
}

// unrecorded returns the machines of this host that the fleet's map has no record of, and should have or might have had.
// Those that it has a record of are looked at when that is applied.
func (m *Map) unrecorded() []addr.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	var numbers []addr.Machine
	for number, l := range m.local {
		_, recorded := m.fleet.machines.get(number)
		atHome := m.fleet.blocks[number.Block()].Home == m.Self.ID && (l.State == Here || l.State == Quarantined || l.State == Free)
		if !recorded && !atHome {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// advance applies changed records: to the view and the kernel's maps, then to the cache. Where the kernel's maps could not
// take it all, the revision stands still: other hosts must not rely on it.
func (m *Map) advance(ctx context.Context, entries []Entry, revision Revision) error {
	if err := m.heedBatch(ctx, entries); err != nil {
		return err
	}
	m.mu.Lock()
	entries, unlisted := m.keepOwn(m.notOutdated(entries))
	err := m.apply(entries)
	more := []Write{{Key: revisionKey, Value: strconv.AppendInt(nil, int64(revision), 10)}, {Key: heardKey, Value: encode(m.Now())}}
	if err == nil {
		m.fleet.revision = revision
		m.catchUpWithAhead()
		if m.fleet.isNew { // together with its revision: that of another store says nothing
			more = append(more, Write{Key: knownStoreKey, Value: encode(m.fleet.known)})
		}
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.cache(ctx, entries, more...); err != nil {
		return err
	}
	m.mu.Lock()
	m.fleet.isNew = false
	m.mu.Unlock()
	if unlisted {
		return errUnlisted // joining anew tells what that means
	}
	return nil
}

// cache writes entries into the cache, if there is one, and more with them.
func (m *Map) cache(ctx context.Context, entries []Entry, more ...Write) error {
	if m.Cache == nil || len(entries)+len(more) == 0 {
		return nil
	}
	t := Txn{Then: more}
	for _, e := range entries {
		t.Then = append(t.Then, Write{Key: e.Key, Value: e.Value})
	}
	if _, err := m.Cache.Commit(context.WithoutCancel(ctx), t); err != nil {
		return fmt.Errorf("write the cache: %w", err) // a new listing writes it whole
	}
	return nil
}

// keepOwn takes out of entries the deletion of blocks of this host, and has them published again: there are machines with
// their ids. It does so with this host's own record, too, and reports it. The caller holds mu.
func (m *Map) keepOwn(entries []Entry) (kept []Entry, unlisted bool) {
	kept = slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool {
		if e.Value == nil && e.Key == hostKey(m.Self.ID) {
			unlisted = true
			return true
		}
		n, err := e.Key.number(blocksPrefix)
		block := addr.Block(n)
		own := err == nil && e.Value == nil && m.fleet.blocks[block].Home == m.Self.ID
		if own {
			m.fleet.lost[block] = struct{}{}
			wish(m.leaseWanted)
		}
		return own
	})
	return kept, unlisted
}

// restoreCache brings the fleet's map as last seen into the view and the kernel's maps. It deletes nothing.
func (m *Map) restoreCache(ctx context.Context) error {
	if m.Cache == nil {
		return nil
	}
	entries, _, err := m.Cache.List(ctx, mapPrefix)
	if err != nil {
		return err
	}
	at, err := m.Cache.Get(ctx, revisionKey, knownStoreKey, heardKey)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at[0].Value != nil {
		n, err := strconv.ParseInt(string(at[0].Value), 10, 64)
		if err != nil {
			return fmt.Errorf("cached revision %q: %w", at[0].Value, err)
		}
		m.fleet.revision = Revision(n)
	}
	if at[1].Value != nil {
		if m.fleet.known, err = decode[KnownStore](at[1]); err != nil {
			return err
		}
	}
	if at[2].Value != nil {
		if m.fleet.heard, err = decode[time.Time](at[2]); err != nil {
			return err
		}
	}
	m.fleet.machines = machineRecords{}
	m.fleet.restoring = true
	err = m.apply(entries)
	m.fleet.restoring = false
	err = errors.Join(err, m.putRestored())
	m.fleet.stateAt = 0 // the entries' revisions are the cache's
	return err
}
