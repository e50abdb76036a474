package hwmap_test

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

// kernel is the kernel's maps of one server, with the rules of nat.Datapath. It survives the daemon, and not a reboot.
type kernel struct {
	host  addr.Host
	seen  func(nat.Machine) // told of each entry as it is written
	fence func()            // told that everything is stopped

	mu       sync.Mutex // guards all below
	ports    map[int]addr.Stable
	awaited  map[int]bool
	machines map[addr.ID]nat.Machine
	moved    map[addr.ID]nat.Moved
	blocks   map[addr.Block]nat.Block
	witness  nat.Witness
	dead     map[addr.Host]bool
	fenced   bool
	changes  []string // see changed
	room     int      // for entries of each kind; 0: enough, below: none
}

func newKernel(host addr.Host, seen func(nat.Machine)) *kernel {
	k := &kernel{host: host, seen: seen}
	k.reboot()
	return k
}

func (k *kernel) reboot() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ports, k.machines = make(map[int]addr.Stable), make(map[addr.ID]nat.Machine)
	k.witness, k.awaited = nat.Witness{}, make(map[int]bool)
	k.moved, k.blocks = make(map[addr.ID]nat.Moved), make(map[addr.Block]nat.Block)
	k.dead, k.fenced = make(map[addr.Host]bool), false
}

// content is a copy of what the maps hold.
func (k *kernel) content() (map[int]addr.Stable, map[addr.ID]nat.Machine, map[addr.ID]nat.Moved, map[addr.Block]nat.Block) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.ports), maps.Clone(k.machines), maps.Clone(k.moved), maps.Clone(k.blocks)
}

// restart does what nat.Open does: programs whose device has gone are forgotten.
func (k *kernel) restart(d *devices) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	there := make(map[int]bool)
	for _, port := range d.made {
		there[port.Ifindex] = true
	}
	maps.DeleteFunc(k.ports, func(ifindex int, _ addr.Stable) bool { return !there[ifindex] })
}

func (k *kernel) limit(room int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.room = room
}

func (k *kernel) full(entries int) error {
	if k.room != 0 && entries >= k.room {
		return fmt.Errorf("%w: it has %d entries", nat.ErrFull, entries)
	}
	return nil
}

func (k *kernel) AttachPort(ifindex int, s addr.Stable) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.ports[ifindex]; !ok {
		if err := k.full(len(k.ports)); err != nil {
			return err
		}
	}
	if k.ports[ifindex] != s {
		delete(k.awaited, ifindex)
	}
	k.ports[ifindex] = s
	return nil
}

func (k *kernel) AwaitPacket(ifindex int, await bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.ports[ifindex]; !ok {
		return fmt.Errorf("port %d: %w", ifindex, nat.ErrNotFound)
	}
	k.awaited[ifindex] = await
	return nil
}

// changed returns what has changed in the entries of machines that moved, of blocks, and what entries of machines have gone,
// since it was last asked.
func (k *kernel) changed() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.changes
	k.changes = nil
	return all
}

// tells reports whether what the machine sends is told: what its port waits for, or what is not awaited any more.
func (k *kernel) tells(id addr.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.awaited[k.machines[id].Port.Ifindex]
}

func (k *kernel) DetachPort(ifindex int) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.ports, ifindex)
	delete(k.awaited, ifindex)
	return nil
}

func (k *kernel) PutMachine(m nat.Machine) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if m.State == nat.Delivering && m.Host != 0 || m.State != nat.Delivering && (m.Host == 0 || m.Host == k.host) || m.State == 0 || m.Network == 0 {
		return fmt.Errorf("%w: %+v", nat.ErrInvalid, m)
	}
	old, ok := k.machines[m.ID]
	if ok && old.Epoch > m.Epoch {
		return nat.ErrStale
	}
	if !ok {
		if err := k.full(len(k.machines)); err != nil {
			return err
		}
	}
	k.write(m)
	return nil
}

func (k *kernel) write(m nat.Machine) {
	k.machines[m.ID] = m
	k.see(m)
}

// see tells of what packets find: nothing, where everything is stopped.
func (k *kernel) see(m nat.Machine) {
	if k.fenced {
		m = nat.Machine{ID: m.ID}
	}
	k.seen(m)
}

func (k *kernel) Machine(id addr.ID) (nat.Machine, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, ok := k.machines[id]
	return m, ok, nil
}

func (k *kernel) Machines() ([]nat.Machine, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.machines)), nil
}

func (k *kernel) DeleteMachine(id addr.ID, epoch uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old, ok := k.machines[id]; ok && old.Epoch > epoch {
		return nat.ErrStale
	}
	if _, ok := k.machines[id]; ok {
		k.changes = append(k.changes, fmt.Sprintf("machine %s gone", id))
	}
	delete(k.machines, id)
	k.seen(nat.Machine{ID: id})
	return nil
}

func (k *kernel) Flip(id addr.ID, to addr.Host, epoch uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	m, ok := k.machines[id]
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

func (k *kernel) PutMoved(entries ...nat.Moved) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, m := range entries {
		errs = append(errs, k.putMoved(m))
	}
	return errors.Join(errs...)
}

