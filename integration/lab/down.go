package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ip6d/host/netns"
)

// Down removes all of the lab of that name, whoever made it and however far that came. That there is none is no error.
// Errors: ErrRunning, ErrForeign.
func Down(name string) error {
	if err := checkRoot(); err != nil {
		return err
	}
	o := Options{Name: name}
	if o.Name == "" {
		o.Name = DefaultName
	}
	l, err := lockPresent(o.directory())
	if errors.Is(err, fs.ErrNotExist) {
		return o.remove() // whoever removed the directory by hand may have left the rest
	}
	if err != nil {
		return fmt.Errorf("remove lab %s: %w", o.Name, err)
	}
	return errors.Join(o.remove(), l.release())
}

// remove ends and removes everything of the lab. The directory is locked by the caller, or there is none.
func (o Options) remove() error {
	// Processes first: a daemon would put back what it misses.
	if err := o.endProcesses(); err != nil {
		return fmt.Errorf("remove lab %s: %w", o.Name, err)
	}
	if err := errors.Join(o.removeNamespaces(), o.removeWireGuardSockets(), o.removeDirectory()); err != nil {
		return fmt.Errorf("remove lab %s: %w", o.Name, err)
	}
	return nil
}

// removeNamespaces takes the names of the lab's namespaces away. With it go the namespaces and their devices, unless
// somebody has a shell in one.
func (o Options) removeNamespaces() error {
	names, err := netns.List()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, o.namespace("")) {
			errs = append(errs, netns.Delete(name))
		}
	}
	return errors.Join(errs...)
}

// removeDirectory unmounts the BPF file system, which ends every pin in it, and removes the directory.
func (o Options) removeDirectory() error {
	for { // once is enough, unless somebody else mounted over it
		err := unix.Unmount(o.bpfDirectory(), unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // no mount, no directory
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", o.bpfDirectory(), err)
		}
	}
	entries, err := os.ReadDir(o.directory())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		// The mark goes last, so that what a crash leaves of a removal is still known to be a lab's.
		if e.Name() == ownerFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(o.directory(), e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(o.directory())
}

func checkRoot() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w, for network namespaces and BPF: run it with sudo", ErrNotRoot)
	}
	return nil
}
