package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
	"ip6d/nat"
)

// Database is the truth's record of itself.
type Database struct {
	ID         DatabaseID `json:"id"`
	Suspect    string     `json:"suspect,omitempty"`     // why it is not believed, until an operator accepts it
	FirstBlock addr.Block `json:"first_block,omitempty"` // standalone: blocks below may have been leased by what this is a copy of
}

// databaseKey is the key of the truth's Database.
const databaseKey Key = "database"

// checkTruth compares the truth with its local witnesses, before anything is done on its word. A truth that is suspect stays
// so until it is accepted: its commits go on counting, and would get past what the witnesses saw. Errors: ErrCorrupt, and
// those of the truth's store.
func (m *Map) checkTruth(ctx context.Context) error {
	e, err := m.Truth.Get(ctx, databaseKey)
	if err != nil {
		return err
	}
	_, count, err := m.Truth.List(ctx, databaseKey)
	if err != nil {
		return err
	}
	if e[0].Value != nil {
		if m.database, err = decode[Database](e[0]); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	m.opened = count
	if m.database.Suspect != "" {
		m.Logger.Error("this host's database is still suspect", "reason", m.database.Suspect)
		return nil
	}
	reason, err := m.betrayed(count)
	switch {
	case err != nil:
		return err
	case reason != "":
		return m.suspectDatabase(ctx, reason)
	case m.database.ID != (DatabaseID{}):
		m.truth.trust(m.database.ID, count)
		return nil
	}
	// It is new, or of before there were witnesses. They come first: a database that has none was not made here.
	m.database.ID = newDatabaseID()
	for _, w := range m.truth.witnesses {
		if err := w.Begin(Mark{ID: m.database.ID}); err != nil {
			return fmt.Errorf("begin the witness of the database in %s: %w", w.name, err)
		}
	}
	return m.writeDatabase(ctx, m.database)
}

// betrayed returns what a local witness says against the truth, or the empty text.
func (m *Map) betrayed(count Revision) (string, error) {
	for _, w := range m.truth.witnesses {
		seen, err := w.Read()
		if errors.Is(err, ErrCorrupt) {
			m.Logger.Error("witness of the database cannot be read; it says nothing", "witness", w.name, "error", err)
			seen, err = Mark{}, nil
		}
		if err != nil {
			return "", err
		}
		m.truth.leased(seen.Block)
		if reason := seen.against(m.database.ID, count, w.name); reason != "" {
			return reason, nil
		}
		if w.name == sideFile && seen == (Mark{}) && m.database.ID != (DatabaseID{}) {
			return "its witness file has gone, which every database has from before its first commit", nil
		}
	}
	running, err := m.Datapath.Machines()
	if err == nil && !m.known && len(running) > 0 {
		return fmt.Sprintf("it is new, and the kernel's maps have %d machines", len(running)), nil
	}
	return "", err
}

// The names of the witnesses.
const (
	sideFile   = "the file beside it"
	kernelMap  = "the kernel's maps"
	fleetStore = "the fleet's store"
)

// against returns what the witness of that name, which remembers w, says against a database.
func (w Mark) against(id DatabaseID, count Revision, name string) string {
	switch {
	case w.Count == 0:
		return ""
	case id == (DatabaseID{}):
		return fmt.Sprintf("it is new, and by %s there was one with %d commits (%s)", name, w.Count, w.ID)
	case w.ID != id:
		return fmt.Sprintf("it is another one (%s) than by %s (%s)", id, name, w.ID)
	case w.Count > count:
		return fmt.Sprintf("it had %d commits when the daemon started, by %s %d", count, name, w.Count)
	}
	return ""
}

// suspectDatabase makes the truth suspect, durably.
func (m *Map) suspectDatabase(ctx context.Context, reason string) error {
	m.truth.trust(DatabaseID{}, 0)
	m.mu.Lock()
	d := m.database
	d.Suspect = reason
	m.database = d
	m.mu.Unlock()
	m.Logger.Error("this host's database was restored, copied or lost: nothing is issued or moved until an operator accepts it",
		"reason", reason, "remedy", "stop ip6d and bring the right file back, or run `ip6d db accept`")
	_, err := m.Truth.Commit(context.WithoutCancel(ctx), Txn{Then: []Write{{Key: databaseKey, Value: encode(d)}}})
	if err != nil {
		return fmt.Errorf("write that this host's database is suspect: %w", err)
	}
	return nil
}

// writeDatabase makes d, which is not suspect, what the truth says of itself, and has its commits witnessed.
func (m *Map) writeDatabase(ctx context.Context, d Database) error {
	revision, err := m.Truth.Commit(ctx, Txn{Then: []Write{{Key: databaseKey, Value: encode(d)}}})
	if err != nil {
		return fmt.Errorf("write this host's database: %w", err)
	}
	m.mu.Lock()
	m.database = d
	m.mu.Unlock()
	m.truth.trust(d.ID, revision)
	return nil
}

// trusted returns why this host may not issue or move anything. Errors: ErrSuspect.
func (m *Map) trusted() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trustedLocked()
}

