// Package kernel is what survives a daemon that is killed: the kernel's maps and the devices of one host, with the rules
// of nat.Datapath and of the netlink agent, held by another process than the daemon's.
//
// It is no kernel's, and that is on purpose: the process that holds it sees each write of every host, in one order, and
// checks at that moment what must hold.
package kernel

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// Watcher is told of each change of a host's entry for a machine while no other write can happen on that host. An entry
// that is gone has no state.
type Watcher func(host addr.Host, before, after nat.Machine)

// Kernel is the kernel's side of one host. It is safe for concurrent use.
type Kernel struct {
	host  addr.Host
	watch Watcher

	mu sync.Mutex // guards all below
	Content
	lastIfindex int
}

// Content is what a Kernel holds.
type Content struct {
	Programs map[int]addr.ID // which machine a device may send as
	Machines map[addr.ID]nat.Machine
	Moved    map[addr.ID]nat.Moved
	Blocks   map[addr.Block]nat.Block
	Devices  map[string]Device
	Hosts    []hwmap.Host
	Witness  nat.Witness
	Dead     map[addr.Host]bool
	Fenced   bool
}

// Device is a port's device, and whose it is.
type Device struct {
	nat.Port
	Of addr.ID
}

// New returns the kernel's side of a host that has just booted.
func New(host addr.Host, watch Watcher) *Kernel {
	return &Kernel{host: host, watch: watch, Content: empty()}
}

func empty() Content {
	return Content{
		Programs: make(map[int]addr.ID), Machines: make(map[addr.ID]nat.Machine), Moved: make(map[addr.ID]nat.Moved),
		Blocks: make(map[addr.Block]nat.Block), Devices: make(map[string]Device), Dead: make(map[addr.Host]bool),
	}
}

// Snapshot copies what the kernel holds.
func (k *Kernel) Snapshot() Content {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Content{
		Programs: maps.Clone(k.Programs), Machines: maps.Clone(k.Machines), Moved: maps.Clone(k.Moved),
		Blocks: maps.Clone(k.Blocks), Devices: maps.Clone(k.Devices), Hosts: slices.Clone(k.Hosts), Witness: k.Witness,
		Dead: maps.Clone(k.Dead), Fenced: k.Fenced,
	}
}

// Reboot loses everything, as the host's kernel would.
func (k *Kernel) Reboot() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, m := range k.Machines {
		k.watch(k.host, m, nat.Machine{ID: id})
	}
	k.Content = empty()
}

// forgetLostPrograms does what nat.Open does when a daemon starts: programs whose device has gone are forgotten.
func (k *Kernel) forgetLostPrograms() {
	k.mu.Lock()
	defer k.mu.Unlock()
	there := make(map[int]bool)
	for _, d := range k.Devices {
		there[d.Ifindex] = true
	}
	maps.DeleteFunc(k.Programs, func(ifindex int, _ addr.ID) bool { return !there[ifindex] })
}

func (k *Kernel) attachProgram(ifindex int, of addr.ID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Programs[ifindex] = of
	return nil
}

func (k *Kernel) detachProgram(ifindex int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.Programs, ifindex)
	return nil
}

func (k *Kernel) putMachine(m nat.Machine) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.State == nat.Delivering && m.Host != 0 || m.State != nat.Delivering && (m.Host == 0 || m.Host == k.host) || m.State == 0 || m.Network == 0 {
		return fmt.Errorf("%w: %+v", nat.ErrInvalid, m)
	}
	if old := k.Machines[m.ID]; old.Epoch > m.Epoch {
		return nat.ErrStale
	}
	k.write(m)
	return nil
}

// write writes one entry, in one step. The caller holds mu.
func (k *Kernel) write(m nat.Machine) {
	before := k.Machines[m.ID]
	k.Machines[m.ID] = m
	if !k.Fenced {
		k.watch(k.host, before, m)
	}
}

func (k *Kernel) machine(id addr.ID) (nat.Machine, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, ok := k.Machines[id]
	return m, ok
}

func (k *Kernel) deleteMachine(id addr.ID, epoch uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old, ok := k.Machines[id]
	switch {
	case old.Epoch > epoch:
		return nat.ErrStale
	case ok:
		delete(k.Machines, id)
		k.watch(k.host, old, nat.Machine{ID: id})
	}
	return nil
}

func (k *Kernel) flip(id addr.ID, to addr.Host, epoch uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, ok := k.Machines[id]
	switch {
	case to == 0 || to == k.host:
		return nat.ErrInvalid
	case !ok || m.State != nat.Delivering && (m.State != nat.Away || m.Host != to):
		return nat.ErrNotFound
	case m.Epoch > epoch:
		return nat.ErrStale
	}
	m.State, m.Host, m.Epoch = nat.Away, to, epoch
	k.write(m)
	return nil
}

func (k *Kernel) putMoved(m nat.Moved) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Moved[m.ID].Epoch > m.Epoch {
		return nat.ErrStale
	}
	k.Moved[m.ID] = m
	return nil
}

func (k *Kernel) deleteMoved(id addr.ID, epoch uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Moved[id].Epoch > epoch {
		return nat.ErrStale
	}
	delete(k.Moved, id)
	return nil
}

func (k *Kernel) putBlock(b nat.Block) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Blocks[b.Block] = b
	return nil
}

func (k *Kernel) deleteBlock(b addr.Block) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.Blocks, b)
	return nil
}

// makeDevice makes the device of a machine's port, or finds it.
func (k *Kernel) makeDevice(name string, of addr.ID) (nat.Port, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, ok := k.Devices[name]
	if ok && d.Of != of {
		return nat.Port{}, fmt.Errorf("device %s is the port of %s", name, d.Of)
	}
	if !ok {
		k.lastIfindex++
		d = Device{nat.Port{Ifindex: k.lastIfindex, Enter: nat.EnterPeer}, of}
		k.Devices[name] = d
	}
	return d.Port, nil
}

var errNoDevice = errors.New("no such device")

func (k *Kernel) findDevice(name string, of addr.ID) (nat.Port, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d, ok := k.Devices[name]
	if !ok || d.Of != of {
		return nat.Port{}, fmt.Errorf("%w: %s", errNoDevice, name)
	}
	return d.Port, nil
}

func (k *Kernel) removeDevice(name string, of addr.ID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.Devices[name].Of == of {
		delete(k.Devices, name)
	}
	return nil
}

func (k *Kernel) setHosts(hosts []hwmap.Host) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Hosts = hosts
	return nil
}

func (k *Kernel) putWitness(w nat.Witness) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Witness = w
	return nil
}

func (k *Kernel) setDead(h addr.Host, dead bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if dead {
		k.Dead[h] = true
	} else {
		delete(k.Dead, h)
	}
	return nil
}

// setFenced stops everything, or has it go on: what a fenced kernel has in its maps delivers nothing.
func (k *Kernel) setFenced(fenced bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.Fenced = fenced
	for id, m := range k.Machines {
		if fenced {
			k.watch(k.host, m, nat.Machine{ID: id})
		} else {
			k.watch(k.host, nat.Machine{ID: id}, m)
		}
	}
	return nil
}
