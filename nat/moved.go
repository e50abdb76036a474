package nat

import (
	"errors"
	"fmt"

	"ip6d/addr"
	"ip6d/bpf"
)

// PutMoved writes an entry of `moved`. Errors: ErrInvalid, ErrStale, ErrFull.
func (d *Datapath) PutMoved(m Moved) error {
	if err := m.ID.Cell.Check(); err != nil {
		return fmt.Errorf("moved %s: %w: %w", m.ID, ErrInvalid, err)
	}
	if m.Host == 0 {
		return fmt.Errorf("moved %s: %w: host 0", m.ID, ErrInvalid)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := machineKey(m.ID)
	old, ok, err := lookup[bpf.DatapathMover](d.objects.Moved, key)
	if err != nil {
		return fmt.Errorf("moved %s: read: %w", m.ID, err)
	}
	if ok && old.Epoch > m.Epoch {
		return fmt.Errorf("moved %s: %w: %d, this is %d", m.ID, ErrStale, old.Epoch, m.Epoch)
	}
	slot, err := d.slot(m.Host)
	if err != nil {
		return fmt.Errorf("moved %s: %w", m.ID, err)
	}
	put := func() error {
		return write(d.objects.Moved, bpf.DatapathMapMoved, key, bpf.DatapathMover{Epoch: m.Epoch, Host: uint32(m.Host), Slot: slot})
	}
	if ok {
		return put()
	}
	return d.countedAs(m.ID, put)
}

// DeleteMoved deletes the entry of that epoch or a lower one. That there is none is no error. Errors: ErrStale.
func (d *Datapath) DeleteMoved(id addr.ID, epoch uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, ok, err := lookup[bpf.DatapathMover](d.objects.Moved, machineKey(id))
	if err != nil || !ok {
		return err
	}
	if old.Epoch > epoch {
		return fmt.Errorf("moved %s: %w: %d, the deleted one is %d", id, ErrStale, old.Epoch, epoch)
	}
	if err := remove(d.objects.Moved, bpf.DatapathMapMoved, machineKey(id)); err != nil {
		return err
	}
	return d.addMovers(id, -1)
}

// MovedEntries lists `moved`, in no order.
func (d *Datapath) MovedEntries() ([]Moved, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Moved
	err := list(d.objects.Moved, bpf.DatapathMapMoved, func(k bpf.DatapathMachineId, v bpf.DatapathMover) {
		all = append(all, Moved{ID: machineID(k), Host: addr.Host(v.Host), Epoch: v.Epoch})
	})
	return all, err
}

// PutBlock writes an entry of `blocks`. Errors: ErrInvalid, also for a block of another cell than this host's; ErrFull.
func (d *Datapath) PutBlock(b Block) error {
	if b.Block > addr.MaxBlock || b.Home == 0 {
		return fmt.Errorf("block %d: %w: home %d", b.Block, ErrInvalid, b.Home)
	}
	if b.Cell != d.cell {
		return fmt.Errorf("block %d: %w: it is of cell %d, this host of cell %d", b.Block, ErrInvalid, b.Cell, d.cell)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if size := d.objects.Blocks.MaxEntries(); uint32(b.Block) >= size {
		return fmt.Errorf("block %d: %w: %s has room for blocks 0 to %d, raise %s", b.Block, ErrFull, bpf.DatapathMapBlocks, size-1, sizeSetting(bpf.DatapathMapBlocks))
	}
	slot, err := d.slot(b.Home)
	if err != nil {
		return fmt.Errorf("block %d: %w", b.Block, err)
	}
	v := bpf.DatapathBlock{Home: uint32(b.Home), Slot: slot, Movers: d.movers[b.Block]}
	return write(d.objects.Blocks, bpf.DatapathMapBlocks, uint32(b.Block), v)
}

// DeleteBlock deletes an entry of `blocks`. That there is none is no error.
func (d *Datapath) DeleteBlock(c addr.Cell, b addr.Block) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c != d.cell || uint32(b) >= d.objects.Blocks.MaxEntries() {
		return nil
	}
	return write(d.objects.Blocks, bpf.DatapathMapBlocks, uint32(b), bpf.DatapathBlock{Movers: d.movers[b]})
}

// Blocks lists `blocks`, in no order.
func (d *Datapath) Blocks() ([]Block, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Block
	err := list(d.objects.Blocks, bpf.DatapathMapBlocks, func(number uint32, v bpf.DatapathBlock) {
		if v.Home != 0 {
			all = append(all, Block{Cell: d.cell, Block: addr.Block(number), Home: addr.Host(v.Home)})
		}
	})
	return all, err
}

// countedAs counts a new entry of `moved` or `machines` in its block, and has it put. In that order: in a block without
// movers it would not be looked for.
func (d *Datapath) countedAs(id addr.ID, put func() error) error {
	if err := d.addMovers(id, 1); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if err := put(); err != nil {
		// one too many costs a needless look, and the next start counts anew
		return errors.Join(err, d.addMovers(id, -1))
	}
	return nil
}

// addMovers counts the entries of `moved` and `machines` that a block of this cell has, in its entry too. Of other cells
// nothing is known but these entries, and all of them are looked for.
func (d *Datapath) addMovers(id addr.ID, n int) error {
	if id.Cell != d.cell {
		return nil
	}
	block := id.Machine.Block()
	movers := uint32(int(d.movers[block]) + n)
	if err := d.writeMovers(block, movers); err != nil {
		return err
	}
	if movers == 0 {
		delete(d.movers, block)
	} else {
		d.movers[block] = movers
	}
	return nil
}

func (d *Datapath) writeMovers(block addr.Block, movers uint32) error {
	if uint32(block) >= d.objects.Blocks.MaxEntries() {
		return nil // there is no entry which could say that there are none
	}
	v, _, err := lookup[bpf.DatapathBlock](d.objects.Blocks, uint32(block))
	if err != nil {
		return fmt.Errorf("block %d: read: %w", block, err)
	}
	v.Movers = movers
	return write(d.objects.Blocks, bpf.DatapathMapBlocks, uint32(block), v)
}

// countMovers counts the pinned entries, and puts right what a crash between two writes left wrong.
func (d *Datapath) countMovers() error {
	count := func(k bpf.DatapathMachineId) {
		if id := machineID(k); id.Cell == d.cell {
			d.movers[id.Machine.Block()]++
		}
	}
	err := list(d.objects.Moved, bpf.DatapathMapMoved, func(k bpf.DatapathMachineId, _ bpf.DatapathMover) { count(k) })
	if err != nil {
		return err
	}
	err = list(d.objects.Machines, bpf.DatapathMapMachines, func(k bpf.DatapathMachineId, _ bpf.DatapathMachine) { count(k) })
	if err != nil {
		return err
	}
	var wrong []addr.Block
	err = list(d.objects.Blocks, bpf.DatapathMapBlocks, func(number uint32, v bpf.DatapathBlock) {
		if v.Movers != d.movers[addr.Block(number)] {
			wrong = append(wrong, addr.Block(number))
		}
	})
	if err != nil {
		return err
	}
	for _, block := range wrong {
		if err := d.writeMovers(block, d.movers[block]); err != nil {
			return err
		}
	}
	return nil
}
