package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"ip6d/hwmap"
)

// openFile opens the database at path, or creates it. The file is locked against other processes for as long as it is open.
func (s *Store) openFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := lock(path, os.O_RDWR)
	if err == nil {
		return s.openExisting(f)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.create(path)
}

func (s *Store) openExisting(f *os.File) error {
	info, err := f.Stat()
	if err == nil {
		var torn bool
		if torn, err = verify(f, info.Size()); torn {
			s.log.Warn("one meta page of the database is damaged; if that was no power loss, the last transaction may be missing", "path", s.path)
		}
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if err := s.openBolt(f); err != nil {
		return err
	}
	return s.load()
}

// create makes a new database. It gets its name only when it is whole and on the disk, so that a crash leaves either no
// database or a good one, and never an empty file that would be taken for one.
func (s *Store) create(path string) error {
	unborn := path + ".new"
	f, err := lock(unborn, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	// Creators take turns by the lock on the unborn file; another one may have been first.
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(err, os.Remove(unborn), f.Close()); err != nil {
			return err
		}
		return s.openFile(path)
	}
	// What a crash left in it is worth nothing.
	if err := f.Truncate(0); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := s.openBolt(f); err != nil {
		return err
	}
	if err := s.format(); err != nil {
		return err
	}
	if err := os.Rename(unborn, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// openBolt gives f, which is locked and holds a verified or no database, to bbolt, which closes it.
func (s *Store) openBolt(f *os.File) error {
	return protect(func() (err error) {
		s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{
			OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return f, nil },
			FreelistType: bbolt.FreelistMapType,
			NoStatistics: true,
		})
		return err
	})
}

// lock opens a file and takes its lock, or returns ErrLocked at once: a second daemon must not wait in the dark.
func lock(path string, flag int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, flag, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = fmt.Errorf("%w: another process holds %s; stop it, or use another path", hwmap.ErrLocked, path)
			}
			return nil, errors.Join(err, f.Close())
		}
		// Between opening and locking, the holder may have renamed or removed the file; then this is the lock of another one.
		ours, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(ours, now) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// protect runs f, and turns into ErrCorrupt the ways in which bbolt meets a broken file: it panics, or faults in its
// memory map (also when the disk cannot read a page).
func protect(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", hwmap.ErrCorrupt, r)
		}
	}()
	return f()
}