// trustedLocked is trusted for a caller who holds mu.
func (m *Map) trustedLocked() error {
	if m.database.Suspect == "" {
		return nil
	}
	return fmt.Errorf("%w: this host's database: %s; bring the right file back, or run `ip6d db accept`", ErrSuspect, m.database.Suspect)
}

// newer reports whether the fleet's map has the machine on another host since after l. The truth is suspect: then its word
// does not bring back what has left. The caller holds mu.
func (m *Map) newer(l Local) bool {
	r, ok := m.fleet.machines.get(l.Machine)
	return ok && r.Epoch > l.Epoch && r.Host != m.Self.ID
}

// restoreSuspect brings a machine of a suspect truth back where the kernel knows nothing later. Whatever the kernel has of
// the same epoch it has from a later truth.
func (m *Map) restoreSuspect(_ context.Context, l Local) error {
	m.mu.Lock()
	left := m.newer(l)
	m.mu.Unlock()
	e, ok, err := m.Datapath.Machine(m.id(l.Machine))
	if err != nil || left || l.entry() == 0 || ok && e.Epoch >= l.Epoch {
		return err
	}
	port, err := m.restorePort(l)
	if err != nil || port.Ifindex == 0 && l.entry() == nat.Delivering { // it could deliver nothing, and the machine may be elsewhere
		return err
	}
	return m.Datapath.PutMachine(m.natMachine(l, port))
}

// Accepted is what AcceptDatabase did.
type Accepted struct {
	Reason string       // why the database was suspect
	Frozen []addr.Block // nothing is issued from them until an operator unfreezes them
	Ended  []addr.ID    // what the kernel had and the database does not know: they are no machines any more
}

// unknownFloor is what the epoch floor of a block is raised by when ids of it may have had owners that nobody remembers: no
// id has had as many.
const unknownFloor = 1 << 32

// unknownBlocks is how many blocks a standalone host leaves out when no witness says which ones it had leased.
const unknownBlocks = 256

// AcceptDatabase makes a suspect truth the truth, on an operator's word. What was issued since the copy must not be issued
// again: so the blocks that this host leases are frozen, and it leases another one. It can be repeated after any error.
// Errors: ErrState when the database is not suspect, ErrSuspect when the fleet's store is, ErrUnavailable, ErrInDoubt.
func (m *Map) AcceptDatabase(ctx context.Context) (Accepted, error) {
	unlock, err := m.accepting.lock(ctx, struct{}{})
	if err != nil {
		return Accepted{}, err
	}
	defer unlock()
	m.mu.Lock()
	d := m.database
	m.mu.Unlock()
	if d.Suspect == "" {
		return Accepted{}, fmt.Errorf("%w: this host's database is not suspect; there is nothing to accept", ErrState)
	}
	a := Accepted{Reason: d.Suspect}
	if a.Frozen, err = m.freezeOwn(ctx); err != nil {
		return a, err
	}
	if err := m.catchUpTruth(ctx); err != nil {
		return a, err
	}
	if a.Ended, err = m.endUnknown(); err != nil {
		return a, err
	}
	d.ID, d.Suspect = newDatabaseID(), ""
	highest, witnessed := m.highest()
	if m.standalone {
		if d.FirstBlock, err = m.aboveAll(highest, witnessed); err != nil {
			return a, err
		}
	}
	// The witnesses first, of a commit that is to come: until then, the truth says itself that it is suspect.
	mark := Mark{ID: d.ID, Count: 1, Block: highest}
	for _, w := range m.truth.witnesses {
		if err := w.Begin(mark); err != nil {
			return a, fmt.Errorf("begin the witness of the database in %s: %w", w.name, err)
		}
	}
	if err := m.beginStoreWitness(ctx, mark); err != nil {
		return a, err
	}
	if err := m.writeDatabase(ctx, d); err != nil {
		return a, err
	}
	m.Logger.Warn("database accepted", "reason", a.Reason, "frozen_blocks", a.Frozen)
	m.mu.Lock()
	for number := range m.local {
		m.unsettled.add(number)
	}
	m.mu.Unlock()
	m.changedHome.add(m.unkeptHomes()...)
	wish(m.leaseWanted)
	wish(m.fence.wanted)
	return a, nil
}

