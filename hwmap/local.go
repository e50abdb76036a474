package hwmap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ip6d/addr"
	"ip6d/nat"
)

// restoreTruth reads this host's machines and brings the kernel's maps to what they say, adding only.
func (m *Map) restoreTruth(ctx context.Context) error {
	entries, _, err := m.Truth.List(ctx, localPrefix)
	if err != nil {
		return err
	}
	m.mu.Lock()
	for _, e := range entries {
		l, err := decode[Local](e)
		if err != nil {
			m.mu.Unlock()
			return fmt.Errorf("%w: %w", ErrCorrupt, err) // the truth is not guessed at
		}
		m.remember(l)
	}
	m.mu.Unlock()
	restore := m.restoreMachine
	if m.trusted() != nil {
		restore = m.restoreSuspect
	}
	var errs []error
	for _, e := range entries {
		l, _ := decode[Local](e)
		if err := restore(ctx, l); err != nil {
			errs = append(errs, fmt.Errorf("machine %q: %w", l.Name, err))
		}
	}
	return errors.Join(errs...)
}

// dropStrayMachines deletes entries of the kernel's maps that the truth does not have, unless it is suspect: the right file
// may have them.
func (m *Map) dropStrayMachines() error {
	if m.trusted() != nil {
		return nil
	}
	strays, err := m.strayMachines()
	for _, e := range strays {
		m.Logger.Info("stray machine entry deleted", "machine", e.ID, "state", e.State)
		err = errors.Join(err, m.Datapath.DeleteMachine(e.ID, e.Epoch))
	}
	return err
}

// strayMachines returns the entries of the kernel's maps that the truth does not have.
func (m *Map) strayMachines() ([]nat.Machine, error) {
	kernel, err := m.Datapath.Machines()
	return slices.DeleteFunc(kernel, func(e nat.Machine) bool {
		l, ok := m.lookup(e.ID.Machine)
		return ok && e.ID.Cell == m.Cell && l.entry() != 0
	}), err
}

// restoreMachine brings one machine's port and entry back.
func (m *Map) restoreMachine(ctx context.Context, l Local) error {
	if l.entry() == 0 {
		return nil
	}
	port, err := m.restorePort(l)
	if err != nil {
		return err
	}
	e, ok, err := m.Datapath.Machine(m.id(l.Machine))
	if err != nil {
		return err
	}
	if l.State == Switching && ok && e.State == nat.Delivering {
		// The crash came before the flip, or after a flip that was undone because the switchover could not win: the
		// kernel's entry tells, if it is still there. So nothing is in doubt.
		l.State = Leaving
		if err := m.record(ctx, l); err != nil {
			return err
		}
	}
	err = m.Datapath.PutMachine(m.natMachine(l, port))
	if errors.Is(err, nat.ErrStale) {
		// The crash came between the kernel's entry and the truth, when a machine arrived. Its record says the same.
		m.Logger.Info("entry is ahead of this host's database", "machine", l.Name, "error", err)
		m.unsettled.add(l.Machine)
		return nil
	}
	return err
}

// restorePort finds the port of l again. One that has gone, or cannot be used, is told and left to the orchestrator: the
// machine's address stays its own.
func (m *Map) restorePort(l Local) (nat.Port, error) {
	if l.Port == nil {
		return nat.Port{}, nil
	}
	s, err := m.stable(l)
	if err != nil {
		return nat.Port{}, err
	}
	port, err := m.Ports.Find(s, *l.Port)
	if err == nil {
		err = m.Datapath.AttachPort(port.Ifindex, s)
	}
	if err == nil && l.State == Incoming {
		err = m.Datapath.AwaitPacket(port.Ifindex, l.awaitsPacket())
	}
	if err != nil {
		m.Logger.Warn("port is lost; attach the machine again", "machine", l.Name, "device", l.Port.Device, "error", err)
		return nat.Port{}, nil
	}
	return port, nil
}

// entry returns the state of the machine's entry in the kernel's `machines` map; 0 where it has none.
func (l Local) entry() nat.State {
	if l.Silenced {
		return 0
	}
	switch l.State {
	case Here, Leaving:
		return nat.Delivering
	case Incoming:
		return nat.Incoming
	case Switching, Away:
		return nat.Away
	}
	return 0
}

// natMachine is the kernel's entry for l.
func (m *Map) natMachine(l Local, port nat.Port) nat.Machine {
	e := nat.Machine{ID: m.id(l.Machine), Network: l.Network, Epoch: l.Epoch, State: l.entry(), Port: port}
	if e.State != nat.Delivering {
		e.Host = l.Peer
	}
	return e
}

// putEntry brings the kernel's entry to what l says, keeping its port.
func (m *Map) putEntry(l Local) error {
	e, _, err := m.Datapath.Machine(m.id(l.Machine))
	if err != nil {
		return err
	}
	return m.Datapath.PutMachine(m.natMachine(l, e.Port))
}

// holdsName reports whether the machine's name is in use on this host because of l.
func (l Local) holdsName() bool {
	return l.State != Quarantined && l.State != Free
}

// remember brings l into memory: the machines, their names, and the allocator. The caller holds mu.
func (m *Map) remember(l Local) {
	m.forget(l.Machine)
	m.local[l.Machine] = l
	if l.Silenced {
		m.fence.silenced[l.Machine] = struct{}{}
	}
	if _, taken := m.byName[l.Name]; l.holdsName() && !(taken && l.State == Issued) { // one that is here goes before
		m.byName[l.Name] = l.Machine
	}
	m.account(l)
}

