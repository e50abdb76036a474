package hwmap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"ip6d/addr"
	"ip6d/nat"
)

// layers is what each layer says of one machine.
type layers struct {
	number addr.Machine

	truth  *Local       // the file
	memory *Local       // of the daemon
	entry  *nat.Machine // of the kernel's `machines`

	stored    *Machine // the store's record
	malformed error    // why that cannot be read
	view      *Machine // of the daemon
	moved     *nat.Moved

	storedBytes, cachedBytes []byte // nil: none

	block *Block    // of the view
	home  addr.Host // 0: unknown
}

// readings are the layers of everything, or of some machines, as they were read one after the other.
type readings struct {
	truth   map[addr.Machine]Local
	entries map[addr.Machine]nat.Machine
	strange []nat.Machine // entries of other cells
	moved   map[addr.Machine]nat.Moved
	blocks  map[addr.Block]nat.Block
	dead    map[addr.Host]bool
	fenced  bool

	records  map[Key]Entry // of the store, or of the cache where the store is away
	cached   map[Key]Entry
	storeErr error // why it is away

	alive, applied []Entry // of the store; of a whole listing only
}

// readAll reads all layers whole. Nobody is kept waiting for it.
func (m *Map) readAll(ctx context.Context) (r readings, err error) {
	if r, err = m.readKernel(); err != nil {
		return r, err
	}
	truth, _, err := m.Truth.List(ctx, localPrefix)
	if err != nil {
		return r, fmt.Errorf("read this host's database: %w", err)
	}
	if err := r.takeTruth(truth); err != nil {
		return r, err
	}
	if m.Cache != nil {
		cached, _, err := m.Cache.List(ctx, mapPrefix)
		if err != nil {
			return r, fmt.Errorf("read the cache: %w", err)
		}
		r.cached = byKey(cached)
	}
	records, _, err := m.Fleet.List(ctx, mapPrefix)
	if err == nil {
		r.alive, _, err = m.Fleet.List(ctx, alivePrefix)
	}
	if err == nil {
		r.applied, _, err = m.Fleet.List(ctx, appliedPrefix)
	}
	r.records = byKey(records)
	if err != nil {
		r.storeErr, r.records = err, r.cached
	}
	return r, nil
}

// readSome reads what all layers have of some keys of the fleet's map, and of these machines.
func (m *Map) readSome(ctx context.Context, keys []Key, machines []addr.Machine) (r readings, err error) {
	if r, err = m.readKernel(); err != nil {
		return r, err
	}
	var locals []Key
	for _, number := range machines {
		locals = append(locals, localKey(number))
		keys = append(keys, machineKey(number), blockKey(number.Block()))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	truth, err := get(ctx, m.Truth, locals)
	if err != nil {
		return r, fmt.Errorf("read this host's database: %w", err)
	}
	if err := r.takeTruth(truth); err != nil {
		return r, err
	}
	if m.Cache != nil {
		cached, err := get(ctx, m.Cache, keys)
		if err != nil {
			return r, fmt.Errorf("read the cache: %w", err)
		}
		r.cached = byKey(cached)
	}
	records, err := get(ctx, m.Fleet, keys)
	r.records = byKey(records)
	if err != nil {
		r.storeErr, r.records = err, r.cached
	}
	return r, nil
}

// maxGet is how many keys are read in one call.
const maxGet = 100

// get reads the records of keys that there are.
func get(ctx context.Context, s Store, keys []Key) (all []Entry, err error) {
	for some := range slices.Chunk(keys, maxGet) {
		entries, err := s.Get(ctx, some...)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Value != nil {
				all = append(all, e)
			}
		}
	}
	return all, nil
}

func (m *Map) readKernel() (r readings, err error) {
	entries, entriesErr := m.Datapath.Machines()
	moved, movedErr := m.Datapath.MovedEntries()
	blocks, blocksErr := m.Datapath.Blocks()
	dead, deadErr := m.Datapath.DeadHosts()
	fenced, fencedErr := m.Datapath.Fenced()
	if err := errors.Join(entriesErr, movedErr, blocksErr, deadErr, fencedErr); err != nil {
		return r, fmt.Errorf("read the kernel's maps: %w", err)
	}
	r.dead, r.fenced = make(map[addr.Host]bool, len(dead)), fenced
	for _, h := range dead {
		r.dead[h] = true
	}
	r.entries = make(map[addr.Machine]nat.Machine, len(entries))
	for _, e := range entries {
		if e.ID.Cell != m.Cell {
			r.strange = append(r.strange, e)
			continue
		}
		r.entries[e.ID.Machine] = e
	}
	r.moved = make(map[addr.Machine]nat.Moved, len(moved))
	for _, e := range moved {
		r.moved[e.ID.Machine] = e
	}
	r.blocks = make(map[addr.Block]nat.Block, len(blocks))
	for _, b := range blocks {
		r.blocks[b.Block] = b
	}
	return r, nil
}

