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
)

// tcx attaches by TCX links (Linux 6.6). Each is pinned, which keeps it, and the pins are the record of what is
// attached.
type tcx struct {
	dir string // of the pinned links
}

func newTCX(pinDir string) tcx { return tcx{filepath.Join(pinDir, linksDir)} }

func (t tcx) attach(a Attachment, p program) error {
	hook := ebpf.AttachTCXIngress
	if p.side == egress {
		hook = ebpf.AttachTCXEgress
	}
	// at the head: what a machine sends is refused before anything else on the device looks at it
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: a.Ifindex,
		Program:   p.Program,
		Attach:    hook,
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
