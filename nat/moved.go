package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"

	"ip6d/addr"
	"ip6d/bpf"
)

// PutMoved writes entries of `moved`; many of one block, one after the other, cost little more than one. Where one cannot be
// written, the others are all the same. Errors: ErrInvalid, also for a machine of another cell than this host's; ErrStale;
// ErrFull.
func (d *Datapath) PutMoved(entries ...Moved) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for len(entries) > 0 {
		id := entries[0].ID
		n := 1
		for n < len(entries) && entries[n].ID.Cell == id.Cell && entries[n].ID.Machine.Block() == id.Machine.Block() &&
			entries[n].ID.Machine > entries[n-1].ID.Machine { // one that comes again is not counted again
			n++
		}
		if err := d.putMoved(entries[:n]); err != nil {
			errs = append(errs, err)
		}
		entries = entries[n:]
	}
	return errors.Join(errs...)
}

// putMoved writes entries of one block. All are counted first: where none is counted, none would be looked for. The caller
// holds mu.
func (d *Datapath) putMoved(entries []Moved) error {
	var errs []error
	values, wanted, added := make([]movedValue, 0, len(entries)), make([]addr.Machine, 0, len(entries)), 0
	for _, m := range entries {
		v, isNew, err := d.movedValue(m)
		if err != nil {
			errs = append(errs, fmt.Errorf("moved %s: %w", m.ID, err))
			continue
		}
		values, wanted = append(values, v), append(wanted, m.ID.Machine)
		if isNew {
			added++
		}
	}
	put := func() error {
		for i, number := range wanted {
			if err := d.writeMoved(number, values[i]); err != nil {
				return fmt.Errorf("moved %s: %w", addr.ID{Cell: d.cell, Machine: number}, err)
			}
		}
		return nil
	}
	if added == 0 {
		return errors.Join(append(errs, put())...)
	}
	return errors.Join(append(errs, d.counted(entries[0].ID, counts{moved: added}, put))...)
}

// movedValue is what is to be written for m, and whether there is no entry yet. The caller holds mu.
func (d *Datapath) movedValue(m Moved) (v movedValue, isNew bool, err error) {
	if err := d.checkMoved(m); err != nil {
		return v, false, err
	}
	if err := d.checkBlock(m.ID.Machine.Block()); err != nil {
		return v, false, err
	}
	old, ok, err := d.readMoved(m.ID.Machine)
	if err != nil {
		return v, false, fmt.Errorf("read: %w", err)
	}
	if ok && old.epoch > m.Epoch {
		return v, false, fmt.Errorf("%w: %d, this is %d", ErrStale, old.epoch, m.Epoch)
	}
	v.epoch = m.Epoch
	v.slot, err = d.slot(m.Host)
	return v, !ok, err
}

// DeleteMoved deletes the entry of that epoch or a lower one. That there is none is no error. Errors: ErrStale.
func (d *Datapath) DeleteMoved(id addr.ID, epoch uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if id.Cell != d.cell || d.checkBlock(id.Machine.Block()) != nil {
		return nil
	}
	old, ok, err := d.readMoved(id.Machine)
	if err != nil || !ok {
		return err
	}
	if old.epoch > epoch {
		return fmt.Errorf("moved %s: %w: %d, the deleted one is %d", id, ErrStale, old.epoch, epoch)
	}
	if err := d.clearMoved(id.Machine); err != nil {
		return err
	}
	return d.count(id, counts{moved: -1})
}

// MovedEntries lists `moved`, ordered by number: what is there, also where nothing counted it. Writers are not kept waiting
// for it, so that what changes meanwhile may be seen before or after.
func (d *Datapath) MovedEntries() ([]Moved, error) {
	var all []Moved
	var readErr error
	err := list(d.objects.Moved, bpf.DatapathMapMoved, func(block uint32, v bpf.DatapathMovers) {
		for i, slot := range v.Slot {
			if slot == 0 || readErr != nil {
				continue
			}
			m := addr.Block(block).First() + addr.Machine(i)
			var epoch uint64
			epoch, readErr = d.readEpoch(m)
			all = append(all, Moved{ID: addr.ID{Cell: d.cell, Machine: m}, Host: addr.Host(slot - 1), Epoch: epoch})
		}
	})
	if err = errors.Join(err, readErr); err != nil {
		return nil, fmt.Errorf("list map %s: %w", bpf.DatapathMapMoved, err)
	}
	d.mu.Lock()
	hostAt := maps.Clone(d.hostAt)
	d.mu.Unlock()
	for i, e := range all {
		all[i].Host = hostAt[uint32(e.Host)] // it was the slot
	}
	return all, nil
}

