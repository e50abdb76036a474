package hwmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
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
// again returns the same machine. Errors: ErrUsage, ErrNameTaken, ErrSuspect, addr.ErrExhausted, nat.ErrFull, ErrState on a
// host that takes no machines, and those of the truth's store.
func (m *Map) Create(ctx context.Context, name string, network addr.Network) (MachineView, error) {
	return m.viewOnce(ctx, CallCreate, name, network, func(ctx context.Context) (MachineView, error) { return m.create(ctx, name, network) })
}

func (m *Map) create(ctx context.Context, name string, network addr.Network) (MachineView, error) {
	if err := checkName(name); err != nil {
		return MachineView{}, err
	}
	if network == 0 {
		return MachineView{}, fmt.Errorf("%w: network 0 is the infrastructure network; a machine's is 1 to 4294967295", ErrUsage)
	}
	unlock, err := m.naming.lock(ctx, name)
	if err != nil {
		return MachineView{}, err
	}
	defer unlock()
	m.mu.Lock()
	number, exists := m.byName[name]
	l := m.local[number]
	m.mu.Unlock()
	if away, known := m.knownElsewhere(name); !exists && known {
		return MachineView{}, fmt.Errorf("%w: %q is a machine of network %d on host %d; ask there, or choose another name", ErrNameTaken, name, away.Network, away.Host)
	}
	if exists && l.Network != network {
		return MachineView{}, fmt.Errorf("%w: %q is a machine of network %d; choose another name for one in network %d", ErrNameTaken, name, l.Network, network)
	}
	if exists && l.State == Destroying {
		return MachineView{}, fmt.Errorf("%w: machine %q of that name is being destroyed; repeat", ErrState, name)
	}
	if !exists {
		if l, err = m.issue(ctx, name, network); err != nil {
			return MachineView{}, fmt.Errorf("create %q: %w", name, err)
		}
	}
	return m.view(l)
}

// issue makes a new machine. The caller holds the name's lock.
func (m *Map) issue(ctx context.Context, name string, network addr.Network) (Local, error) {
	l, err := m.allocate()
	wish(m.leaseWanted)
	if err != nil {
		return l, err
	}
	unlock, err := m.operations.lock(ctx, l.Machine)
	if err != nil {
		m.cancel(l.Machine)
		return l, err
	}
	defer unlock()
	if err := m.mayIssue(l.Machine); err != nil {
		m.cancel(l.Machine)
		return l, err
	}
	l.Name, l.Network, l.State = name, network, Here
	// The entry is first: it can be taken back, and nobody knows the address yet.
	if err := m.Datapath.PutMachine(m.natMachine(l, nat.Port{})); err != nil {
		m.cancel(l.Machine)
		return l, err
	}
	if err := m.record(ctx, l); err != nil {
		err = errors.Join(err, m.Datapath.DeleteMachine(m.id(l.Machine), l.Epoch))
		if !errors.Is(err, ErrInDoubt) {
			m.cancel(l.Machine) // else the next start reads what is true, and losing an id is cheaper than issuing it twice
		}
		return l, err
	}
	return l, nil
}

// allocate takes a free id, and the epoch of its next user.
func (m *Map) allocate() (Local, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.believes(), m.takesMachines()); err != nil {
		return Local{}, err
	}
	for {
		number, err := m.allocator.Allocate()
		if err != nil {
			return Local{}, fmt.Errorf("%w: this host's %d blocks are full, and no further one could be leased; `ip6d status` tells why", err, len(m.allocator.Blocks()))
		}
		l, known := m.local[number]
		last := max(l.Epoch, m.fleet.blocks[number.Block()].EpochFloor)
		r, recorded := m.fleet.machines.get(number)
		if recorded && !known {
			continue // it came late, and is about to be taken in
		}
		if recorded && !r.Destroyed && r.Epoch > last {
			m.Logger.Error("id not issued: the store has a machine with it; is this host's database an old copy?", "machine", number, "name", r.Name, "host", r.Host)
			continue // it stays in use
		}
		return Local{Machine: number, Epoch: last + 1}, nil
	}
}

// mayIssue looks again whether the id may be issued, when the machine's lock is held: its block may have been handed over.
func (m *Map) mayIssue(number addr.Machine) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.takesMachines(); err != nil {
		return err
	}
	if !m.allocator.Leased(number.Block()) {
		return fmt.Errorf("%w: block %d changed hands meanwhile; repeat", ErrState, number.Block())
	}
	return nil
}

func (m *Map) cancel(number addr.Machine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.allocator.Cancel(number)
}

