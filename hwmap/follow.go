package hwmap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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

// apply brings entries into the view and the kernel's maps. Where a map is full, what has room is applied all the same.
// The caller holds mu.
func (m *Map) apply(entries []Entry) error {
	var t troubles
	hostsChanged := false
	for _, e := range entries {
		var err error
		switch key := string(e.Key); {
		case strings.HasPrefix(key, string(hostsPrefix)):
			hostsChanged = true
			err = m.applyHost(e)
		case strings.HasPrefix(key, string(blocksPrefix)):
			err = m.applyBlock(e)
		case strings.HasPrefix(key, string(machinesPrefix)):
			err = m.applyMachine(e)
		default:
			m.Logger.Warn("record of an unknown kind left alone; a newer ip6d wrote it", "key", e.Key)
		}
		m.meet(&t, e.Key, err)
	}
	if hostsChanged {
		if err := m.Ports.SetHosts(m.otherHosts()); err != nil {
			t.errs = append(t.errs, fmt.Errorf("set hosts: %w", err))
		}
	}
	return t.join()
}

// troubles are what went wrong with some records of many.
type troubles struct {
	errs []error
	full int // how many have no room
}

// meet takes in what came of applying a record.
func (m *Map) meet(t *troubles, key Key, err error) {
	switch {
	case errors.Is(err, errMalformed):
		m.Logger.Error("record left alone", "error", err)
	case errors.Is(err, nat.ErrStale): // a lower epoch always loses
		m.Logger.Error("the store is older than the kernel's maps; was it restored from a backup?", "key", key, "error", err)
	case errors.Is(err, nat.ErrFull):
		if t.full++; t.full == 1 {
			t.errs = append(t.errs, fmt.Errorf("apply %s: %w", key, err))
		}
	case err != nil:
		t.errs = append(t.errs, fmt.Errorf("apply %s: %w", key, err))
	}
}

func (t *troubles) join() error {
	if t.full > 1 {
		t.errs = append(t.errs, fmt.Errorf("%d records more have no room either", t.full-1))
	}
	return errors.Join(t.errs...)
}

func (m *Map) applyHost(e Entry) error {
	n, err := e.Key.number(hostsPrefix)
	if err != nil {
		return err
	}
	h, err := optional[Host](e)
	if err != nil {
		return err
	}
	put(m.fleet.hosts, addr.Host(n), h)
	m.noticeHost(addr.Host(n), h)
	if addr.Host(n) == m.Self.ID && h != nil {
		if h.State != m.state {
			m.Logger.Warn("this host's state changed", "from", m.state, "to", h.State)
		}
		m.state, m.fleet.stateAt = h.State, e.ModRevision
		wish(m.leaseWanted) // it may take machines again
	}
	return m.refuseDead(addr.Host(n), h)
}

func (m *Map) applyBlock(e Entry) error {
	n, err := e.Key.number(blocksPrefix)
	if err != nil {
		return err
	}
	now, err := optional[Block](e)
	if err != nil {
		return err
	}
	block := addr.Block(n)
	before := m.fleet.blocks[block]
	delete(m.fleet.lost, block)
	for number := range m.fence.silenced {
		if number.Block() == block {
			m.unsettled.add(number)
		}
	}
	put(m.fleet.blocks, block, now)
	if now == nil {
		return m.Datapath.DeleteBlock(m.Cell, block)
	}
	errs := []error{m.Datapath.PutBlock(nat.Block{Cell: m.Cell, Block: block, Home: now.Home})}
	if errs[0] == nil {
		m.issueFrom(*now)
	}
	if given := now.Home == m.Self.ID && !m.isComplete(*now); given || before.Home == m.Self.ID && now.Home != m.Self.ID {
		m.changedHome.add(block)
	}
	if _, unrouted := m.fleet.unrouted[block]; before.Home == now.Home && !unrouted {
		return errs[0]
	}
	// Who counts as moved depends on the home.
	for number, r := range m.fleet.machines.ofBlock(block) {
		errs = append(errs, m.routeTo(number, &r, r.Epoch))
	}
	err = errors.Join(errs...)
	if delete(m.fleet.unrouted, block); err != nil {
		m.fleet.unrouted[block] = struct{}{} // whoever applies it again does all of it
	}
	return err
}

