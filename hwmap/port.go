package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/nat"
)

// Attach gives the machine its port on this host: during a migration, on the target, the port that it will have. The
// same spec again returns the same port. Errors: ErrUnknownMachine, ErrAttached, ErrState, ErrUsage, those of Ports.
func (m *Map) Attach(ctx context.Context, name string, spec PortSpec) (MachineView, error) {
	return m.viewOnce(ctx, CallAttach, name, spec, func(ctx context.Context) (MachineView, error) { return m.attachNamed(ctx, name, spec) })
}

func (m *Map) attachNamed(ctx context.Context, name string, spec PortSpec) (MachineView, error) {
	if (spec.Netns == "") == (spec.Existing == "") {
		return MachineView{}, fmt.Errorf("%w: a port needs either a namespace to make it for or an existing device", ErrUsage)
	}
	l, unlock, err := m.lockNamed(ctx, name)
	if err != nil {
		return MachineView{}, err
	}
	defer unlock()
	switch l.State {
	case Here, Leaving, Incoming:
	default:
		return MachineView{}, fmt.Errorf("%w: machine %q is %s; a port is attached where it is, or is to be", ErrState, name, l.State)
	}
	if l.Port != nil && l.Port.PortSpec != spec {
		return MachineView{}, fmt.Errorf("%w: machine %q has the port %s; detach it first", ErrAttached, name, l.Port.Device)
	}
	isNew := l.Port == nil
	l, err = m.attach(ctx, l, spec)
	if err != nil {
		if isNew && l.Port != nil {
			err = errors.Join(err, m.detach(ctx, l))
		}
		return MachineView{}, fmt.Errorf("attach %q: %w", name, err)
	}
	return m.view(l)
}

// attach records what is to be made before it makes it: a crash in between leaves no device that nobody knows of.
func (m *Map) attach(ctx context.Context, l Local, spec PortSpec) (Local, error) {
	s, err := m.stable(l)
	if err != nil {
		return l, err
	}
	if l.Port == nil {
		wanted := l
		wanted.Port = &LocalPort{PortSpec: spec, Device: m.Ports.Device(s, spec)}
		if err := m.record(ctx, wanted); err != nil {
			return l, err
		}
		l = wanted
	}
	// gofail: var beforePort struct{}
	made, port, err := m.Ports.Attach(s, spec)
	if err != nil {
		return l, err
	}
	// gofail: var afterPort struct{}
	if *l.Port != made {
		l.Port = &made
		if err := m.record(ctx, l); err != nil {
			return l, err
		}
	}
	if err := m.Datapath.AttachPort(port.Ifindex, s); err != nil {
		return l, err
	}
	// gofail: var afterProgram struct{}
	before, _, err := m.Datapath.Machine(m.id(l.Machine))
	if err != nil {
		return l, err
	}
	if err := m.Datapath.PutMachine(m.natMachine(l, port)); err != nil {
		return l, err
	}
	if l.awaitsPacket() { // last: only now the source would find this host ready
		if err := m.awaitPacket(l); err != nil {
			return l, err
		}
	}
	if before.Port.Ifindex != 0 && before.Port.Ifindex != port.Ifindex {
		// The device was made anew, because it had gone: its program has not.
		return l, m.Datapath.DetachPort(before.Port.Ifindex)
	}
	return l, nil
}

// Detach takes the machine's port away; its address stays. Without a port it does nothing.
// Errors: ErrUnknownMachine, and those of Ports.
func (m *Map) Detach(ctx context.Context, name string) (MachineView, error) {
	return m.viewOnce(ctx, CallDetach, name, nil, func(ctx context.Context) (MachineView, error) { return m.detachNamed(ctx, name) })
}

func (m *Map) detachNamed(ctx context.Context, name string) (MachineView, error) {
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

// detach removes the port, then says so in the truth: after a crash in between it can be repeated.
func (m *Map) detach(ctx context.Context, l Local) error {
	if err := m.removePort(l); err != nil {
		return err
	}
	if err := m.Datapath.PutMachine(m.natMachine(l, nat.Port{})); err != nil {
		return err
	}
	l.Port = nil
	return m.record(ctx, l)
}

// removePort removes the port of l, if it has one. The device goes first: without its program it would send into the
// host's stack unchecked. Packets for the machine are dropped from then on.
func (m *Map) removePort(l Local) error {
	if l.Port == nil {
		return nil
	}
	s, err := m.stable(l)
	if err != nil {
		return err
	}
	// The entry knows the device's number also where an earlier call has removed the device.
	e, _, err := m.Datapath.Machine(m.id(l.Machine))
	if err != nil {
		return err
	}
	if e.Port.Ifindex == 0 {
		e.Port, _ = m.Ports.Find(s, *l.Port)
	}
	if err := m.Ports.Detach(s, *l.Port); err != nil {
		return err
	}
	// gofail: var afterPortRemoved struct{}
	if e.Port.Ifindex == 0 {
		return nil
	}
	return m.Datapath.DetachPort(e.Port.Ifindex)
}
