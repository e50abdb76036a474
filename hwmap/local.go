package hwmap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ip6d/addr"
	"ip6d/nat"
)

// restoreTruth reads this host's machines and brings the kernel's maps to what they say.
func (m *Map) restoreTruth(ctx context.Context) error {
	entries, _, err := m.Truth.List(ctx, localPrefix)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range entries {
		l, err := decode[Local](e)
		if err != nil {
			return err // the truth is not guessed at
		}
		m.remember(l)
	}
	stray, err := m.Datapath.Machines()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range stray {
		if l, ok := m.local[e.ID.Machine]; !ok || e.ID.Cell != m.Cell || l.entry() == 0 {
			m.Logger.Info("stray machine entry deleted", "machine", e.ID, "state", e.State)
			errs = append(errs, m.Datapath.DeleteMachine(e.ID, e.Epoch))
		}
	}
	for _, l := range m.local {
		errs = append(errs, m.restoreMachine(l))
	}
	return errors.Join(errs...)
}

// restoreMachine brings one machine's port and entry back. A port that has gone is told and left to the orchestrator:
// the machine's address stays its own.
func (m *Map) restoreMachine(l Local) error {
	if l.entry() == 0 {
		return nil
	}
	var port nat.Port
	if l.Port != nil {
		found, err := m.Ports.Find(*l.Port)
		if err != nil {
			m.Logger.Warn("port is gone; attach the machine again", "machine", l.Name, "device", l.Port.Device, "error", err)
		} else {
			s, err := m.stable(l)
			if err != nil {
				return err
			}
			if err := m.Datapath.AttachPort(found.Ifindex, s); err != nil {
				return fmt.Errorf("attach port %s: %w", l.Port.Device, err)
			}
			port = found
		}
	}
	if l.State == Switching {
		// The crash may have come before the flip or after it. The kernel's entry tells, if it is still there.
		e, ok, err := m.Datapath.Machine(m.id(l.Machine))
		if err != nil {
			return err
		}
		if ok && e.State == nat.Delivering {
			return m.Datapath.PutMachine(m.natMachine(l, nat.Delivering, port))
		}
	}
	return m.Datapath.PutMachine(m.natMachine(l, l.entry(), port))
}

// entry returns the state of the machine's entry in the kernel's `machines` map; 0 where it has none.
func (l Local) entry() nat.State {
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

// natMachine is the kernel's entry for l, in the given state.
func (m *Map) natMachine(l Local, s nat.State, port nat.Port) nat.Machine {
	e := nat.Machine{ID: m.id(l.Machine), Network: l.Network, Epoch: l.Epoch, State: s, Port: port}
	if s != nat.Delivering {
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
	return m.Datapath.PutMachine(m.natMachine(l, l.entry(), e.Port))
}

// holdsName reports whether the machine's name is in use on this host because of l.
func (l Local) holdsName() bool {
	return l.State != Quarantined && l.State != Free
}

// remember brings l into memory: the machines, their names, and the allocator. The caller holds mu.
func (m *Map) remember(l Local) {
	if old, ok := m.local[l.Machine]; ok && m.byName[old.Name] == l.Machine {
		delete(m.byName, old.Name)
	}
	m.local[l.Machine] = l
	if l.holdsName() {
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
}

// record makes l the truth, durably, then remembers it. The error of a failed write leaves memory as it was.
func (m *Map) record(ctx context.Context, l Local) error {
	return m.write(ctx, Write{Key: localKey(l.Machine), Value: encode(l)}, func() { m.remember(l) })
}

// erase removes the machine from the truth.
func (m *Map) erase(ctx context.Context, number addr.Machine) error {
	return m.write(ctx, Write{Key: localKey(number)}, func() { m.forget(number) })
}

func (m *Map) write(ctx context.Context, w Write, remember func()) error {
	// A caller who has gone must not leave the file and memory apart.
	if _, err := m.Truth.Commit(context.WithoutCancel(ctx), Txn{Then: []Write{w}}); err != nil {
		return fmt.Errorf("write this host's database: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
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

// isHome reports whether this host is the home of the machine's block.
func (m *Map) isHome(number addr.Machine) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fleet.blocks[number.Block()].Home == m.Self.ID
}

func (m *Map) localInStates(states ...LocalState) []addr.Machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	var numbers []addr.Machine
	for number, l := range m.local {
		if slices.Contains(states, l.State) {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// lockNamed locks the machine of that name on this host and returns it. Errors: ErrUnknownMachine.
func (m *Map) lockNamed(ctx context.Context, name string) (Local, func(), error) {
	for {
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
		l, ok := m.lookup(number)
		if ok && l.Name == name && l.State == Issued {
			unlock()
			return Local{}, nil, m.unknown(name)
		}
		if ok && l.Name == name && l.holdsName() {
			return l, unlock, nil
		}
		unlock() // destroyed, or gone, while we waited
	}
}

// unknown is the error for a name that this host has no machine of; it says where the machine is, where that is known.
func (m *Map) unknown(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.fleet.machines {
		if r.Name == name && !r.Destroyed && r.Host != m.Self.ID {
			return fmt.Errorf("%w %q on this host: it is on host %d; ask there", ErrUnknownMachine, name, r.Host)
		}
	}
	return fmt.Errorf("%w %q: `ip6d machine list` shows those of this host", ErrUnknownMachine, name)
}