func (d *Datapath) checkMoved(m Moved) error {
	switch {
	case m.ID.Cell != d.cell:
		return fmt.Errorf("%w: it is of cell %d, this host of cell %d", ErrInvalid, m.ID.Cell, d.cell)
	case m.Host == 0:
		return fmt.Errorf("%w: host 0", ErrInvalid)
	}
	return nil
}

// checkBlock checks that the maps have room for a block. Errors: ErrFull.
func (d *Datapath) checkBlock(b addr.Block) error {
	if size := d.objects.Blocks.MaxEntries(); uint32(b) >= size {
		return fmt.Errorf("block %d: %w: there is room for blocks 0 to %d, raise %s", b, ErrFull, size-1, sizeSetting(bpf.DatapathMapBlocks))
	}
	return nil
}

// movedValue is an entry of `moved`, with its epoch.
type movedValue struct {
	slot  uint32
	epoch uint64
}

// Sizes of what `moved` and `epochs` have for a machine, in bytes. A machine's is at its number times that.
const (
	slotSize  = 2
	epochSize = 8
)

// readMoved reads the entry of a machine whose block there is room for. The caller holds mu.
func (d *Datapath) readMoved(m addr.Machine) (v movedValue, ok bool, err error) {
	var b [epochSize]byte
	if _, err := d.moved.ReadAt(b[:slotSize], int64(m)*slotSize); err != nil {
		return v, false, err
	}
	slot := binary.NativeEndian.Uint16(b[:])
	if slot == 0 {
		return v, false, nil
	}
	v.slot = uint32(slot) - 1
	v.epoch, err = d.readEpoch(m)
	return v, err == nil, err
}

func (d *Datapath) readEpoch(m addr.Machine) (uint64, error) {
	var b [epochSize]byte
	_, err := d.epochs.ReadAt(b[:], int64(m)*epochSize)
	return binary.NativeEndian.Uint64(b[:]), err
}

// writeMoved writes the epoch first: an entry never has a lower one than its own.
func (d *Datapath) writeMoved(m addr.Machine, v movedValue) error {
	_, err := d.epochs.WriteAt(binary.NativeEndian.AppendUint64(nil, v.epoch), int64(m)*epochSize)
	if err == nil {
		_, err = d.moved.WriteAt(binary.NativeEndian.AppendUint16(nil, uint16(v.slot+1)), int64(m)*slotSize)
	}
	return err
}

func (d *Datapath) clearMoved(m addr.Machine) error {
	_, err := d.moved.WriteAt(make([]byte, slotSize), int64(m)*slotSize)
	return err
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
	if err := d.checkBlock(b.Block); err != nil {
		return err
	}
	slot, err := d.slot(b.Home)
	if err != nil {
		return fmt.Errorf("block %d: %w", b.Block, err)
	}
	if err := d.writeBlock(b.Block, bpf.DatapathBlock{Home: uint32(b.Home), Slot: slot}, d.counts[b.Block]); err != nil {
		return err
	}
	d.homes[b.Block] = struct{}{}
	return nil
}

// DeleteBlock deletes an entry of `blocks`. That there is none is no error.
func (d *Datapath) DeleteBlock(c addr.Cell, b addr.Block) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c != d.cell || d.checkBlock(b) != nil {
		return nil
	}
	if err := d.writeBlock(b, bpf.DatapathBlock{}, d.counts[b]); err != nil {
		return err
	}
	delete(d.homes, b)
	return nil
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
		d.total = d.total.plus(more)
		return nil
	}
	block := id.Machine.Block()
	now := d.counts[block].plus(more)
	if err := d.writeCounts(block, now); err != nil {
		return err
	}
	d.total = d.total.plus(more)
	if now == (counts{}) {
		delete(d.counts, block)
	} else {
		d.counts[block] = now
	}
	return nil
}

func (d *Datapath) writeCounts(block addr.Block, c counts) error {
	if d.checkBlock(block) != nil {
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
	err := list(d.objects.Moved, bpf.DatapathMapMoved, func(number uint32, v bpf.DatapathMovers) {
		n := 0
		for _, slot := range v.Slot {
			if slot != 0 {
				n++
			}
		}
		if n != 0 {
			d.counts[addr.Block(number)] = counts{moved: n}
			d.total.moved += n
		}
	})
	if err != nil {
		return err
	}
	err = list(d.objects.Machines, bpf.DatapathMapMachines, func(k bpf.DatapathMachineId, _ bpf.DatapathMachine) {
		d.total.here++
		if id := machineID(k); id.Cell == d.cell {
			d.counts[id.Machine.Block()] = d.counts[id.Machine.Block()].plus(counts{here: 1})
		}
	})
	if err != nil {
		return err
	}
	var wrong []addr.Block
	err = list(d.objects.Blocks, bpf.DatapathMapBlocks, func(number uint32, v bpf.DatapathBlock) {
		if v.Home != 0 {
			d.homes[addr.Block(number)] = struct{}{}
		}
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
