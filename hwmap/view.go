package hwmap

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"ip6d/addr"
)

// fleetView is the fleet's map as this host last saw it, in memory.
type fleetView struct {
	revision Revision // of the store
	hosts    map[addr.Host]Host
	blocks   map[addr.Block]Block
	machines machineRecords
	names    map[string][]addr.Machine // of machines; nil until somebody asks

	stateAt Revision // of the record that this host's own state is of; 0: not known

	lost     map[addr.Block]struct{} // this host's blocks whose records have gone from the store
	unrouted map[addr.Block]struct{} // blocks whose home changed, and not all entries of their machines with it

	ahead map[Key]Revision // of records that were read upon a hint or written, while it is above revision

	restoring bool // what is being applied is the cache's; `moved` entries that come of it are put together, afterwards

	id      string      // of the store that answers
	known   KnownStore  // what is remembered of it
	isNew   bool        // known is to be remembered with the next revision
	suspect string      // why it is not believed
	pending []addr.Host // that have not published again what they know, since it was accepted

	following bool  // whether the store is being watched
	err       error // why not

	back  chan struct{} // closed when it is again; nil: nobody waits for it
	heard time.Time     // while it is not: when the view was last known to be the fleet's map
}

func newFleetView() fleetView {
	return fleetView{
		hosts:    make(map[addr.Host]Host),
		blocks:   make(map[addr.Block]Block),
		lost:     make(map[addr.Block]struct{}),
		unrouted: make(map[addr.Block]struct{}),
		ahead:    make(map[Key]Revision),
	}
}

// putMachine takes a machine's record in, or that it has gone: nil.
func (v *fleetView) putMachine(number addr.Machine, r *Machine) {
	if v.names != nil {
		before, existed := v.machines.get(number)
		if existed && (r == nil || r.Name != before.Name) {
			left := slices.DeleteFunc(v.names[before.Name], func(n addr.Machine) bool { return n == number })
			if put(v.names, before.Name, &left); len(left) == 0 {
				delete(v.names, before.Name)
			}
		}
		if r != nil && (!existed || r.Name != before.Name) {
			v.names[r.Name] = append(v.names[r.Name], number)
		}
	}
	v.machines.put(number, r)
}

// named returns the machines that have a record with that name.
func (v *fleetView) named(name string) []addr.Machine {
	if v.names == nil {
		v.names = make(map[string][]addr.Machine, v.machines.len())
		for number, r := range v.machines.all() {
			v.names[r.Name] = append(v.names[r.Name], number)
		}
	}
	return v.names[name]
}

// where returns the host that the fleet's map says the machine is on: its own record, else its block's home.
func (v *fleetView) where(m addr.Machine) (addr.Host, bool) {
	if h, ok := v.machines.host(m); ok {
		return h, true
	}
	b, ok := v.blocks[m.Block()]
	return b.Home, ok
}

// keys returns the key of every record in the view.
func (v *fleetView) keys() []Key {
	var keys []Key
	for h := range v.hosts {
		keys = append(keys, hostKey(h))
	}
	for b := range v.blocks {
		keys = append(keys, blockKey(b))
	}
	for m := range v.machines.all() {
		keys = append(keys, machineKey(m))
	}
	return keys
}

// optional decodes the record of e, or returns nil where the key does not exist.
func optional[T any](e Entry) (*T, error) {
	if e.Value == nil {
		return nil, nil
	}
	r, err := decode[T](e)
	return &r, err
}

// put is what a view does with one record; deleted ones go.
func put[K comparable, V any](m map[K]V, k K, v *V) {
	if v == nil {
		delete(m, k)
		return
	}
	m[k] = *v
}

// HostOf returns the host that a machine is on, as far as this host knows: its own machines are where it has them, of others
// their record counts, and where there is none, their block's home.
func (m *Map) HostOf(id addr.ID) (addr.Host, bool) {
	if id.Cell != m.Cell {
		return 0, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l, ok := m.local[id.Machine]; ok {
		return m.hostOf(l)
	}
	return m.fleet.where(id.Machine)
}

// hostOf is HostOf for what this host has of a machine. The caller holds mu.
func (m *Map) hostOf(l Local) (addr.Host, bool) {
	switch l.State {
	case Here, Leaving, Switching, Destroying:
		return m.Self.ID, true
	case Incoming:
		return l.Peer, true
	case Away:
		if r, _ := m.fleet.machines.get(l.Machine); r.Epoch > l.Epoch {
			return r.Host, true
		}
		return l.Peer, true
	}
	return m.fleet.where(l.Machine)
}

// Hosts returns the hosts of the fleet by id, and the blocks of each.
func (m *Map) Hosts() []HostView {
	m.mu.Lock()
	defer m.mu.Unlock()
	blocks := make(map[addr.Host][]addr.Block)
	for _, b := range slices.Sorted(maps.Keys(m.fleet.blocks)) {
		home := m.fleet.blocks[b].Home
		blocks[home] = append(blocks[home], b)
	}
	var hosts []HostView
	for _, id := range slices.Sorted(maps.Keys(m.fleet.hosts)) {
		hosts = append(hosts, HostView{Host: m.fleet.hosts[id], Blocks: blocks[id]})
	}
	return hosts
}

// HostsAt returns the hosts of the fleet that have that underlay address: one, unless two were given the same by mistake.
func (m *Map) HostsAt(underlay netip.Addr) []Host {
	m.mu.Lock()
	defer m.mu.Unlock()
	var hosts []Host
	for _, h := range m.fleet.hosts {
		if h.Underlay == underlay {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// HostView is a host and the blocks that it is home of.
type HostView struct {
	Host
	Blocks []addr.Block
}
