package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace, held open: it lives at least until Close.
type Namespace struct{ file *os.File }

// Open opens the namespace that the file at path stands for, such as /run/netns/web1 or /proc/PID/ns/net.
// Errors: ErrNotFound, ErrNotNamespace, fs.ErrPermission.
func Open(path string) (*Namespace, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0) // not to wait for the other end of a FIFO
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, fmt.Errorf("%w: %s", ErrNotFound, path)
	case err != nil:
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		return nil, errors.Join(fmt.Errorf("%w: %s", ErrNotNamespace, path), f.Close())
	}
	return &Namespace{f}, nil
}

// Current opens the namespace of the calling goroutine. Outside of Do that is the process's.
func Current() (*Namespace, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return ofThread()
}

func ofThread() (*Namespace, error) {
	return Open(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()))
}

// New makes a namespace without a name. It ends with its last user: at Close, unless a process or a mount
// still holds it.
func New() (*Namespace, error) {
	var made *Namespace
	err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		var err error
		made, err = ofThread()
		return err
	})
	return made, err
}

// Do runs f in the namespace and returns its error. f must neither lock nor unlock its thread, and what it
// starts with `go` runs in the process's namespace.
func (n *Namespace) Do(f func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.file.Name(), err)
		}
		return f()
	})
}

// Start is cmd.Start in the namespace; the process stays there, and so do its children. A Pdeathsig would come
// when the thread that started the process ends, which is not when this process does: don't set one.
func (n *Namespace) Start(cmd *exec.Cmd) error { return n.Do(cmd.Start) }

// onOwnThread runs f on a thread that nothing else uses meanwhile, and brings the thread back to its namespace.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		defer close(done) // also when f ends the goroutine, as a failing test does
		runtime.LockOSThread()
		before, err := ofThread()
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer before.Close()
		err = f()
		if back := unix.Setns(before.FD(), unix.CLONE_NEWNET); back != nil {
			// Still locked, the thread ends with this goroutine.
			done <- errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	err, returned := <-done
	if !returned {
		runtime.Goexit()
	}
	return err
}

// FD is the namespace's file descriptor, valid until Close.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Same reports whether both are the same namespace.
func (n *Namespace) Same(other *Namespace) (bool, error) {
	a, err := n.file.Stat()
	if err != nil {
		return false, err
	}
	b, err := other.file.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(a, b), nil
}

// String returns the path that the namespace was opened by.
func (n *Namespace) String() string { return n.file.Name() }

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }
