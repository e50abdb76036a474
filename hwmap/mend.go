package hwmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/nat"
)

// recounter is a Datapath that counts entries by block, and can count anew what others changed.
type recounter interface {
	Recount(addr.Block) error
}

// Mend implements audit.Source.
func (a Audit) Mend(ctx context.Context, d audit.Difference) error {
	if n, ok := d.Object.Number(audit.MachineObject); ok {
		return a.mendMachine(ctx, d, addr.Machine(n))
	}
	block, isBlock := d.Object.Number(audit.BlockObject)
	host, isHost := d.Object.Number(audit.HostObject)
	switch d.Kind {
	case audit.ViewDiffers, audit.CacheDiffers:
		switch {
		case isBlock:
			return a.refresh(ctx, blockKey(addr.Block(block)))
		case isHost:
			return a.refresh(ctx, hostKey(addr.Host(host)))
		}
	case audit.BlockMissing, audit.BlockDiffers, audit.BlockStray:
		if isBlock {
			return a.mendBlock(addr.Block(block))
		}
	case audit.DeadMissing, audit.DeadStray:
		if isHost {
			return a.mendDead(addr.Host(host))
		}
	case audit.FenceDiffers:
		return a.mendFence(ctx)
	case audit.BlockUnpublished:
		if isBlock {
			return a.republish(ctx, addr.Block(block))
		}
	case audit.AppliedStale:
		return a.deleteApplied(ctx, d)
	case audit.EntryStray:
		return a.deleteStrange(d)
	}
	return audit.ErrOperator
}

// mendDead has what a host sends refused if it is dead, and only then.
func (a Audit) mendDead(h addr.Host) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	record, known := a.fleet.hosts[h]
	if !known {
		return a.Datapath.DeleteDead(h)
	}
	return a.refuseDead(h, &record)
}

// mendFence closes the datapath, or opens it, as this host knows that it should be.
func (a Audit) mendFence(ctx context.Context) error {
	unlock, err := a.fence.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return a.Datapath.SetFenced(a.checkFence() != nil)
}

// mendMachine repairs what differs of a machine under its lock, if it is still as d says.
func (a Audit) mendMachine(ctx context.Context, d audit.Difference, number addr.Machine) error {
	unlock, err := a.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := a.compareHeld(ctx, []addr.Machine{number})
	if err != nil {
		return err
	}
	for _, n := range now {
		if n.Kind == d.Kind && n.Fingerprint == d.Fingerprint {
			return a.mendHeld(ctx, d.Kind, number)
		}
	}
	return audit.ErrChanged
}

func (a Audit) mendHeld(ctx context.Context, k audit.Kind, number addr.Machine) error {
	l, known := a.lookup(number)
	switch k {
	case audit.EntryMissing, audit.EntryDiffers:
		return errors.Join(a.rewriteEntry(l), a.recount(number))
	case audit.EntryStray:
		e, ok, err := a.Datapath.Machine(a.id(number))
		if err != nil || !ok {
			return err
		}
		return errors.Join(a.Datapath.DeleteMachine(e.ID, e.Epoch), a.recount(number))
	case audit.MovedMissing, audit.MovedDiffers, audit.MovedStray:
		return a.mendMoved(number)
	case audit.ViewDiffers, audit.CacheDiffers:
		return a.refresh(ctx, machineKey(number))
	case audit.IssuedUnknown, audit.DestroyUnfinished, audit.MachineUnrecorded, audit.RecordDiffers, audit.IncomingUninvited:
		if !known {
			if err := a.recordIssued(ctx, number); err != nil {
				return err
			}
		}
		return a.settleHeld(ctx, number)
	}
	return audit.ErrOperator
}

// rewriteEntry writes the machine's entry as the truth has it, with the port that it has or that is found.
func (a Audit) rewriteEntry(l Local) error {
	e, ok, err := a.Datapath.Machine(a.id(l.Machine))
	if err != nil {
		return err
	}
	port := e.Port
	if !ok || port.Ifindex == 0 {
		if port, err = a.restorePort(l); err != nil {
			return err
		}
	}
	if ok && e.Epoch > l.Epoch {
		// Nobody but this process writes entries, under the machine's lock, and the truth follows at once.
		if err := a.Datapath.DeleteMachine(e.ID, e.Epoch); err != nil {
			return err
		}
	}
	return a.Datapath.PutMachine(a.natMachine(l, port))
}

// RestorePort brings the port of a machine's entry to what its device is now. Errors: those of Datapath.
func (m *Map) RestorePort(ctx context.Context, number addr.Machine) error {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	l, ok := m.lookup(number)
	if !ok || l.entry() == 0 {
		return audit.ErrChanged
	}
	port, err := m.restorePort(l)
	if err != nil {
		return err
	}
	return m.Datapath.PutMachine(m.natMachine(l, port))
}

func (a Audit) recount(number addr.Machine) error {
	if d, ok := a.Datapath.(recounter); ok {
		return d.Recount(number.Block())
	}
	return nil
}

