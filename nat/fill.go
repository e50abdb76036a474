package nat

import (
	"ip6d/addr"
	"ip6d/bpf"
)

// Fill is how full a map is.
type Fill struct {
	Map     string // its name, as in docs and `bpftool map`
	Entries int
	Size    int // how many it has room for
}

// Fill returns how full each map is that entries are put into, ordered by name. It reads nothing from the kernel, so that
// it costs as little with a million entries as with none. `hosts` counts the hosts that have a place there, also while
// their next hop is not known; the place of one that has gone is free when it is needed.
func (d *Datapath) Fill() []Fill {
	d.mu.Lock()
	defer d.mu.Unlock()
	return []Fill{
		{bpf.DatapathMapBlocks, len(d.homes), int(d.objects.Blocks.MaxEntries())},
		{bpf.DatapathMapHosts, len(d.slots), int(d.objects.Hosts.MaxEntries())},
		{bpf.DatapathMapMachines, d.total.here, int(d.objects.Machines.MaxEntries())},
		{bpf.DatapathMapMoved, d.total.moved, int(d.objects.Moved.MaxEntries()) * addr.BlockSize},
		{bpf.DatapathMapPorts, len(d.ports), int(d.objects.Ports.MaxEntries())},
	}
}