func (k *kernel) putMoved(m nat.Moved) error {
	old, ok := k.moved[m.ID]
	if ok && old.Epoch > m.Epoch {
		return nat.ErrStale
	}
	if !ok {
		if err := k.full(len(k.moved)); err != nil {
			return err
		}
	}
	if old != m {
		k.changes = append(k.changes, fmt.Sprintf("moved %s to host %d", m.ID, m.Host))
	}
	k.moved[m.ID] = m
	return nil
}

func (k *kernel) DeleteMoved(id addr.ID, epoch uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old, ok := k.moved[id]; ok && old.Epoch > epoch {
		return nat.ErrStale
	}
	if _, ok := k.moved[id]; ok {
		k.changes = append(k.changes, fmt.Sprintf("moved %s gone", id))
	}
	delete(k.moved, id)
	return nil
}

func (k *kernel) MovedEntries() ([]nat.Moved, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.moved)), nil
}

func (k *kernel) PutBlock(b nat.Block) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	old, ok := k.blocks[b.Block]
	if !ok {
		if err := k.full(len(k.blocks)); err != nil {
			return err
		}
	}
	if old != b {
		k.changes = append(k.changes, fmt.Sprintf("block %d to host %d", b.Block, b.Home))
	}
	k.blocks[b.Block] = b
	return nil
}

func (k *kernel) DeleteBlock(_ addr.Cell, b addr.Block) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.blocks[b]; ok {
		k.changes = append(k.changes, fmt.Sprintf("block %d gone", b))
	}
	delete(k.blocks, b)
	return nil
}

func (k *kernel) Blocks() ([]nat.Block, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Collect(maps.Values(k.blocks)), nil
}

func (k *kernel) Witness() (nat.Witness, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.witness, nil
}

func (k *kernel) PutWitness(w nat.Witness) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.witness = w
	return nil
}

// sideFile is a witness in memory, beside the truth of a server.
type sideFile struct {
	mu   sync.Mutex // guards mark
	mark hwmap.Mark
}

func (f *sideFile) Read() (hwmap.Mark, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mark, nil
}

func (f *sideFile) Begin(m hwmap.Mark) error { return f.Raise(m) }

func (f *sideFile) Raise(m hwmap.Mark) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mark = m
	return nil
}

func (k *kernel) PutDead(h addr.Host) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h == 0 || h == k.host {
		return fmt.Errorf("%w: host %d", nat.ErrInvalid, h)
	}
	k.dead[h] = true
	return nil
}

func (k *kernel) DeleteDead(h addr.Host) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.dead, h)
	return nil
}

func (k *kernel) DeadHosts() ([]addr.Host, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Sorted(maps.Keys(k.dead)), nil
}

// SetFenced has those be seen that nobody sees while everything is stopped.
func (k *kernel) SetFenced(fenced bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.fenced = fenced; fenced && k.fence != nil {
		k.fence()
	}
	for _, m := range k.machines {
		k.see(m)
	}
	return nil
}

func (k *kernel) Fenced() (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fenced, nil
}

func (k *kernel) deadHosts() []addr.Host {
	dead, _ := k.DeadHosts()
	return dead
}

func (k *kernel) closed() bool {
	fenced, _ := k.Fenced()
	return fenced
}

// devices are the ports of one server: those that it made, and those that were there before.
type devices struct {
	mu    sync.Mutex // guards all below
	last  int
	made  map[string]device
	hosts []hwmap.Host
}

// device is a port and whose it is.
type device struct {
	nat.Port
	of addr.Stable
}

func newDevices() *devices { return &devices{made: make(map[string]device)} }

func (d *devices) reboot() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made = make(map[string]device)
}

func (d *devices) content() (map[string]device, []hwmap.Host) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.made), slices.Clone(d.hosts)
}

func (d *devices) Device(s addr.Stable, spec hwmap.PortSpec) string {
	if spec.Existing != "" {
		return spec.Existing
	}
	return "m" + s.ID().String()
}

func (d *devices) Attach(s addr.Stable, spec hwmap.PortSpec) (hwmap.LocalPort, nat.Port, error) {
	name := d.Device(s, spec)
	d.mu.Lock()
	defer d.mu.Unlock()
	port, ok := d.made[name]
	switch {
	case spec.Netns == "missing":
		return hwmap.LocalPort{}, nat.Port{}, errors.New("no such namespace: missing")
	case ok && port.of != s:
		return hwmap.LocalPort{}, nat.Port{}, fmt.Errorf("device %s is the port of %s", name, port.of)
	case !ok:
		d.last++
		port = device{nat.Port{Ifindex: d.last, Enter: nat.EnterPeer}, s}
		d.made[name] = port
	}
	return hwmap.LocalPort{PortSpec: spec, Device: name, MAC: "02:00:5e:10:00:01", MTU: 1500}, port.Port, nil
}

func (d *devices) Find(s addr.Stable, p hwmap.LocalPort) (nat.Port, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	port, ok := d.made[p.Device]
	if !ok || port.of != s {
		return nat.Port{}, errors.New("no such device: " + p.Device)
	}
	return port.Port, nil
}

func (d *devices) Detach(s addr.Stable, p hwmap.LocalPort) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.made[p.Device].of == s {
		delete(d.made, p.Device)
	}
	return nil
}

func (d *devices) SetHosts(hosts []hwmap.Host) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hosts = hosts
	return nil
}
