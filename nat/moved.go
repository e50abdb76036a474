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
	put := func() error {
		return d.write(d.objects.Moved, bpf.DatapathMapMoved, key, bpf.DatapathMover{Epoch: m.Epoch, Host: uint32(m.Host)})
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
	if err := d.remove(d.objects.Moved, bpf.DatapathMapMoved, machineKey(id)); err != nil {
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

// PutBlock writes an entry of `blocks`. Errors: ErrInvalid, ErrFull.
func (d *Datapath) PutBlock(b Block) error {
	if b.Block > addr.MaxBlock || b.Home == 0 {
		return fmt.Errorf("block %d: %w: home %d", b.Block, ErrInvalid, b.Home)
	}
	if err := b.Cell.Check(); err != nil {
		return fmt.Errorf("block %d: %w: %w", b.Block, ErrInvalid, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	key := blockKey(b.Cell, b.Block)
	return d.write(d.objects.Blocks, bpf.DatapathMapBlocks, key, bpf.DatapathBlock{Home: uint32(b.Home), Movers: d.movers[key]})
}

// DeleteBlock deletes an entry of `blocks`. That there is none is no error.
func (d *Datapath) DeleteBlock(c addr.Cell, b addr.Block) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.remove(d.objects.Blocks, bpf.DatapathMapBlocks, blockKey(c, b))
}

// Blocks lists `blocks`, in no order.
func (d *Datapath) Blocks() ([]Block, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []Block
	err := list(d.objects.Blocks, bpf.DatapathMapBlocks, func(k bpf.DatapathBlockId, v bpf.DatapathBlock) {
		all = append(all, Block{Cell: addr.Cell(k.Cell), Block: addr.Block(k.Block), Home: addr.Host(v.Home)})
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

// addMovers counts the entries of `moved` and `machines` that a block has, in its entry too, where it has one.
func (d *Datapath) addMovers(id addr.ID, n int) error {
	key := blockOf(id)
	movers := uint32(int(d.movers[key]) + n)
	v, ok, err := lookup[bpf.DatapathBlock](d.objects.Blocks, key)
	if err != nil {
		return fmt.Errorf("block %d: read: %w", key.Block, err)
	}
	if ok {
		v.Movers = movers
		if err := d.write(d.objects.Blocks, bpf.DatapathMapBlocks, key, v); err != nil {
			return err
		}
	}
	if movers == 0 {
		delete(d.movers, key)
	} else {
		d.movers[key] = movers
	}
	return nil
}

// countMovers counts the pinned entries, and puts right what a crash between two writes left wrong.
func (d *Datapath) countMovers() error {
	err := list(d.objects.Moved, bpf.DatapathMapMoved, func(k bpf.DatapathMachineId, _ bpf.DatapathMover) {
		d.movers[blockOf(machineID(k))]++
	})
	if err != nil {
		return err
	}
	err = list(d.objects.Machines, bpf.DatapathMapMachines, func(k bpf.DatapathMachineId, _ bpf.DatapathMachine) {
		d.movers[blockOf(machineID(k))]++
	})
	if err != nil {
		return err
	}
	wrong := make(map[bpf.DatapathBlockId]bpf.DatapathBlock)
	err = list(d.objects.Blocks, bpf.DatapathMapBlocks, func(k bpf.DatapathBlockId, v bpf.DatapathBlock) {
		if v.Movers != d.movers[k] {
			v.Movers = d.movers[k]
			wrong[k] = v
		}
	})
	if err != nil {
		return err
	}
	for k, v := range wrong {
		if err := d.write(d.objects.Blocks, bpf.DatapathMapBlocks, k, v); err != nil {
			return err
		}
	}
	return nil
}

func blockKey(c addr.Cell, b addr.Block) bpf.DatapathBlockId {
	return bpf.DatapathBlockId{Block: uint32(b), Cell: uint16(c)}
}

func blockOf(id addr.ID) bpf.DatapathBlockId { return blockKey(id.Cell, id.Machine.Block()) }
