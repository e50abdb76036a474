package hwmap

import (
	"context"
	"slices"
	"time"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/nat"
)

// Audit is the audit.Source of a Map: this host's machines in its truth, in memory and in the kernel, and the fleet's map in
// the store, in memory, in the cache and in the kernel.
type Audit struct{ *Map }

var _ audit.Source = Audit{}

// lockPatience is how long a look waits for an operation that is under way with a machine. What differs while it lasts is on
// its way.
const lockPatience = time.Second

// Look implements audit.Source. Of some objects it holds the machines' locks, one after the other.
func (a Audit) Look(ctx context.Context, only []audit.Object) ([]audit.Difference, error) {
	if only == nil {
		r, err := a.readAll(ctx)
		if err != nil {
			return nil, err
		}
		var all []audit.Difference
		a.eachMachine(&r, a.machinesOf(&r), func(l *layers) { all = append(all, a.compare(l, &r)...) })
		for _, e := range r.strange {
			all = append(all, a.strangeEntry(e))
		}
		all = append(all, a.compareBlocks(&r, nil)...)
		all = append(all, a.compareHosts(&r, nil)...)
		return append(all, a.compareKeys(&r)...), nil
	}
	var all []audit.Difference
	var keys []Key
	var machines []addr.Machine
	blocks, hosts := make(map[addr.Block]bool), make(map[addr.Host]bool)
	whole := false
	for _, o := range only {
		switch o.Type {
		case audit.MachineObject:
			if n, ok := o.Number(o.Type); ok {
				machines = append(machines, addr.Machine(n))
			} else {
				whole = true // of another cell
			}
		case audit.BlockObject:
			if n, ok := o.Number(o.Type); ok {
				blocks[addr.Block(n)] = true
				keys = append(keys, blockKey(addr.Block(n)))
			}
		case audit.HostObject:
			if n, ok := o.Number(o.Type); ok {
				hosts[addr.Host(n)] = true
				keys = append(keys, hostKey(addr.Host(n)))
			}
		case audit.KeyObject, audit.StoreObject:
			whole = true
		}
	}
	if whole {
		r, err := a.readAll(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range r.strange {
			all = append(all, a.strangeEntry(e))
		}
		all = append(all, a.compareKeys(&r)...)
	}
	if len(keys) > 0 {
		r, err := a.readSome(ctx, keys, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, a.compareBlocks(&r, blocks)...)
		all = append(all, a.compareHosts(&r, hosts)...)
	}
	more, err := a.lookAtMachines(ctx, machines)
	return append(all, more...), err
}

// manyMachines is how many machines are looked at one by one; of more, all layers are read at once for a chunk of them.
const manyMachines = 64

// lookAtMachines looks at machines under their locks. One that is busy has nothing that differs for good.
func (a Audit) lookAtMachines(ctx context.Context, machines []addr.Machine) (all []audit.Difference, err error) {
	for chunk := range slices.Chunk(machines, manyMachines) {
		found, err := a.lookAtChunk(ctx, chunk)
		all = append(all, found...)
		if err != nil {
			return all, err
		}
	}
	return all, ctx.Err()
}

func (a Audit) lookAtChunk(ctx context.Context, machines []addr.Machine) (all []audit.Difference, err error) {
	patient, cancel := context.WithTimeout(ctx, lockPatience) // with all of them: those that are held meanwhile wait too
	defer cancel()
	var held []addr.Machine
	for _, number := range machines {
		if unlock, err := a.operations.lock(patient, number); err == nil {
			defer unlock()
			held = append(held, number)
		}
	}
	return a.compareHeld(ctx, held)
}

// compareHeld compares machines whose locks the caller holds.
func (a Audit) compareHeld(ctx context.Context, held []addr.Machine) (all []audit.Difference, err error) {
	r, err := a.readSome(ctx, nil, held)
	if err == nil {
		a.eachMachine(&r, held, func(l *layers) { all = append(all, a.compare(l, &r)...) })
	}
	return all, err
}

func (a Audit) strangeEntry(e nat.Machine) audit.Difference {
	return audit.New(audit.EntryStray, audit.Named(audit.MachineObject, e.ID), "truth", audit.None, "kernel's machines", saidEntry(&e))
}

// PortView is the port that a machine of this host has in the truth, and in the kernel's entry.
type PortView struct {
	Local
	Stable addr.Stable
	Entry  *nat.Port // nil: there is no entry
}

// PortViews returns the ports of this host's machines.
func (m *Map) PortViews() ([]PortView, error) {
	m.mu.Lock()
	var all []PortView
	for _, l := range m.local {
		if l.Port != nil {
			all = append(all, PortView{Local: l})
		}
	}
	m.mu.Unlock()
	for i := range all {
		v := &all[i]
		var err error
		if v.Stable, err = m.stable(v.Local); err != nil {
			return nil, err
		}
		e, ok, err := m.Datapath.Machine(m.id(v.Machine))
		if err != nil {
			return nil, err
		}
		if ok {
			v.Entry = &e.Port
		}
	}
	return all, nil
}
