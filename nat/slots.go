package nat

import (
	"fmt"

	"ip6d/addr"
	"ip6d/bpf"
)

// slot returns the slot of a host in `hosts`, and gives it one where it has none yet: entries lead to hosts whose next
// hop is not known yet. Errors: ErrFull. The caller holds mu.
func (d *Datapath) slot(h addr.Host) (uint32, error) {
	if slot, ok := d.slots[h]; ok {
		return slot, nil
	}
	slot, ok := d.freeSlot()
	if !ok {
		if err := d.readSlots(); err != nil {
			return 0, err
		}
		slot, ok = d.freeSlot()
	}
	if !ok {
		return 0, fmt.Errorf("host %d: %w: %s has %d entries, raise %s", h, ErrFull, bpf.DatapathMapHosts, d.objects.Hosts.MaxEntries(), sizeSetting(bpf.DatapathMapHosts))
	}
	// The host first: a slot that says whose it is and no more is one whose way is not known.
	if err := write(d.objects.Hosts, bpf.DatapathMapHosts, slot, bpf.DatapathNextHop{Host: uint32(h)}); err != nil {
		return 0, err
	}
	if err := write(d.objects.Slots, bpf.DatapathMapSlots, uint32(h), slot); err != nil {
		return 0, err
	}
	d.slots[h], d.hostAt[slot] = slot, h
	return slot, nil
}

// freeSlot begins to look where the first is free as long as none was given back.
func (d *Datapath) freeSlot() (uint32, bool) {
	size := d.objects.Hosts.MaxEntries()
	for i := range size {
		slot := (uint32(len(d.hostAt)) + i) % size
		if _, taken := d.hostAt[slot]; !taken {
			return slot, true
		}
	}
	return 0, false
}

// readSlots reads which slot each host has, and frees those to which nothing leads any more. That is done when there is
// no other way: a packet that is just on its way by a slot that gets another host is refused. The caller holds mu.
func (d *Datapath) readSlots() error {
	clear(d.hostAt)
	err := list(d.objects.Slots, bpf.DatapathMapSlots, func(h, slot uint32) { d.slots[addr.Host(h)] = slot })
	if err != nil {
		return err
	}
	used := make(map[uint32]bool)
	use := func(host, slot uint32) {
		if host != 0 {
			used[slot] = true
		}
	}
	for _, read := range []func() error{
		func() error {
			return list(d.objects.Machines, bpf.DatapathMapMachines, func(_ bpf.DatapathMachineId, v bpf.DatapathMachine) { use(v.Host, v.Slot) })
		},
		func() error {
			return list(d.objects.Moved, bpf.DatapathMapMoved, func(_ uint32, v bpf.DatapathMovers) {
				for _, slot := range v.Slot {
					if slot != 0 {
						used[uint32(slot)-1] = true
					}
				}
			})
		},
		func() error {
			return list(d.objects.Blocks, bpf.DatapathMapBlocks, func(_ uint32, v bpf.DatapathBlock) { use(v.Home, v.Slot) })
		},
		func() error {
			return list(d.objects.Hosts, bpf.DatapathMapHosts, func(slot uint32, v bpf.DatapathNextHop) { use(v.Ifindex, slot) })
		},
	} {
		if err := read(); err != nil {
			return err
		}
	}
	for h, slot := range d.slots {
		if used[slot] {
			d.hostAt[slot] = h
			continue
		}
		delete(d.slots, h)
		if err := remove(d.objects.Slots, bpf.DatapathMapSlots, uint32(h)); err != nil {
			return err
		}
	}
	return nil
}
