package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tcx attaches by TCX links (Linux 6.6). Each is pinned, which keeps it, and the pins are the record of what is
// attached.
type tcx struct {
	dir string // of the pinned links
}

func newTCX(pinDir string) tcx { return tcx{filepath.Join(pinDir, linksDir)} }

func (t tcx) attach(a Attachment, p program) error {
	// at the head: what a machine sends is refused before anything else on the device looks at it
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: a.Ifindex,
		Program:   p.Program,
		Attach:    p.side.hook(),
		Anchor:    link.Head(),
	})
	if err != nil {
		return err
	}
	defer l.Close() // without a pin this detaches it
	if err := l.Pin(t.path(a)); err != nil {
		return fmt.Errorf("pin link: %w", err)
	}
	return nil
}

func (t tcx) checkTaken(a Attachment, p program) error {
	all, err := link.QueryPrograms(link.QueryOptions{Target: a.Ifindex, Attach: p.side.hook()})
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	own, err := t.link(a)
	if err != nil {
		return err
	}
	ours, err := p.Info()
	if err != nil {
		return err
	}
	for _, other := range all.Programs {
		if by, linked := other.LinkID(); linked && by == own {
			continue
		}
		name, err := programName(other.ID)
		if err != nil {
			return err
		}
		if name != ours.Name { // both as the kernel has them: cut to 15 bytes
			continue
		}
		l, err := netlink.LinkByIndex(a.Ifindex)
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: device %s has program %s (id %d) already, and not by %s; set bpf_dir back to what it was, or remove that directory",
			ErrTaken, l.Attrs().Name, a.Program, other.ID, t.path(a))
	}
	return nil
}

func (t tcx) inspect(a Attachment, p program) (now onDevice, err error) {
	all, err := link.QueryPrograms(link.QueryOptions{Target: a.Ifindex, Attach: p.side.hook()})
	if errors.Is(err, unix.ENODEV) {
		return now, nil
	}
	if err != nil {
		return now, err
	}
	own, err := t.link(a)
	if err != nil {
		return now, err
	}
	ours, err := p.Info()
	if err != nil {
		return now, err
	}
	for _, other := range all.Programs {
		if by, linked := other.LinkID(); linked && own != 0 && by == own {
			now.own = other.ID
			continue
		}
		name, err := programName(other.ID)
		if err != nil {
			return now, err
		}
		if name == ours.Name { // both as the kernel has them: cut to 15 bytes
			now.others = append(now.others, other.ID)
		}
	}
	return now, nil
}

// programName returns "" for a program that is gone by now.
func programName(id ebpf.ProgramID) (string, error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return "", err
	}
	return info.Name, nil
}

// link returns the id of the pinned link, 0 if there is none.
func (t tcx) link(a Attachment) (link.ID, error) {
	path := t.path(a)
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("load link %s: %w", path, err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		return 0, fmt.Errorf("read link %s: %w", path, err)
	}
	return info.ID, nil
}

// update removes a link whose device has gone: the device that has its number now is another one.
func (t tcx) update(a Attachment, p program) (bool, error) {
	path := t.path(a)
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
	if tcx := info.TCX(); tcx == nil || tcx.Ifindex != uint32(a.Ifindex) {
		return false, l.Unpin()
	}
	if err := l.Update(p.Program); err != nil {
		return false, fmt.Errorf("update link %s: %w", path, err)
	}
	return true, nil
}

// detach removes the link and its pin. Removing the pin alone would do, but some time later.
func (t tcx) detach(a Attachment) error {
	l, err := link.LoadPinnedLink(t.path(a), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer l.Close()
	return errors.Join(l.Detach(), l.Unpin())
}

func (t tcx) detachAll() error {
	all, err := t.attachments()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, a := range all {
		err = errors.Join(err, t.detach(a))
	}
	return err
}

func (t tcx) attachments() (all []Attachment, err error) {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		program, number, _ := strings.Cut(e.Name(), "-")
		ifindex, err := strconv.Atoi(number)
		if err != nil {
			return nil, fmt.Errorf("pinned link %q: is not named PROGRAM-IFINDEX", e.Name())
		}
		all = append(all, Attachment{program, ifindex})
	}
	return all, nil
}

func (t tcx) close() error { return nil }

func (t tcx) path(a Attachment) string {
	return filepath.Join(t.dir, a.Program+"-"+strconv.Itoa(a.Ifindex))
}

// hook is what TCX calls the side.
func (s side) hook() ebpf.AttachType {
	if s == egress {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}
