package nat

import (
	"fmt"
	"net"

	"ip6d/addr"
	"ip6d/bpf"
)

// PutMachine writes an entry of `machines`, in one step: a packet finds the old entry or the new one.
// Errors: ErrInvalid, ErrStale, ErrFull.
func (d *Datapath) PutMachine(m Machine) error {
	if err := d.checkMachine(m); err != nil {
		return fmt.Errorf("machine %s: %w", m.ID, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	old, ok, err := lookup[bpf.DatapathMachine](d.objects.Machines, machineKey(m.ID))
	if err != nil {
		return fmt.Errorf("machine %s: read: %w", m.ID, err)
	}
	if ok && old.Epoch > m.Epoch {
		return fmt.Errorf("machine %s: %w: %d, this is %d", m.ID, ErrStale, old.Epoch, m.Epoch)
	}
	v := machineValue(m)
	if m.Host != 0 {
		if v.Slot, err = d.slot(m.Host); err != nil {
			return fmt.Errorf("machine %s: %w", m.ID, err)
		}
	}
	if ok {
		return d.writeMachine(m.ID, v)
	}
	return d.counted(m.ID, counts{here: 1}, func() error { return d.writeMachine(m.ID, v) })
}

// Machine reads an entry of `machines`, and whether there is one.
func (d *Datapath) Machine(id addr.ID) (Machine, bool, error) {
	v, ok, err := lookup[bpf.DatapathMachine](d.objects.Machines, machineKey(id))
	if err != nil || !ok {
		return Machine{}, false, err
	}
	return machineFrom(machineKey(id), v), true, nil
}

// Machines lists `machines`, in no order.
func (d *Datapath) Machines() ([]Machine, error) {
	d.mu.Lock() // an iteration would begin again where an entry is deleted under it
	defer d.mu.Unlock()
	var all []Machine
	err := list(d.objects.Machines, bpf.DatapathMapMachines, func(k bpf.DatapathMachineId, v bpf.DatapathMachine) {
		all = append(all, machineFrom(k, v))
	})
	return all, err
}

// DeleteMachine deletes the entry of that epoch or a lower one. That there is none is no error.
// Errors: ErrStale.
func (d *Datapath) DeleteMachine(id addr.ID, epoch uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	old, ok, err := lookup[bpf.DatapathMachine](d.objects.Machines, machineKey(id))
	if err != nil || !ok {
		return err
	}
	if old.Epoch > epoch {
		return fmt.Errorf("machine %s: %w: %d, the deleted one is %d", id, ErrStale, old.Epoch, epoch)
	}
	if err := remove(d.objects.Machines, bpf.DatapathMapMachines, machineKey(id)); err != nil {
		return err
	}
	return d.count(id, counts{here: -1})
}

// Flip makes an entry that delivers lead away, to a host, in one map write: from then on no packet enters the
// port, and none is lost. Its undo is PutMachine. Flipping it to the same host again changes nothing.
// Errors: ErrInvalid, ErrNotFound (no entry, or one that does not deliver), ErrStale.
func (d *Datapath) Flip(id addr.ID, to addr.Host, epoch uint64) error {
	if err := d.checkOther(to); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok, err := lookup[bpf.DatapathMachine](d.objects.Machines, machineKey(id))
	if err != nil {
		return fmt.Errorf("machine %s: read: %w", id, err)
	}
	away := ok && State(v.State) == Away && addr.Host(v.Host) == to
	switch {
	case !ok || State(v.State) != Delivering && !away:
		return fmt.Errorf("machine %s: %w that delivers", id, ErrNotFound)
	case v.Epoch > epoch:
		return fmt.Errorf("machine %s: %w: %d, this is %d", id, ErrStale, v.Epoch, epoch)
	}
	if v.Slot, err = d.slot(to); err != nil {
		return fmt.Errorf("machine %s: %w", id, err)
	}
	v.State, v.Host, v.Epoch = uint8(Away), uint32(to), epoch
	return d.writeMachine(id, v)
}

func (d *Datapath) writeMachine(id addr.ID, v bpf.DatapathMachine) error {
	return write(d.objects.Machines, bpf.DatapathMapMachines, machineKey(id), v)
}

func (d *Datapath) checkMachine(m Machine) error {
	if _, err := d.plan.Stable(m.Network, m.ID.Cell, m.ID.Machine); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	switch m.State {
	case Delivering:
		if m.Host != 0 {
			return fmt.Errorf("%w: host %d: a machine that is here has none", ErrInvalid, m.Host)
		}
	case Incoming, Away:
		if err := d.checkOther(m.Host); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%w: state %d", ErrInvalid, m.State)
	}
	return m.Port.check()
}

// checkOther checks the number of another host.
func (d *Datapath) checkOther(h addr.Host) error {
	if h == 0 || h == d.host {
		return fmt.Errorf("%w: host %d: must be another host than this, which is %d", ErrInvalid, h, d.host)
	}
	return nil
}

func (p Port) check() error {
	if p.Ifindex == 0 {
		return nil
	}
	if p.Ifindex < 0 || p.Enter != EnterPeer && p.Enter != EnterDevice {
		return fmt.Errorf("%w: port: ifindex %d, enter %d", ErrInvalid, p.Ifindex, p.Enter)
	}
	return checkMAC(p.MAC)
}

func machineKey(id addr.ID) bpf.DatapathMachineId {
	return bpf.DatapathMachineId{Machine: uint32(id.Machine), Cell: uint16(id.Cell)}
}

func machineID(k bpf.DatapathMachineId) addr.ID {
	return addr.ID{Cell: addr.Cell(k.Cell), Machine: addr.Machine(k.Machine)}
}

func machineValue(m Machine) bpf.DatapathMachine {
	v := bpf.DatapathMachine{
		Network: uint32(m.Network),
		Ifindex: uint32(m.Port.Ifindex),
		Epoch:   m.Epoch,
		Host:    uint32(m.Host),
		State:   uint8(m.State),
		Enter:   uint8(m.Port.Enter),
	}
	copy(v.Mac[:], m.Port.MAC)
	return v
}

func machineFrom(k bpf.DatapathMachineId, v bpf.DatapathMachine) Machine {
	m := Machine{
		ID:      machineID(k),
		Network: addr.Network(v.Network),
		Epoch:   v.Epoch,
		State:   State(v.State),
		Host:    addr.Host(v.Host),
	}
	if v.Ifindex != 0 {
		m.Port = Port{Ifindex: int(v.Ifindex), Enter: Enter(v.Enter), MAC: net.HardwareAddr(v.Mac[:])}
	}
	return m
}
