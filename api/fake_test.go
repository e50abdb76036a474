package api

import (
	"errors"
	"maps"
	"slices"
	"sync"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// maps of a kernel, in memory.
type fakeDatapath struct {
	mu       sync.Mutex // guards all below
	ports    map[int]addr.Stable
	machines map[addr.ID]nat.Machine
	moved    map[addr.ID]nat.Moved
	blocks   map[addr.Block]nat.Block
	witness  nat.Witness
	dead     map[addr.Host]bool
	fenced   bool
	broken   error // what PutMachine fails with
	lost     nat.EventsLost
}

func newFakeDatapath() *fakeDatapath {
	return &fakeDatapath{
		ports: make(map[int]addr.Stable), machines: make(map[addr.ID]nat.Machine),
		moved: make(map[addr.ID]nat.Moved), blocks: make(map[addr.Block]nat.Block),
		dead: make(map[addr.Host]bool),
	}
}

func (d *fakeDatapath) Drops() ([]nat.Drop, error) {
	return []nat.Drop{{Reason: "not_here", Meaning: "the machine is not on this host", Packets: 3}, {Reason: "loop", Meaning: "it came from there"}}, nil
}

func (d *fakeDatapath) EventsLost() (lost nat.EventsLost, err error) {
	err = d.locked(func() { lost = d.lost })
	return lost, err
}

func (d *fakeDatapath) Fill() []nat.Fill { return []nat.Fill{{Map: "moved", Entries: 2, Size: 8}} }

// locked runs f on the maps.
func (d *fakeDatapath) locked(f func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	return nil
}

func (d *fakeDatapath) Witness() (w nat.Witness, err error) {
	err = d.locked(func() { w = d.witness })
	return w, err
}

func (d *fakeDatapath) PutWitness(w nat.Witness) error {
	return d.locked(func() { d.witness = w })
}

func (d *fakeDatapath) AttachPort(i int, s addr.Stable) error {
	return d.locked(func() { d.ports[i] = s })
}
func (d *fakeDatapath) AwaitPacket(int, bool) error { return nil }
func (d *fakeDatapath) DetachPort(i int) error      { return d.locked(func() { delete(d.ports, i) }) }

func (d *fakeDatapath) PutMachine(m nat.Machine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken != nil {
		return d.broken
	}
	d.machines[m.ID] = m
	return nil
}

func (d *fakeDatapath) Machine(id addr.ID) (m nat.Machine, ok bool, err error) {
	err = d.locked(func() { m, ok = d.machines[id] })
	return m, ok, err
}

func (d *fakeDatapath) Machines() (all []nat.Machine, err error) {
	err = d.locked(func() { all = slices.Collect(maps.Values(d.machines)) })
	return all, err
}

func (d *fakeDatapath) DeleteMachine(id addr.ID, epoch uint64) error {
	return d.locked(func() {
		if d.machines[id].Epoch <= epoch {
			delete(d.machines, id)
		}
	})
}

func (d *fakeDatapath) Flip(id addr.ID, to addr.Host, epoch uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	m, ok := d.machines[id]
	if !ok || m.Epoch != epoch {
		return errors.New("no such entry")
	}
	m.State, m.Host = nat.Away, to
	d.machines[id] = m
	return nil
}

func (d *fakeDatapath) PutMoved(entries ...nat.Moved) error {
	return d.locked(func() {
		for _, m := range entries {
			d.moved[m.ID] = m
		}
	})
}

func (d *fakeDatapath) DeleteMoved(id addr.ID, epoch uint64) error {
	return d.locked(func() {
		if d.moved[id].Epoch <= epoch {
			delete(d.moved, id)
		}
	})
}

func (d *fakeDatapath) MovedEntries() (all []nat.Moved, err error) {
	err = d.locked(func() { all = slices.Collect(maps.Values(d.moved)) })
	return all, err
}

func (d *fakeDatapath) PutBlock(b nat.Block) error { return d.locked(func() { d.blocks[b.Block] = b }) }

func (d *fakeDatapath) DeleteBlock(_ addr.Cell, b addr.Block) error {
	return d.locked(func() { delete(d.blocks, b) })
}

func (d *fakeDatapath) Blocks() (all []nat.Block, err error) {
	err = d.locked(func() { all = slices.Collect(maps.Values(d.blocks)) })
	return all, err
}

func (d *fakeDatapath) PutDead(h addr.Host) error { return d.locked(func() { d.dead[h] = true }) }

func (d *fakeDatapath) DeleteDead(h addr.Host) error { return d.locked(func() { delete(d.dead, h) }) }

func (d *fakeDatapath) DeadHosts() (all []addr.Host, err error) {
	err = d.locked(func() { all = slices.Collect(maps.Keys(d.dead)) })
	return all, err
}

func (d *fakeDatapath) SetFenced(fenced bool) error { return d.locked(func() { d.fenced = fenced }) }

func (d *fakeDatapath) Fenced() (fenced bool, err error) {
	err = d.locked(func() { fenced = d.fenced })
	return fenced, err
}

// fakePorts makes ports that are numbers.
type fakePorts struct {
	mu   sync.Mutex // guards made
	made map[string]nat.Port
}

func (p *fakePorts) Device(s addr.Stable, spec hwmap.PortSpec) string {
	if spec.Existing != "" {
		return spec.Existing
	}
	return "ip6d" + s.ID().String()
}

func (p *fakePorts) Attach(s addr.Stable, spec hwmap.PortSpec) (hwmap.LocalPort, nat.Port, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	device := p.Device(s, spec)
	port, ok := p.made[device]
	if !ok {
		port = nat.Port{Ifindex: len(p.made) + 10, Enter: nat.EnterPeer}
		p.made[device] = port
	}
	return hwmap.LocalPort{PortSpec: spec, Device: device, MAC: "02:00:5e:10:00:01", MTU: 1500}, port, nil
}

func (p *fakePorts) Find(_ addr.Stable, l hwmap.LocalPort) (nat.Port, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	port, ok := p.made[l.Device]
	if !ok {
		return port, errors.New("device is gone")
	}
	return port, nil
}

func (p *fakePorts) Detach(_ addr.Stable, l hwmap.LocalPort) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.made, l.Device)
	return nil
}

func (p *fakePorts) SetHosts([]hwmap.Host) error { return nil }