// mendMoved brings the machine's `moved` entry to what the view says. One with a higher epoch than the record's goes: nobody
// but this process writes entries, from records.
func (a Audit) mendMoved(number addr.Machine) error {
	if err := a.recount(number); err != nil {
		return err
	}
	all, err := a.Datapath.MovedEntries()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r, recorded := a.fleet.machines.get(number)
	for _, e := range all {
		if e.ID.Machine == number && (!recorded || e.Epoch > r.Epoch || !a.leads(&r, a.fleet.blocks[number.Block()].Home)) {
			if err := a.Datapath.DeleteMoved(e.ID, e.Epoch); err != nil {
				return err
			}
		}
	}
	if !recorded {
		return nil
	}
	return a.routeTo(number, &r, r.Epoch)
}

// mendBlock brings the kernel's entry of a block to what the view says.
func (a Audit) mendBlock(block addr.Block) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	b, ok := a.fleet.blocks[block]
	if !ok {
		return a.Datapath.DeleteBlock(a.Cell, block)
	}
	return a.Datapath.PutBlock(nat.Block{Cell: a.Cell, Block: block, Home: b.Home})
}

func (a Audit) republish(ctx context.Context, block addr.Block) error {
	a.mu.Lock()
	home := a.fleet.blocks[block].Home
	if home == a.Self.ID {
		a.fleet.lost[block] = struct{}{}
	}
	a.mu.Unlock()
	if home != a.Self.ID {
		return audit.ErrChanged
	}
	return a.republishBlocks(ctx)
}

// recordIssued makes the home know an id whose record says that it is in use, or was until it was destroyed.
func (a Audit) recordIssued(ctx context.Context, number addr.Machine) error {
	s, err := a.read(ctx, number)
	if err != nil {
		return err
	}
	if home, err := a.isHome(number); err != nil || !home || s.record == nil || s.record.Host == a.Self.ID && !s.record.Destroyed {
		return errors.Join(err, audit.ErrChanged)
	}
	return a.record(ctx, Local{Machine: number, Name: s.record.Name, Network: s.record.Network, Epoch: s.record.Epoch, State: Issued})
}

// refresh brings the view, the kernel's maps and the cache to what the store says of a key, unless the watch brings something
// newer meanwhile. Errors: audit.ErrChanged.
func (a Audit) refresh(ctx context.Context, key Key) error {
	before := a.viewed(key)
	e, err := a.Fleet.Get(ctx, key)
	if err != nil {
		return err
	}
	a.mu.Lock()
	if !bytes.Equal(before, a.viewedHeld(key)) {
		a.mu.Unlock()
		return audit.ErrChanged
	}
	e, _ = a.keepOwn(e)
	err = a.apply(e)
	a.mu.Unlock()
	if err != nil {
		return err
	}
	return a.cache(ctx, e)
}

func (a Audit) viewed(key Key) []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.viewedHeld(key)
}

// viewedHeld is the record of a key as the view has it. The caller holds mu.
func (a Audit) viewedHeld(key Key) []byte {
	if n, err := key.number(machinesPrefix); err == nil {
		return viewed(a.fleet.machines.get(addr.Machine(n)))
	}
	if n, err := key.number(blocksPrefix); err == nil {
		b, ok := a.fleet.blocks[addr.Block(n)]
		return viewed(b, ok)
	}
	if n, err := key.number(hostsPrefix); err == nil {
		h, ok := a.fleet.hosts[addr.Host(n)]
		return viewed(h, ok)
	}
	return nil
}

// viewed encodes a record of the view; without one: nil.
func viewed(record any, ok bool) []byte {
	if !ok {
		return nil
	}
	return encode(record)
}

// deleteApplied deletes the key of a host that has gone: that key alone, and only as it was reported.
func (a Audit) deleteApplied(ctx context.Context, d audit.Difference) error {
	key := Key(d.Object.ID)
	n, err := key.number(appliedPrefix)
	if err != nil {
		return fmt.Errorf("%w: %w", audit.ErrChanged, err)
	}
	host := hostKey(addr.Host(n))
	e, err := a.Fleet.Get(ctx, key, host)
	if err != nil {
		return err
	}
	if e[1].Value != nil || e[0].Value == nil || d.Fingerprint != staleApplied(e[0], addr.Host(n)).Fingerprint {
		return audit.ErrChanged
	}
	_, err = a.Fleet.Commit(ctx, Txn{
		If:   []Condition{{Key: key, ModRevision: e[0].ModRevision}, {Key: host}},
		Then: []Write{{Key: key}},
	})
	if errors.Is(err, ErrConflict) {
		return audit.ErrChanged
	}
	return err
}

// deleteStrange deletes an entry of another cell, which nobody here writes.
func (a Audit) deleteStrange(d audit.Difference) error {
	entries, err := a.Datapath.Machines()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if s := a.strangeEntry(e); s.Object == d.Object && s.Fingerprint == d.Fingerprint {
			return a.Datapath.DeleteMachine(e.ID, e.Epoch)
		}
	}
	return audit.ErrChanged
}
