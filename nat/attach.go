package nat

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// AttachPort lets a device send as s, and nothing else. It does so before the program is attached, so call it
// before the device is up: until then what arrives would go to the host's stack unchecked. Doing it again
// updates. Errors: ErrInvalid, ErrFull, ErrTaken.
func (d *Datapath) AttachPort(ifindex int, s addr.Stable) error {
	if s.Kind() != addr.KindMachine || ifindex <= 0 {
		return fmt.Errorf("port %d: %w: address %s is not a machine's", ifindex, ErrInvalid, s)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	old, ok, err := d.port(ifindex)
	if err != nil {
		return fmt.Errorf("port %d: read: %w", ifindex, err)
	}
	now := portValue(ifindex, s)
	if ok && old.Stable == now.Stable {
		now.Awaited = old.Awaited
	}
	if err := d.putPort(ifindex, now); err != nil {
		return fmt.Errorf("port %d: %w", ifindex, err)
	}
	err = d.attach(fromMachine, ifindex)
	if err == nil {
		return nil
	}
	if ok {
		return errors.Join(err, d.putPort(ifindex, old))
	}
	return errors.Join(err, d.removePort(ifindex))
}

// AwaitPacket has EventSent tell of what the machine of a port sends from now on, the first packet at once and others at a
// limited rate, or ends that. What it sends is carried or refused as ever. Errors: ErrNotFound.
func (d *Datapath) AwaitPacket(ifindex int, await bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok, err := d.port(ifindex)
	if err != nil {
		return fmt.Errorf("port %d: read: %w", ifindex, err)
	}
	if !ok {
		return fmt.Errorf("port %d: %w", ifindex, ErrNotFound)
	}
	var awaited uint32
	if await {
		awaited = 1
	}
	if v.Awaited == awaited {
		return nil
	}
	v.Awaited = awaited
	return d.putPort(ifindex, v)
}

// DetachPort undoes AttachPort. It succeeds when the device is gone. A device that is still up would from then
// on send into the host's stack unchecked: take it down first.
func (d *Datapath) DetachPort(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// the program first: without its identity the port's packets are refused, which a failure must not leave behind
	return errors.Join(
		d.detach(fromMachine, ifindex),
		d.removePort(ifindex),
	)
}

// AttachUnderlay attaches to a device of the caller's network namespace that carries routing addresses: Ethernet, or
// one without a link layer, as WireGuard's. Doing it again updates. Errors: ErrTaken.
func (d *Datapath) AttachUnderlay(ifindex int) error {
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return fmt.Errorf("attach to device %d: %w", ifindex, err)
	}
	in, out := fromUnderlay, toUnderlay
	if IsL3(l) {
		in, out = fromUnderlayL3, toUnderlayL3
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	// what leaves is guarded before anything comes
	if err := d.attach(out, ifindex); err != nil {
		return err
	}
	return d.attach(in, ifindex)
}

// IsL3 reports whether frames on a device begin with IPv6, without a link layer's header.
func IsL3(l netlink.Link) bool { return l.Attrs().EncapType == "none" }

// DetachUnderlay undoes AttachUnderlay. It succeeds when the device is gone.
func (d *Datapath) DetachUnderlay(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, program := range underlayPrograms {
		errs = append(errs, d.detach(program, ifindex))
	}
	return errors.Join(errs...)
}

// AttachStack attaches to the peer of ip6d0, where what the host's stack sends into ip6d0 arrives; and to ip6d0
// itself (Options.Stack), so that it carries nothing that the host forwards for others. Doing it again updates; a peer
// that was made anew takes the place of the one before. Errors: ErrTaken.
func (d *Datapath) AttachStack(peer int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stack != 0 {
		if err := d.attach(fromElsewhere, d.stack); err != nil {
			return err
		}
	}
	if err := d.attach(fromStack, peer); err != nil {
		return err
	}
	all, err := d.Attachments()
	for _, a := range all {
		if a.Program == fromStack && a.Ifindex != peer {
			err = errors.Join(err, d.detach(fromStack, a.Ifindex))
		}
	}
	return err
}

// Attachment is a program on a device.
type Attachment struct {
	Program string // as in bpf/ip6d.c
	Ifindex int
}

// IsUnderlay reports whether it is one that AttachUnderlay makes.
func (a Attachment) IsUnderlay() bool { return slices.Contains(underlayPrograms, a.Program) }

// Attachments lists what is attached, by program and device.
func (d *Datapath) Attachments() ([]Attachment, error) {
	all, err := d.hooks.attachments()
	if err != nil {
		return nil, fmt.Errorf("list what is attached: %w", err)
	}
	slices.SortFunc(all, func(a, b Attachment) int {
		return cmp.Or(cmp.Compare(a.Program, b.Program), cmp.Compare(a.Ifindex, b.Ifindex))
	})
	return all, nil
}

// hooks is the kernel's way to attach programs to devices: TCX links, or clsact filters where there is no TCX.
// What it attaches outlives the process. All devices are of the namespace in which it was opened.
type hooks interface {
	// attach attaches p where nothing of its name is attached, before whatever else is there.
	attach(Attachment, program) error

	// checkTaken refuses a device that has a program of this name which this pin directory's datapath did not attach:
	// ErrTaken. Both would see the packets, the later one first, and with its own maps.
	checkTaken(Attachment, program) error

	// update puts p in the place of an earlier program of its name, in one step, and reports whether there was one
	// on the device: not on another one that had its number before.
	update(Attachment, program) (bool, error)

	// detach succeeds when nothing is attached, or the device is gone.
	detach(Attachment) error

	// detachAll detaches what this pin directory's datapath has attached.
	detachAll() error

	// inspect says what of p's name is on the device. A device that is gone has nothing.
	inspect(Attachment, program) (onDevice, error)

	// attachments may list some whose device is gone, and miss some while devices come and go.
	attachments() ([]Attachment, error)

	close() error
}

// kernelHooks finds out which way the kernel has; p is any program. The kernel is asked, not its version: it may have
// been built without.
func kernelHooks(dir string, p *ebpf.Program) (hooks, error) {
	_, err := link.AttachTCX(link.TCXOptions{Program: p, Attach: ebpf.AttachTCXIngress}) // to device 0, which nobody has
	switch {
	case errors.Is(err, unix.ENODEV):
		return newTCX(dir), nil
	case errors.Is(err, link.ErrNotSupported):
		return newClsact(dir)
	}
	return nil, fmt.Errorf("ask the kernel for TCX: %w", err)
}

// updateAttached puts the new programs in the place of an earlier process's, without a gap in which a packet would
// pass unseen. What is left of devices that have gone is removed.
func (d *Datapath) updateAttached() error {
	all, err := d.Attachments()
	if err != nil {
		return err
	}
	programs, ports := d.programs(), make(map[int]bool)
	for _, a := range all {
		p, known := programs[a.Program]
		if !known {
			return fmt.Errorf("%s is attached to device %d: this version has no such program; go on with the one that attached it", a.Program, a.Ifindex)
		}
		updated, err := d.hooks.update(a, p)
		if err != nil {
			return err
		}
		if updated && a.Program == fromMachine {
			ports[a.Ifindex] = true
		}
	}
	for ifindex := range d.ports {
		if ports[ifindex] {
			continue
		}
		updated, err := d.hooks.update(Attachment{fromMachine, ifindex}, programs[fromMachine])
		if err == nil && !updated { // an identity of a port that has gone: its number may be another device's by now
			err = d.removePort(ifindex)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// attach is an upsert.
func (d *Datapath) attach(program string, ifindex int) error {
	a, p := Attachment{program, ifindex}, d.programs()[program]
	if updated, err := d.hooks.update(a, p); updated || err != nil {
		return err
	}
	err := d.hooks.checkTaken(a, p)
	if err == nil {
		err = d.hooks.attach(a, p)
	}
	if err != nil {
		return fmt.Errorf("attach %s to device %d: %w", program, ifindex, err)
	}
	return nil
}

func (d *Datapath) detach(program string, ifindex int) error {
	if err := d.hooks.detach(Attachment{program, ifindex}); err != nil {
		return fmt.Errorf("detach %s from device %d: %w", program, ifindex, err)
	}
	return nil
}
