package hwmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"ip6d/addr"
	"ip6d/nat"
)

// MachineView is a machine as this host sees it.
type MachineView struct {
	Local  // State is empty where the machine is on another host and this one only knows of it
	ID     addr.ID
	Stable addr.Stable
	Host   addr.Host // where it is, as far as this host knows
}

// maxName is the length limit of a machine's name, in bytes: a DNS name fits (RFC 1035 section 2.3.4).
const maxName = 255

func checkName(name string) error {
	bad := func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("%w: machine name %q: must be 1 to %d bytes of printable characters without space", ErrUsage, name, maxName)
	}
	return nil
}

// Create issues a stable address for a machine; the answer means that it is durable. The same name in the same network
// again returns the same machine. Errors: ErrUsage, ErrNameTaken, addr.ErrExhausted, and those of the truth's store.
func (m *Map) Create(ctx context.Context, name string, network addr.Network) (MachineView, error) {
	if err := checkName(name); err != nil {
		return MachineView{}, err
	}
	if network == 0 {
		return MachineView{}, fmt.Errorf("%w: network 0 is the infrastructure network; a machine's is 1 to 4294967295", ErrUsage)
	}
	l, isNew, err := m.create(ctx, name, network)
	if err != nil {
		return MachineView{}, err
	}
	if isNew {
		if err := m.Datapath.PutMachine(m.natMachine(l, nat.Delivering, nat.Port{})); err != nil {
			// Not half made. Nobody has seen the address, so the id is free again at once; its epoch is used up.
			return MachineView{}, errors.Join(fmt.Errorf("create %q: %w", name, err), m.free(ctx, l))
		}
	}
	wish(m.leaseWanted)
	return m.view(l)
}

// create holds mu across the write, so that a name or an id is never given twice.
func (m *Map) create(ctx context.Context, name string, network addr.Network) (l Local, isNew bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if number, ok := m.byName[name]; ok {
		l := m.local[number]
		if l.Network != network {
			return l, false, fmt.Errorf("%w: %q is a machine of network %d; choose another name for one in network %d", ErrNameTaken, name, l.Network, network)
		}
		return l, false, nil
	}
	number, err := m.allocator.Allocate()
	if err != nil {
		return l, false, fmt.Errorf("%w: this host's %d blocks are full and no further one could be leased; `ip6d status` tells why", err, len(m.allocator.Blocks()))
	}
	l = Local{
		Machine: number, Name: name, Network: network, State: Here,
		Epoch: max(m.local[number].Epoch, m.fleet.blocks[number.Block()].EpochFloor) + 1,
	}
	// The id is in use from here on, also when the write fails with an unknown outcome: losing an id is cheaper than
	// issuing one twice, and a restart reads the truth.
	_, err = m.Truth.Commit(context.WithoutCancel(ctx), Txn{Then: []Write{{Key: localKey(number), Value: encode(l)}}})
	if err != nil {
		if !errors.Is(err, ErrInDoubt) {
			m.allocator.Cancel(number)
		}
		return l, false, fmt.Errorf("write this host's database: %w", err)
	}
	m.remember(l)
	return l, true, nil
}

// Attach gives the machine its port on this host: during a migration, on the target, the port that it will have. The
// same spec again returns the same port. Errors: ErrUnknownMachine, ErrAttached, ErrState, ErrUsage, those of Ports.
func (m *Map) Attach(ctx context.Context, name string, spec PortSpec) (MachineView, error) {
	if (spec.Netns == "") == (spec.Existing == "") {
		return MachineView{}, fmt.Errorf("%w: a port needs either a namespace to make it for or an existing device", ErrUsage)
	}
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return MachineView{}, err
	}
	defer unlock()
	if l.State != Here && l.State != Incoming {
		return MachineView{}, fmt.Errorf("%w: machine %q is %s; a port is attached where it is, or is to be", ErrState, name, l.State)
	}
	if l.Port != nil && l.Port.PortSpec != spec {
		return MachineView{}, fmt.Errorf("%w: machine %q has the port %s; detach it first", ErrAttached, name, l.Port.Device)
	}
	s, err := m.stable(l)
	if err != nil {
		return MachineView{}, err
	}
	made, port, err := m.Ports.Attach(s, spec)
	if err != nil {
		return MachineView{}, fmt.Errorf("attach %q: %w", name, err)
	}
	was := l.Port
	l.Port = &made
	err = m.Datapath.AttachPort(port.Ifindex, s)
	if err == nil && was == nil {
		err = m.record(ctx, l)
	}
	if err == nil {
		err = m.Datapath.PutMachine(m.natMachine(l, l.entry(), port))
	}
	if err != nil {
		if was == nil {
			err = errors.Join(err, m.detach(ctx, l))
		}
		return MachineView{}, fmt.Errorf("attach %q: %w", name, err)
	}
	return m.view(l)
}