// forget removes a machine that this host has nothing more to do with. The caller holds mu.
func (m *Map) forget(number addr.Machine) {
	if old, ok := m.local[number]; ok && m.byName[old.Name] == number {
		delete(m.byName, old.Name)
	}
	delete(m.local, number)
	delete(m.fence.silenced, number)
}

// record makes l the truth, durably and with what happened, then remembers it. The error of a failed write leaves memory as
// it was.
func (m *Map) record(ctx context.Context, l Local) error {
	before, _ := m.lookup(l.Machine)
	var e *Event
	e, l.Requests = m.event(ctx, l.kind(before), before, l)
	return m.writeTruth(ctx, []Write{{Key: localKey(l.Machine), Value: encode(l)}}, func() { m.remember(l) }, e)
}

// erase removes the machine from the truth.
func (m *Map) erase(ctx context.Context, number addr.Machine) error {
	before, _ := m.lookup(number)
	return m.eraseAs(ctx, number, Local{}.kind(before))
}

// eraseAs is erase for what happened where the machine's state alone does not tell it.
func (m *Map) eraseAs(ctx context.Context, number addr.Machine, kind EventKind) error {
	before, _ := m.lookup(number)
	e, _ := m.event(ctx, kind, before, Local{Machine: number})
	return m.writeTruth(ctx, []Write{{Key: localKey(number)}}, func() { m.forget(number) }, e)
}

// writeTruth makes some writes, and what happened, one step, then remembers them. A nil event is none.
func (m *Map) writeTruth(ctx context.Context, writes []Write, remember func(), events ...*Event) error {
	events = slices.DeleteFunc(events, func(e *Event) bool { return e == nil })
	m.mu.Lock()
	writes = append(writes, m.history.begin(events)...)
	m.mu.Unlock()
	// A caller who has gone must not leave the file and memory apart.
	// gofail: var beforeTruth struct{}
	_, err := m.Truth.Commit(context.WithoutCancel(ctx), Txn{Then: writes})
	// gofail: var afterTruth struct{}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.history.end(events, failed)
		return fmt.Errorf("write this host's database: %w", err)
	}
	m.history.end(events, written)
	if m.history.wantsPruning() {
		wish(m.pruneWanted)
	}
	remember()
	return nil
}

// lookup returns the local machine of that number.
func (m *Map) lookup(number addr.Machine) (Local, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.local[number]
	return l, ok
}

// isHome reports whether this host is the home of the machine's block. Errors: ErrUnavailable, where this host does not
// know the home: it could take its own machine for another's, and forget an id that is in use.
func (m *Map) isHome(number addr.Machine) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.fleet.blocks[number.Block()]
	if !ok {
		return false, fmt.Errorf("home of block %d: %w, and the cache does not have it", number.Block(), ErrUnavailable)
	}
	return b.Home == m.Self.ID, nil
}

// yield makes l a machine that this host has nothing more to do with, but that it is its home, if it is. The last
// owner that is known of had that epoch.
func (m *Map) yield(ctx context.Context, l Local, epoch uint64) error {
	home, err := m.isHome(l.Machine)
	if err != nil {
		return err
	}
	if !home {
		return m.erase(ctx, l.Machine)
	}
	err = m.record(ctx, Local{Machine: l.Machine, Name: l.Name, Network: l.Network, Epoch: epoch, State: Issued})
	m.unsettled.add(l.Machine) // it may have been destroyed meanwhile
	return err
}

func (m *Map) localInState(state LocalState) []addr.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	var numbers []addr.Machine
	for number, l := range m.local {
		if l.State == state {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// lockNamed locks the machine of that name on this host, to change it, and returns it. Errors: ErrUnknownMachine, ErrSuspect,
// ErrFenced, ErrState where it was silenced.
func (m *Map) lockNamed(ctx context.Context, name string) (Local, func(), error) {
	for {
		if err := m.mayChange(); err != nil {
			return Local{}, nil, err
		}
		m.mu.Lock()
		number, ok := m.byName[name]
		m.mu.Unlock()
		if !ok {
			return Local{}, nil, m.unknown(name)
		}
		unlock, err := m.operations.lock(ctx, number)
		if err != nil {
			return Local{}, nil, err
		}
		switch l, ok := m.lookup(number); {
		case ok && l.Name == name && l.State == Issued:
			unlock()
			return Local{}, nil, m.unknown(name)
		case ok && l.Name == name && l.Silenced:
			unlock()
			return Local{}, nil, m.silenced(l)
		case ok && l.Name == name:
			return l, unlock, nil
		}
		unlock() // destroyed, or gone, while we waited
	}
}

// elsewhere returns the record of the machine of that name that the fleet's map has on another host. The caller holds mu.
func (m *Map) elsewhere(name string) (Machine, bool) {
	for _, number := range m.fleet.named(name) {
		if r, _ := m.fleet.machines.get(number); !r.Destroyed && r.Host != m.Self.ID {
			return r, true
		}
	}
	return Machine{}, false
}

// knownElsewhere is elsewhere for a caller who does not hold mu.
func (m *Map) knownElsewhere(name string) (Machine, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.elsewhere(name)
}

// unknown is the error for a name that this host has no machine of; it says where the machine is, where that is known.
func (m *Map) unknown(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, ok := m.elsewhere(name); ok {
		return fmt.Errorf("%w %q on this host: it is on host %d; ask there", ErrUnknownMachine, name, r.Host)
	}
	return fmt.Errorf("%w %q: `ip6d machine list` shows those of this host", ErrUnknownMachine, name)
}
