package nat

import (
	"fmt"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/bpf"
)

// realCounts counts the entries of each block.
func (d *Datapath) realCounts() (map[addr.Block]counts, error) {
	real := make(map[addr.Block]counts)
	err := list(d.objects.Moved, bpf.DatapathMapMoved, func(number uint32, v bpf.DatapathMovers) {
		n := 0
		for _, slot := range v.Slot {
			if slot != 0 {
				n++
			}
		}
		if n != 0 {
			real[addr.Block(number)] = counts{moved: n}
		}
	})
	if err != nil {
		return nil, err
	}
	machines, err := d.Machines()
	for _, m := range machines {
		if m.ID.Cell == d.cell {
			real[m.ID.Machine.Block()] = real[m.ID.Machine.Block()].plus(counts{here: 1})
		}
	}
	return real, err
}

// lookAtCounts finds blocks whose counts are not of the entries that there are.
func (d *Datapath) lookAtCounts() (all []audit.Difference, err error) {
	real, err := d.realCounts()
	if err != nil {
		return nil, err
	}
	err = list(d.objects.Blocks, bpf.DatapathMapBlocks, func(number uint32, v bpf.DatapathBlock) {
		block := addr.Block(number)
		if said := (counts{int(v.Moved), int(v.Here)}); said != real[block] {
			all = append(all, audit.New(audit.BlockCountDiffers, audit.Block(block), "entries", real[block].String(), "kernel's blocks", said.String()))
		}
	})
	return all, err
}

func (c counts) String() string { return fmt.Sprintf("%d moved, %d here", c.moved, c.here) }

// Recount makes the counts of a block those of the entries that there are: somebody may have changed the maps.
func (d *Datapath) Recount(block addr.Block) error {
	real, err := d.realCounts()
	if err != nil || d.checkBlock(block) != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before, now := d.counts[block], real[block]
	if err := d.writeCounts(block, now); err != nil {
		return err
	}
	d.total = d.total.plus(counts{now.moved - before.moved, now.here - before.here})
	d.counts[block] = now
	if now == (counts{}) {
		delete(d.counts, block)
	}
	return nil
}