// Detach takes the machine's port away; its address stays. Without a port it does nothing.
// Errors: ErrUnknownMachine, and those of Ports.
func (m *Map) Detach(ctx context.Context, name string) (MachineView, error) {
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return MachineView{}, err
	}
	defer unlock()
	if l.Port != nil {
		if err := m.detach(ctx, l); err != nil {
			return MachineView{}, fmt.Errorf("detach %q: %w", name, err)
		}
		l.Port = nil
	}
	return m.view(l)
}

// detach stops delivery, then removes the port, then says so in the truth: after a crash in between it can be repeated.
func (m *Map) detach(ctx context.Context, l Local) error {
	if err := m.Datapath.PutMachine(m.natMachine(l, l.entry(), nat.Port{})); err != nil {
		return err
	}
	if err := m.removePort(*l.Port); err != nil {
		return err
	}
	l.Port = nil
	return m.record(ctx, l)
}

func (m *Map) removePort(p LocalPort) error {
	if found, err := m.Ports.Find(p); err == nil {
		if err := m.Datapath.DetachPort(found.Ifindex); err != nil {
			return err
		}
	}
	return m.Ports.Detach(p)
}

// Destroy ends the machine. Its id is quarantined by its home, then free. Destroying what does not exist succeeds.
// Errors: ErrState while a migration is under way; ErrUnavailable and ErrInDoubt away from home.
func (m *Map) Destroy(ctx context.Context, name string) error {
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if l.State != Here {
		return fmt.Errorf("%w: machine %q is %s; finish or abort its migration first", ErrState, name, l.State)
	}
	home := m.isHome(l.Machine)
	if !home {
		// The home learns it from the record; until it can be written, the machine is not destroyed.
		if err := m.publishDestroyed(ctx, l); err != nil {
			return fmt.Errorf("destroy %q: %w", name, err)
		}
	}
	if l.Port != nil {
		if err := m.removePort(*l.Port); err != nil {
			return fmt.Errorf("destroy %q: %w", name, err)
		}
	}
	if err := m.Datapath.DeleteMachine(m.id(l.Machine), l.Epoch); err != nil {
		return fmt.Errorf("destroy %q: %w", name, err)
	}
	if !home {
		return m.erase(ctx, l.Machine)
	}
	return m.quarantine(ctx, l, l.Epoch)
}

// quarantine makes l a destroyed machine of this home: nothing is issued with its id until the quarantine has passed,
// and then above epoch.
func (m *Map) quarantine(ctx context.Context, l Local, epoch uint64) error {
	err := m.record(ctx, Local{Machine: l.Machine, Epoch: epoch, State: Quarantined, Until: m.Now().Add(m.Quarantine)})
	m.unsettled.add(l.Machine) // its key, where it has one, is to say so
	return err
}

// free makes the id of l free to be issued again, above its epoch.
func (m *Map) free(ctx context.Context, l Local) error {
	err := m.record(ctx, Local{Machine: l.Machine, Epoch: l.Epoch, State: Free})
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.allocator.Cancel(l.Machine)
	}
	return err
}

// Machines returns the machines of this host, and those that it knows to be elsewhere, ordered by name.
func (m *Map) Machines() ([]MachineView, error) {
	m.mu.Lock()
	var all []MachineView
	for _, number := range slices.Sorted(maps.Keys(m.local)) {
		if l := m.local[number]; l.holdsName() && l.State != Issued {
			all = append(all, MachineView{Local: l})
		}
	}
	for number, r := range m.fleet.machines {
		if l, ok := m.local[number]; !r.Destroyed && (!ok || l.State == Issued) {
			all = append(all, MachineView{Local: Local{Machine: number, Name: r.Name, Network: r.Network, Epoch: r.Epoch}, Host: r.Host})
		}
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b MachineView) int {
		return strings.Compare(a.Name, b.Name)
	})
	for i, v := range all {
		complete, err := m.complete(v)
		if err != nil {
			return nil, err
		}
		all[i] = complete
	}
	return all, nil
}

// Machine returns the machine of that name. Errors: ErrUnknownMachine.
func (m *Map) Machine(name string) (MachineView, error) {
	all, err := m.Machines()
	if err != nil {
		return MachineView{}, err
	}
	for _, v := range all {
		if v.Name == name {
			return v, nil
		}
	}
	return MachineView{}, m.unknown(name)
}

func (m *Map) view(l Local) (MachineView, error) { return m.complete(MachineView{Local: l}) }

func (m *Map) complete(v MachineView) (MachineView, error) {
	s, err := m.stable(v.Local)
	if err != nil {
		return v, err
	}
	v.ID, v.Stable = s.ID(), s
	switch v.State {
	case Here, Leaving, Switching:
		v.Host = m.Self.ID
	case Away, Incoming:
		v.Host = v.Peer
	case Issued:
		m.mu.Lock()
		defer m.mu.Unlock()
		v.Host, _ = m.fleet.where(v.Machine)
		v.State = ""
	}
	return v, nil
}
