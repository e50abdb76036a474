package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lock holds a lab's directory for one process. The directory itself is locked, so that nothing is left when it goes.
type lock struct{ dir *os.File }

// ownerFile, in the directory, marks it as a lab's and says who is at work on it.
const ownerFile = "lab"

const ownerText = "This directory belongs to a lab of ip6d; `ip6d lab down` removes it. Last used by process %d.\n"

// lockDirectory makes the directory, if it is not there, and locks it. Errors: ErrRunning, ErrForeign.
func lockDirectory(path string) (*lock, error) {
	for {
		if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make the lab's directory: %w", err)
		}
		l, err := lockPresent(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a lab ended at this moment
		}
		return l, err
	}
}

// lockPresent locks the directory. Errors: fs.ErrNotExist when there is none, ErrRunning, ErrForeign.
func lockPresent(path string) (_ *lock, err error) {
	d, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the lab's directory: %w", err)
	}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, fmt.Errorf("%w: %s; wait for its end, or end it with Ctrl-C", ErrRunning, whoHolds(path))
	}
	// What was locked may have been removed between opening and locking it.
	now, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	locked, err := d.Stat()
	if err != nil {
		return nil, err
	}
	if !os.SameFile(now, locked) {
		return nil, fs.ErrNotExist
	}
	if err := checkOwn(path); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(ownerText, os.Getpid())
	if err := os.WriteFile(filepath.Join(path, ownerFile), []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("mark the lab's directory: %w", err)
	}
	return &lock{d}, nil
}

// checkOwn refuses a directory that somebody else made: all that is in it would be removed. An empty one is what a crash
// leaves between making and marking it.
func checkOwn(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("read the lab's directory: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	if _, err := os.Stat(filepath.Join(path, ownerFile)); err != nil {
		return fmt.Errorf("%w: %s was not made by ip6d lab; move it away", ErrForeign, path)
	}
	return nil
}

func whoHolds(path string) string {
	text, err := os.ReadFile(filepath.Join(path, ownerFile))
	_, last, found := strings.Cut(string(text), "Last used by ")
	if err != nil || !found {
		return "another process is at work on it"
	}
	return strings.TrimSuffix(strings.TrimSpace(last), ".") + " is at work on it"
}

func (l *lock) release() error { return l.dir.Close() }
