package nat

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clsact attaches by filters of the clsact qdisc, in direct-action mode. A filter lives as long as its device, and its
// name is the path at which the program is pinned: that is the whole record of what is attached, and no other
// datapath's or tool's filter is taken for one of ours.
//
// The verdicts mean the same as in TCX: TC_ACT_UNSPEC, which is TCX_NEXT, goes on to the next filter, any other is final.
// Replacing a filter's program is one step, as updating a link is.
type clsact struct {
	dir    string          // of the pinned programs
	handle *netlink.Handle // of the namespace that the devices are in
}

// Before all filters but those that others give the same preference later on.
const filterPreference = 1

func newClsact(pinDir string) (clsact, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return clsact{}, fmt.Errorf("open netlink: %w", err)
	}
	return clsact{filepath.Join(pinDir, programsDir), h}, nil
}

func (c clsact) attach(a Attachment, p program) error {
	err := c.handle.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: a.Ifindex,
		Handle:    netlink.MakeHandle(0xffff, 0),
		Parent:    netlink.HANDLE_CLSACT,
	}})
	switch {
	case errors.Is(err, unix.EEXIST):
		err = c.checkQdisc(a.Ifindex, p.side)
	case err != nil:
		err = fmt.Errorf("add clsact qdisc: %w", err)
	}
	if err != nil {
		return err
	}
	// The kernel finds a handle that no other filter of this preference has.
	err = c.handle.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: a.Ifindex,
			Parent:    p.side.parent(),
			Priority:  filterPreference,
			Protocol:  unix.ETH_P_ALL,
		},
		Fd:           p.FD(),
		Name:         c.name(a.Program),
		DirectAction: true,
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("add filter (if another one has preference %d, move it: tc filter show): %w", filterPreference, err)
	}
	if err != nil {
		return fmt.Errorf("add filter: %w", err)
	}
	return nil
}

// checkTaken knows another pin directory's filter by the end of its name.
func (c clsact) checkTaken(a Attachment, p program) error {
	filters, err := c.filters(a.Ifindex, p.side)
	if err != nil {
		return err
	}
	for _, f := range filters {
		other, ours := strings.CutSuffix(f.Name, filepath.Join("/", programsDir, a.Program))
		if !ours || f.Name == c.name(a.Program) {
			continue
		}
		l, err := c.handle.LinkByIndex(a.Ifindex)
		if err != nil {
			return err
		}
		device := l.Attrs().Name
		return fmt.Errorf("%w: device %s has the filter %s; set bpf_dir back to %s, or remove that directory's filters from all devices, this one by: tc filter del dev %s %s pref %d handle %#x bpf",
			ErrTaken, device, f.Name, other, device, p.side, f.Priority, f.Handle)
	}
	return nil
}

func (c clsact) inspect(a Attachment, p program) (now onDevice, err error) {
	filters, err := c.filters(a.Ifindex, p.side)
	if errors.Is(err, unix.ENODEV) {
		return now, nil
	}
	for _, f := range filters {
		switch _, ours := strings.CutSuffix(f.Name, filepath.Join("/", programsDir, a.Program)); {
		case f.Name == c.name(a.Program) && now.own == 0:
			now.own = ebpf.ProgramID(f.Id)
		case ours:
			now.others = append(now.others, ebpf.ProgramID(f.Id))
		}
	}
	return now, err
}

// checkQdisc refuses the elder ingress qdisc for an egress program, which it would take, and run for what comes in.
func (c clsact) checkQdisc(ifindex int, s side) error {
	qdiscs, err := c.qdiscs()
	if err != nil {
		return err
	}
	for _, q := range qdiscs {
		if q.Attrs().LinkIndex == ifindex && s == egress && q.Type() != "clsact" {
			return fmt.Errorf("the device has an %s qdisc, which has no egress: make room for clsact, tc qdisc del dev DEVICE %s", q.Type(), q.Type())
		}
	}
	return nil
}

func (c clsact) update(a Attachment, p program) (bool, error) {
	filters, err := c.filters(a.Ifindex, p.side)
	if err != nil {
		return false, err
	}
	updated := false
	for _, f := range filters {
		if f.Name != c.name(a.Program) {
			continue
		}
		f.Fd = p.FD()
		if err := c.handle.FilterReplace(f); err != nil {
			return false, fmt.Errorf("replace filter of %s on device %d: %w", a.Program, a.Ifindex, err)
		}
		updated = true
	}
	return updated, nil
}

// detach leaves the qdisc, empty as it may be: it goes with the device, and others may be about to use it.
func (c clsact) detach(a Attachment) error {
	var errs []error
	for _, s := range []side{ingress, egress} {
		filters, err := c.filters(a.Ifindex, s)
		errs = append(errs, err)
		for _, f := range filters {
			if f.Name != c.name(a.Program) {
				continue
			}
			err := c.handle.FilterDel(f)
			if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
				continue // it went meanwhile, with its device
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (c clsact) detachAll() error {
	all, err := c.attachments()
	for _, a := range all {
		err = errors.Join(err, c.detach(a))
	}
	return err
}

// attachments may miss some while devices come and go: the kernel lists qdiscs piece by piece.
func (c clsact) attachments() (all []Attachment, err error) {
	qdiscs, err := c.qdiscs()
	if err != nil {
		return nil, err
	}
	for _, q := range qdiscs {
		for _, s := range []side{ingress, egress} {
			filters, err := c.filters(q.Attrs().LinkIndex, s)
			if err != nil {
				return nil, err
			}
			for _, f := range filters {
				if dir, program := filepath.Split(f.Name); filepath.Clean(dir) == c.dir {
					all = append(all, Attachment{program, f.LinkIndex})
				}
			}
		}
	}
	return all, nil
}

func (c clsact) close() error {
	c.handle.Close()
	return nil
}

// name is that of the program's filters, which `tc filter show` shows.
func (c clsact) name(program string) string { return filepath.Join(c.dir, program) }

// qdiscs returns those of all devices that filters can be at.
func (c clsact) qdiscs() (those []netlink.Qdisc, err error) {
	all, err := c.handle.QdiscList(nil)
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range all {
		if q.Attrs().Parent == netlink.HANDLE_CLSACT {
			those = append(those, q)
		}
	}
	return those, nil
}

// filters returns the BPF filters on one side of a device. Without a qdisc, or a device, there are none.
func (c clsact) filters(ifindex int, s side) (those []*netlink.BpfFilter, err error) {
	device := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	all, err := c.handle.FilterList(device, s.parent())
	if err != nil {
		return nil, fmt.Errorf("list filters of device %d: %w", ifindex, err)
	}
	for _, f := range all {
		if f, ok := f.(*netlink.BpfFilter); ok {
			those = append(those, f)
		}
	}
	return those, nil
}

// parent is what the qdisc calls the side.
func (s side) parent() uint32 {
	if s == egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}
