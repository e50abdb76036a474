package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"ip6d/addr"
	"ip6d/bpf"
)

// AttachPort lets a device send as s, and nothing else. It does so before the program is attached, so call it
// before the device is up: until then what arrives would go to the host's stack unchecked. Doing it again
// updates. Errors: ErrInvalid, ErrFull.
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
	if err := d.putPort(ifindex, portValue(ifindex, s)); err != nil {
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

// DetachPort undoes AttachPort. It succeeds when the device is gone. A device that is still up would from then
// on send into the host's stack unchecked: take it down first.
func (d *Datapath) DetachPort(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	// the link first: without its identity the port's packets are refused, which a failure must not leave behind
	return errors.Join(
		d.detach(fromMachine, ifindex),
		d.removePort(ifindex),
	)
}

// AttachUnderlay attaches to a device of the caller's network namespace that carries routing addresses: Ethernet, or
// one without a link layer, as WireGuard's. Doing it again updates.
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
// that was made anew takes the place of the one before.
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

// Attachments lists what is attached.
func (d *Datapath) Attachments() ([]Attachment, error) {
	entries, err := os.ReadDir(filepath.Join(d.dir, linksDir))
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var all []Attachment
	for _, e := range entries {
		a, err := parseAttachment(e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

const (
	fromMachine    = bpf.DatapathProgFromMachine
	fromUnderlay   = bpf.DatapathProgFromUnderlay
	fromUnderlayL3 = bpf.DatapathProgFromUnderlayL3
	fromStack      = bpf.DatapathProgFromStack
	fromElsewhere  = bpf.DatapathProgFromElsewhere
	toUnderlay     = bpf.DatapathProgToUnderlay
	toUnderlayL3   = bpf.DatapathProgToUnderlayL3
)

var underlayPrograms = []string{fromUnderlay, fromUnderlayL3, toUnderlay, toUnderlayL3}

func (d *Datapath) programs() map[string]*ebpf.Program {
	return map[string]*ebpf.Program{
		fromMachine:    d.objects.FromMachine,
		fromUnderlay:   d.objects.FromUnderlay,
		fromUnderlayL3: d.objects.FromUnderlayL3,
		fromStack:      d.objects.FromStack,
		fromElsewhere:  d.objects.FromElsewhere,
		toUnderlay:     d.objects.ToUnderlay,
		toUnderlayL3:   d.objects.ToUnderlayL3,
	}
}

// pinPrograms pins the programs in place of an earlier process's: each is replaced in one step. Those that it
// pinned in nobody's place can be undone.
func (d *Datapath) pinPrograms() (undo []func() error, err error) {
	for name, p := range d.programs() {
		path := filepath.Join(d.dir, programsDir, name)
		next := path + "_next"
		if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return undo, fmt.Errorf("pin program %s: %w", name, err)
		}
		if err := p.Pin(next); err != nil {
			return undo, fmt.Errorf("pin program %s: %w", name, err)
		}
		_, statErr := os.Stat(path)
		if err := os.Rename(next, path); err != nil {
			return undo, fmt.Errorf("pin program %s: %w", name, errors.Join(err, os.Remove(next)))
		}
		if errors.Is(statErr, fs.ErrNotExist) {
			undo = append(undo, func() error { return os.Remove(path) })
		}
	}
	return undo, nil
}

// updateLinks puts the new programs in the place of an earlier process's, without a gap in which a packet would
// pass unseen. Links whose device has gone are removed.
func (d *Datapath) updateLinks() error {
	all, err := d.Attachments()
	if err != nil {
		return err
	}
	for _, a := range all {
		updated, err := d.update(a.path(d.dir), d.programs()[a.Program], a.Ifindex)
		if err == nil && !updated && a.Program == fromMachine {
			err = d.removePort(a.Ifindex)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// attach is an upsert: the pinned link is updated, or a new one is pinned.
func (d *Datapath) attach(program string, ifindex int) error {
	p := d.programs()[program]
	path := Attachment{program, ifindex}.path(d.dir)
	if updated, err := d.update(path, p, ifindex); updated || err != nil {
		return err
	}
	hook := ebpf.AttachTCXIngress
	if program == fromElsewhere || program == toUnderlay || program == toUnderlayL3 {
		hook = ebpf.AttachTCXEgress
	}
	// at the head: what a machine sends is refused before anything else on the device looks at it
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: ifindex,
		Program:   p,
		Attach:    hook,
		Anchor:    link.Head(),
	})
	if err != nil {
		return fmt.Errorf("attach %s to device %d: %w", program, ifindex, err)
	}
	defer l.Close() // without a pin this detaches it
	if err := l.Pin(path); err != nil {
		return fmt.Errorf("pin %s on device %d: %w", program, ifindex, err)
	}
	return nil
}

// update updates the link pinned at path, and reports whether there was one. A link whose device has gone is
// removed instead: the device that has its number now is another one.
func (d *Datapath) update(path string, p *ebpf.Program, ifindex int) (bool, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("load link %s: %w", path, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return false, fmt.Errorf("read link %s: %w", path, err)
	}
	if tcx := info.TCX(); tcx == nil || tcx.Ifindex != uint32(ifindex) {
		return false, l.Unpin()
	}
	if err := l.Update(p); err != nil {
		return false, fmt.Errorf("update link %s: %w", path, err)
	}
	return true, nil
}

func (d *Datapath) detach(program string, ifindex int) error {
	if err := removeLink(Attachment{program, ifindex}.path(d.dir)); err != nil {
		return fmt.Errorf("detach %s from device %d: %w", program, ifindex, err)
	}
	return nil
}

// removeLink detaches a pinned link and removes its pin. Removing the pin alone would do, but some time later.
func removeLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	return errors.Join(l.Detach(), l.Unpin())
}

func (a Attachment) path(dir string) string {
	return filepath.Join(dir, linksDir, a.Program+"-"+strconv.Itoa(a.Ifindex))
}

func parseAttachment(name string) (Attachment, error) {
	program, number, _ := strings.Cut(name, "-")
	ifindex, err := strconv.Atoi(number)
	known := append([]string{fromMachine, fromStack, fromElsewhere}, underlayPrograms...)
	if err != nil || !slices.Contains(known, program) {
		return Attachment{}, fmt.Errorf("pinned link %q: is not named PROGRAM-IFINDEX", name)
	}
	return Attachment{program, ifindex}, nil
}