func (m *Map) applyMachine(e Entry) error {
	n, err := e.Key.number(machinesPrefix)
	if err != nil {
		return err
	}
	now, err := optional[Machine](e)
	if err != nil {
		return err
	}
	number := addr.Machine(n)
	before, _ := m.fleet.machines.get(number)
	m.fleet.putMachine(number, now)
	_, known := m.local[number]
	if known || now != nil && m.fleet.blocks[number.Block()].Home == m.Self.ID {
		m.unsettled.add(number)
	}
	epoch := before.Epoch
	if now != nil {
		epoch = now.Epoch
	}
	if epoch != before.Epoch { // the owner changed: a finish waits for it, and it must not wait behind a begin
		wish(m.appliedWanted)
	} else {
		m.wishAppliedLater()
	}
	return errors.Join(m.leftSince(number), m.routeTo(number, now, epoch))
}

// appliedDelay is long enough for a begin not to be published before the switchover that follows it.
const appliedDelay = 3 * time.Second

// wishAppliedLater has what is applied published in a while. A source that learned only later that its switchover was
// committed knows no earlier revision than the record's last, which may be that of a begin or an abort since; its finish
// waits for that. The caller holds mu.
func (m *Map) wishAppliedLater() {
	if m.appliedLater {
		return
	}
	m.appliedLater = true
	time.AfterFunc(appliedDelay, func() {
		m.mu.Lock()
		m.appliedLater = false
		m.mu.Unlock()
		wish(m.appliedWanted)
	})
}

// routeTo keeps the machine's `moved` entry: there is one while the record names a host that is not the block's home,
// nor this one, which knows better. A delete carries the epoch, so that it cannot take the id's next user with it.
func (m *Map) routeTo(number addr.Machine, r *Machine, epoch uint64) error {
	if r == nil && epoch == 0 {
		return nil // never seen
	}
	if !m.leads(r, m.fleet.blocks[number.Block()].Home) {
		return m.Datapath.DeleteMoved(m.id(number), epoch)
	}
	if m.fleet.restoring {
		return nil // putRestored does it
	}
	return m.Datapath.PutMoved(nat.Moved{ID: m.id(number), Host: r.Host, Epoch: r.Epoch})
}

// putRestored puts the `moved` entries that restoring has come to: a million, one by one, would take seconds. The caller
// holds mu.
func (m *Map) putRestored() error {
	var t troubles
	var entries []nat.Moved
	for block, records := range m.fleet.machines.blocks() {
		home := m.fleet.blocks[block].Home
		entries = entries[:0]
		for number, r := range records {
			if m.leads(&r, home) {
				entries = append(entries, nat.Moved{ID: m.id(number), Host: r.Host, Epoch: r.Epoch})
			}
		}
		if m.Datapath.PutMoved(entries...) == nil {
			continue
		}
		for _, e := range entries { // which of them, and why
			m.meet(&t, machineKey(e.ID.Machine), m.Datapath.PutMoved(e))
		}
	}
	return t.join()
}

// leads reports whether a machine with the record r, nil for none, and that home has a `moved` entry.
func (m *Map) leads(r *Machine, home addr.Host) bool {
	return r != nil && !r.Destroyed && r.Host != m.Self.ID && r.Host != home
}

// dropStrays deletes entries of the kernel's maps that the view does not have: what a crash or an older daemon left. It
// runs only after a listing, never on the word of the cache.
func (m *Map) dropStrays() error {
	if m.standalone && m.trusted() != nil {
		return nil // the listing is that of the suspect truth
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	moved, err := m.Datapath.MovedEntries()
	if err != nil {
		return err
	}
	errs := []error{m.dropStrayDead()}
	for _, e := range moved {
		if r, ok := m.fleet.machines.get(e.ID.Machine); !ok || e.ID.Cell != m.Cell || r.Destroyed {
			m.Logger.Info("stray moved entry deleted", "machine", e.ID, "host", e.Host)
			errs = append(errs, m.Datapath.DeleteMoved(e.ID, e.Epoch))
		}
	}
	blocks, err := m.Datapath.Blocks()
	if err != nil {
		return err
	}
	for _, b := range blocks {
		if _, ok := m.fleet.blocks[b.Block]; !ok || b.Cell != m.Cell {
			m.Logger.Info("stray block deleted", "block", b.Block, "host", b.Home)
			errs = append(errs, m.Datapath.DeleteBlock(b.Cell, b.Block))
		}
	}
	return errors.Join(errs...)
}

// otherHosts returns the hosts that packets may be sent to: a dead one's machines, should they run, could not answer. The
// caller holds mu.
func (m *Map) otherHosts() []Host {
	var hosts []Host
	for id, h := range m.fleet.hosts {
		if id != m.Self.ID && h.Underlay.IsValid() && h.State != Dead {
			hosts = append(hosts, h)
		}
	}
	return hosts
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