// Destroy ends the machine. Its id is quarantined by its home, then free. Errors: ErrUnknownMachine when this host has no
// machine of that name, as after a call that is repeated; ErrState while a migration is under way. Away from home also
// ErrUnavailable, after which it is as before, and ErrInDoubt, after which it is destroyed without a further call, too.
func (m *Map) Destroy(ctx context.Context, name string) error {
	return m.doneOnce(ctx, CallDestroy, name, func(ctx context.Context) error { return m.destroy(ctx, name) })
}

func (m *Map) destroy(ctx context.Context, name string) error {
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	if l.State != Here && l.State != Destroying {
		return fmt.Errorf("%w: machine %q is %s; finish or abort its migration first", ErrState, name, l.State)
	}
	home, err := m.isHome(l.Machine)
	switch {
	case err != nil:
	case home:
		err = m.end(ctx, l)
	default:
		err = m.destroyAway(ctx, l)
	}
	if err != nil {
		return fmt.Errorf("destroy %q: %w", name, err)
	}
	return nil
}

// destroyAway destroys a machine that is away from home, which learns it from the record. The truth says so first: the home
// may have freed the id, and deleted the record, before this host hears how its transaction ended, and must not find the
// machine here again after a restart.
func (m *Map) destroyAway(ctx context.Context, l Local) error {
	begun := l.State == Here
	if begun {
		l.State = Destroying
		if err := m.record(ctx, l); err != nil {
			return err
		}
	}
	m.unsettled.add(l.Machine) // should this not come to its end
	err := m.publishDestroyed(ctx, l)
	if err == nil {
		return m.end(ctx, l)
	}
	if begun && !errors.Is(err, ErrInDoubt) {
		l.State = Here // nothing was written
		return errors.Join(err, m.record(ctx, l))
	}
	return errors.Join(err, m.silence(l))
}

// silence takes the machine's port and its entry in the kernel away.
func (m *Map) silence(l Local) error {
	if err := m.removePort(l); err != nil {
		return err
	}
	return m.Datapath.DeleteMachine(m.id(l.Machine), l.Epoch)
}

// end removes all that this host has of a machine that is destroyed, which its record says where it is away from home.
func (m *Map) end(ctx context.Context, l Local) error {
	home, err := m.isHome(l.Machine)
	if err != nil {
		return err
	}
	if err := m.silence(l); err != nil {
		return err
	}
	if !home {
		return m.eraseAs(ctx, l.Machine, EventDestroyed)
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

// Machines returns the machines of this host, and those that it knows to be elsewhere, ordered by name.
func (m *Map) Machines() ([]MachineView, error) {
	m.mu.Lock()
	var all []Local
	for _, l := range m.local {
		if l.holdsName() && l.State != Issued {
			all = append(all, l)
		}
	}
	for number, r := range m.fleet.machines.all() {
		if l, ok := m.local[number]; !r.Destroyed && (!ok || l.State == Issued) {
			all = append(all, remote(r))
		}
	}
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b Local) int { return strings.Compare(a.Name, b.Name) })
	views := make([]MachineView, len(all))
	for i, l := range all {
		var err error
		if views[i], err = m.view(l); err != nil {
			return nil, err
		}
	}
	return views, nil
}

// Machine returns the machine of that name. Errors: ErrUnknownMachine.
func (m *Map) Machine(name string) (MachineView, error) {
	m.mu.Lock()
	l, ok := m.local[m.byName[name]]
	r, known := m.elsewhere(name)
	m.mu.Unlock()
	switch {
	case ok && l.Name == name && l.State != Issued:
		return m.view(l)
	case known:
		return m.view(remote(r))
	}
	return MachineView{}, m.unknown(name)
}

// NameOf returns the name of a machine that this host knows by its id.
func (m *Map) NameOf(id addr.ID) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if id.Cell != m.Cell {
		return "", false
	}
	if l, ok := m.local[id.Machine]; ok && l.holdsName() {
		return l.Name, true
	}
	r, ok := m.fleet.machines.get(id.Machine)
	return r.Name, ok && !r.Destroyed
}

// remote is what this host says of a machine that is on another.
func remote(r Machine) Local {
	return Local{Machine: r.Machine, Name: r.Name, Network: r.Network, Epoch: r.Epoch}
}

func (m *Map) view(l Local) (MachineView, error) {
	s, err := m.stable(l)
	if err != nil {
		return MachineView{}, err
	}
	v := MachineView{Local: l, ID: s.ID(), Stable: s}
	m.mu.Lock()
	defer m.mu.Unlock()
	v.Host, _ = m.hostOf(l)
	switch l.State {
	case Issued, Quarantined, Free:
		v.State = ""
	}
	return v, nil
}
