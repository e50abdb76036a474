package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// directory is where ip-netns(8) keeps named namespaces: a file for each, with the namespace mounted on it.
const directory = "/run/netns"

// Path is the file of the namespace of that name.
func Path(name string) string { return filepath.Join(directory, name) }

// Create makes a namespace of that name, which `ip netns` knows too, and opens it. It lives until Delete.
// Errors: ErrExists, ErrName, fs.ErrPermission.
func Create(name string) (_ *Namespace, err error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := shareDirectory(); err != nil {
		return nil, fmt.Errorf("create network namespace %q: %w", name, err)
	}
	path := Path(name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %s; delete it with `ip netns delete %s`, or choose another name", ErrExists, path, name)
	}
	if err != nil {
		return nil, fmt.Errorf("create network namespace %q: %w", name, err)
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(fmt.Errorf("create network namespace %q: %w", name, err), os.Remove(path))
		}
	}()
	n, err := New()
	if err != nil {
		return nil, err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", n.FD()), path, "", unix.MS_BIND, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("mount: %w", err), n.Close())
	}
	return n, nil
}

// Delete takes the name away. The namespace itself ends with its last user: a process in it, or who holds it
// open. That there is none of that name is no error. Errors: ErrName, fs.ErrPermission.
func Delete(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	path := Path(name)
	// More than one mount was made by who mounted over it: all have to go, or the namespace would live on unseen.
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == nil {
			continue
		}
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // no mount, no file
			return fmt.Errorf("delete network namespace %q: %w", name, err)
		}
		break
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete network namespace %q: %w", name, err)
	}
	return nil
}

// Exists reports whether there is a namespace of that name. What a crash left of one does not count; Delete
// removes it all the same.
func Exists(name string) bool {
	if checkName(name) != nil {
		return false
	}
	n, err := Open(Path(name))
	if err != nil {
		return false
	}
	n.Close()
	return true
}

// List returns the names of all, in order, with those that a crash left half made.
func List() ([]string, error) {
	entries, err := os.ReadDir(directory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > unix.NAME_MAX || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%w: %q", ErrName, name)
	}
	return nil
}

// shareDirectory makes the directory a shared mount, as `ip netns add` does, and under the same lock. Left to
// the next `ip netns add`, that would put a second mount over each of ours, and deleting a namespace would
// leave the hidden one behind.
func shareDirectory() error {
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	d, err := os.Open(directory)
	if err != nil {
		return err
	}
	defer d.Close() // and with it the lock
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", directory, err)
	}
	err = unix.Mount("", directory, "", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // no mount yet
		if err := unix.Mount(directory, directory, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("mount %s: %w", directory, err)
		}
		err = unix.Mount("", directory, "", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", directory, err)
	}
	return nil
}
