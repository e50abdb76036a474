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
	return d.counted(m.ID, counts{moved: 1}, put)
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
	return d.count(id, counts{moved: -1})
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
	return d.writeBlock(b.Block, bpf.DatapathBlock{Home: uint32(b.Home), Slot: slot}, d.counts[b.Block])
}

// DeleteBlock deletes an entry of `blocks`. That there is none is no error.
func (d *Datapath) DeleteBlock(c addr.Cell, b addr.Block) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c != d.cell || uint32(b) >= d.objects.Blocks.MaxEntries() {
		return nil
	}
	return d.writeBlock(b, bpf.DatapathBlock{}, d.counts[b])
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

// counts are how many machines of a block have an entry in `moved`, and in `machines`.
type counts struct{ moved, here int }

func (c counts) plus(o counts) counts { return counts{c.moved + o.moved, c.here + o.here} }

// counted counts a new entry in its block, and has it put. In that order: where there is none it would not be looked for.
func (d *Datapath) counted(id addr.ID, more counts, put func() error) error {
	if err := d.count(id, more); err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	if err := put(); err != nil {
		// one too many costs a needless look, and the next start counts anew
		return errors.Join(err, d.count(id, counts{-more.moved, -more.here}))
	}
	return nil
}

// count counts entries, in their block's entry too. Of blocks of other cells nothing is known, and all entries are
// looked for.
func (d *Datapath) count(id addr.ID, more counts) error {
	if id.Cell != d.cell {
		return nil
	}
	block := id.Machine.Block()
	now := d.counts[block].plus(more)
	if err := d.writeCounts(block, now); err != nil {
		return err
	}
	if now == (counts{}) {
		delete(d.counts, block)
	} else {
		d.counts[block] = now
	}
	return nil
}

func (d *Datapath) writeCounts(block addr.Block, c counts) error {
	if uint32(block) >= d.objects.Blocks.MaxEntries() {
		return nil // there is no entry which could say that there are none
	}
	v, _, err := lookup[bpf.DatapathBlock](d.objects.Blocks, uint32(block))
	if err != nil {
		return fmt.Errorf("block %d: read: %w", block, err)
	}
	return d.writeBlock(block, v, c)
}

func (d *Datapath) writeBlock(block addr.Block, v bpf.DatapathBlock, c counts) error {
	v.Moved, v.Here = uint32(c.moved), uint32(c.here)
	return write(d.objects.Blocks, bpf.DatapathMapBlocks, uint32(block), v)
}

// readCounts counts the pinned entries, and puts right what a crash between two writes left wrong.
func (d *Datapath) readCounts() error {
	count := func(k bpf.DatapathMachineId, one counts) {
		if id := machineID(k); id.Cell == d.cell {
			d.counts[id.Machine.Block()] = d.counts[id.Machine.Block()].plus(one)
		}
	}
	err := list(d.objects.Moved, bpf.DatapathMapMoved, func(k bpf.DatapathMachineId, _ bpf.DatapathMover) { count(k, counts{moved: 1}) })
	if err != nil {
		return err
	}
	err = list(d.objects.Machines, bpf.DatapathMapMachines, func(k bpf.DatapathMachineId, _ bpf.DatapathMachine) { count(k, counts{here: 1}) })
	if err != nil {
		return err
	}
	var wrong []addr.Block
	err = list(d.objects.Blocks, bpf.DatapathMapBlocks, func(number uint32, v bpf.DatapathBlock) {
		if block := addr.Block(number); d.counts[block] != (counts{int(v.Moved), int(v.Here)}) {
			wrong = append(wrong, block)
		}
	})
	if err != nil {
		return err
	}
	for _, block := range wrong {
		if err := d.writeCounts(block, d.counts[block]); err != nil {
			return err
		}
	}
	return nil
}