func (r *readings) takeTruth(entries []Entry) error {
	r.truth = make(map[addr.Machine]Local, len(entries))
	for _, e := range entries {
		l, err := decode[Local](e)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		r.truth[l.Machine] = l
	}
	return nil
}

func byKey(entries []Entry) map[Key]Entry {
	all := make(map[Key]Entry, len(entries))
	for _, e := range entries {
		all[e.Key] = e
	}
	return all
}

// machinesOf returns all machines that any layer has, in order.
func (m *Map) machinesOf(r *readings) []addr.Machine {
	var all []addr.Machine
	for number := range r.truth {
		all = append(all, number)
	}
	for number := range r.entries {
		all = append(all, number)
	}
	for number := range r.moved {
		all = append(all, number)
	}
	for _, records := range []map[Key]Entry{r.records, r.cached} {
		for k := range records {
			if n, err := k.number(machinesPrefix); err == nil {
				all = append(all, addr.Machine(n))
			}
		}
	}
	m.mu.Lock()
	for number := range m.local {
		all = append(all, number)
	}
	known := m.fleet.machines.len()
	m.mu.Unlock()
	all = append(all, m.onlyInView(r, known)...)
	slices.Sort(all)
	return slices.Compact(all)
}

// onlyInView returns the machines that the view has and the records have not. To go through a large view holds mu for long, so
// that is done only where their number says that there are some.
func (m *Map) onlyInView(r *readings, known int) (all []addr.Machine) {
	recorded := 0
	for k := range r.records {
		if _, err := k.number(machinesPrefix); err == nil {
			recorded++
		}
	}
	if known <= recorded {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for number := range m.fleet.machines.all() {
		if _, ok := r.records[machineKey(number)]; !ok {
			all = append(all, number)
		}
	}
	return all
}

// lookChunk is for how many machines mu is held at once.
const lookChunk = 512

// eachMachine calls f with the layers of each of these machines.
func (m *Map) eachMachine(r *readings, numbers []addr.Machine, f func(*layers)) {
	for chunk := range slices.Chunk(numbers, lookChunk) {
		all := make([]layers, len(chunk))
		m.mu.Lock()
		for i, number := range chunk {
			m.fillFromMemory(&all[i], number)
		}
		m.mu.Unlock()
		for i := range all {
			r.fill(&all[i])
			f(&all[i])
		}
	}
}

// fillFromMemory takes what this process knows. The caller holds mu.
func (m *Map) fillFromMemory(l *layers, number addr.Machine) {
	l.number = number
	if local, ok := m.local[number]; ok {
		l.memory = &local
	}
	if r, ok := m.fleet.machines.get(number); ok {
		l.view = &r
	}
	if b, ok := m.fleet.blocks[number.Block()]; ok {
		l.block, l.home = &b, b.Home
	}
}

// fill takes the rest from what was read.
func (r *readings) fill(l *layers) {
	if t, ok := r.truth[l.number]; ok {
		l.truth = &t
	}
	if e, ok := r.entries[l.number]; ok {
		l.entry = &e
	}
	if e, ok := r.moved[l.number]; ok {
		l.moved = &e
	}
	key := machineKey(l.number)
	e := r.records[key]
	l.storedBytes, l.cachedBytes = e.Value, r.cached[key].Value
	switch {
	case e.Value == nil:
	case l.view != nil && bytes.Equal(e.Value, encode(*l.view)): // cheaper than to decode it
		record := *l.view
		l.stored = &record
	default:
		l.stored, l.malformed = optional[Machine](e)
		if l.malformed != nil {
			l.stored = nil
		}
	}
}

// said is a record in the words of a report.
func said[T any](record *T) string {
	if record == nil {
		return ""
	}
	text, err := json.Marshal(record)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