// freezeOwn freezes the blocks of this host. Their ids start above any epoch that they may have had.
func (m *Map) freezeOwn(ctx context.Context) (frozen []addr.Block, err error) {
	entries, _, err := m.Fleet.List(ctx, blocksPrefix)
	if err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	for _, e := range entries {
		b, err := decode[Block](e)
		if err != nil || b.Home != m.Self.ID {
			continue // what cannot be read is logged where it is applied
		}
		if !b.Frozen {
			b.Frozen, b.EpochFloor = true, b.EpochFloor+unknownFloor
			revision, err := m.Fleet.Commit(ctx, Txn{
				If:   []Condition{{Key: e.Key, ModRevision: e.ModRevision}},
				Then: []Write{{Key: e.Key, Value: encode(b)}},
			})
			if err != nil {
				return frozen, fmt.Errorf("freeze block %d: %w", b.Block, err)
			}
			// The watch brings it too; this host is to know at once.
			if err := m.applyWritten(ctx, []Entry{{Key: e.Key, Value: encode(b), ModRevision: revision}}); err != nil {
				return frozen, err
			}
		}
		frozen = append(frozen, b.Block)
	}
	return frozen, nil
}

// catchUpTruth brings an old truth to what the fleet's store knows of machines that have moved since.
func (m *Map) catchUpTruth(ctx context.Context) error {
	entries, _, err := m.Fleet.List(ctx, machinesPrefix)
	if err != nil {
		return fmt.Errorf("list machines: %w", err)
	}
	for _, e := range entries {
		r, err := decode[Machine](e)
		if err != nil {
			continue // it is logged where it is applied
		}
		if err := m.catchUpMachine(ctx, r); err != nil {
			return fmt.Errorf("machine %q: %w", r.Name, err)
		}
	}
	return nil
}

func (m *Map) catchUpMachine(ctx context.Context, r Machine) error {
	unlock, err := m.operations.lock(ctx, r.Machine)
	if err != nil {
		return err
	}
	defer unlock()
	l, known := m.lookup(r.Machine)
	home, err := m.isHome(r.Machine)
	if err != nil || r.Epoch <= l.Epoch || !known && !home && r.Host != m.Self.ID {
		return err
	}
	m.Logger.Warn("machine taken from the fleet's store, which knows it later than the accepted database", "machine", r.Name,
		"host", r.Host, "epoch", r.Epoch, "database_epoch", l.Epoch)
	now := Local{Machine: r.Machine, Name: r.Name, Network: r.Network, Epoch: r.Epoch, State: Issued}
	if r.Host == m.Self.ID && !r.Destroyed {
		now.State, now.Port = Here, l.Port
		if err := m.record(ctx, now); err != nil {
			return err
		}
		return m.putEntry(now)
	}
	e, ok, err := m.Datapath.Machine(m.id(r.Machine))
	if err == nil && ok && e.Epoch <= l.Epoch { // else the port is that of a later machine with this id
		err = m.removePort(l)
	}
	if err != nil {
		return err
	}
	if err := m.Datapath.DeleteMachine(m.id(r.Machine), r.Epoch); err != nil && !errors.Is(err, nat.ErrStale) {
		return err
	}
	switch {
	case !home:
		return m.erase(ctx, r.Machine)
	case r.Destroyed:
		return m.quarantine(ctx, now, r.Epoch)
	}
	return m.record(ctx, now)
}

// endUnknown deletes what the kernel has and the truth does not know. It was kept while the truth was suspect, because the
// right file would know it.
func (m *Map) endUnknown() (ended []addr.ID, err error) {
	strays, err := m.strayMachines()
	for _, e := range strays {
		m.Logger.Warn("the accepted database does not know a machine of the kernel's maps; its entry is deleted", "machine", e.ID, "state", e.State)
		err = errors.Join(err, m.Datapath.DeleteMachine(e.ID, e.Epoch))
		ended = append(ended, e.ID)
	}
	return ended, err
}

// highest returns the highest block that a witness saw leased, and whether any saw something.
func (m *Map) highest() (b addr.Block, witnessed bool) {
	for _, w := range m.truth.witnesses {
		if seen, err := w.Read(); err == nil && seen.Count > 0 {
			b, witnessed = max(b, seen.Block), true
		}
	}
	return b, witnessed
}

// aboveAll returns a block above all that a standalone host may have leased.
func (m *Map) aboveAll(highest addr.Block, witnessed bool) (addr.Block, error) {
	known, err := m.Datapath.Blocks()
	if err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	above := max(m.database.FirstBlock, highest+1)
	for _, b := range known {
		above = max(above, b.Block+1)
	}
	for b := range m.fleet.blocks {
		above = max(above, b+1)
	}
	if !witnessed {
		above += unknownBlocks
	}
	return above, nil
}

// leftSince takes the entry of a machine from the kernel's maps which a suspect truth says is here, and which the fleet's map
// has elsewhere since. The caller holds mu.
func (m *Map) leftSince(number addr.Machine) error {
	l, ok := m.local[number]
	if !ok || m.database.Suspect == "" || !m.newer(l) {
		return nil
	}
	if err := m.Datapath.DeleteMachine(m.id(number), l.Epoch); err != nil && !errors.Is(err, nat.ErrStale) {
		return err
	}
	return nil
}
