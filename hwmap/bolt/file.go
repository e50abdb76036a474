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
	if err != nil {
		return errors.Join(err, f.Close())
	}
	found, err := verify(f, info.Size())
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if found.torn {
		s.log.Warn("one meta page of the database is damaged; if that was no power loss, the last transaction may be missing", "path", s.path)
	}
	if s.db, err = openBolt(f); err != nil {
		return err
	}
	if err := s.load(); err != nil {
		return err
	}
	if found.pages*found.pageSize < compactFrom || found.free < found.pages/2 {
		return nil
	}
	if err := s.compact(); err != nil {
		// It is as good as before, only large.
		s.log.Warn("database not compacted", "path", s.path, "error", err)
		return nil
	}
	// Before the rename is durable nothing may be written: a power loss would bring the old file back.
	return syncDir(filepath.Dir(s.path))
}

// create makes a new database. It gets its name only when it is whole and on the disk, so that a crash leaves either no
// database or a good one, and never an empty file that would be taken for one.
func (s *Store) create(path string) error {
	f, err := lock(path+unborn, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	// Creators take turns by the lock on the unborn file; another one may have been first.
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		if err := errors.Join(err, os.Remove(path+unborn), f.Close()); err != nil {
			return err
		}
		return s.openFile(path)
	}
	if s.db, err = openEmpty(f); err != nil {
		return err
	}
	if err := s.format(); err != nil {
		return err
	}
	if err := os.Rename(path+unborn, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// unborn is what the name of a file ends in until it is whole.
const unborn = ".new"

// compactFrom is the size in bytes from which a file is compacted that is half empty. bbolt never returns space by itself.
const compactFrom = 4 << 20

// compact replaces the file by one without free pages. A crash leaves the one or the other.
func (s *Store) compact() (err error) {
	f, err := lock(s.path+unborn, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	small, err := openEmpty(f)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(s.path+unborn), small.Close())
		}
	}()
	if err := protect(func() error {
		if err := bbolt.Compact(small, s.db, compactFrom); err != nil {
			return err
		}
		return small.Update(func(tx *bbolt.Tx) error {
			h, err := readHead(tx)
			if err != nil {
				return err
			}
			return h.write(tx)
		})
	}); err != nil {
		return err
	}
	if err := os.Rename(s.path+unborn, s.path); err != nil {
		return err
	}
	large := s.db
	s.db = small
	if err := large.Close(); err != nil {
		s.log.Warn("old file of the compacted database not closed", "path", s.path, "error", err) // it has no name any more
	}
	return nil
}

// openEmpty makes f, which is locked, a new database: what a crash left in it is worth nothing.
func openEmpty(f *os.File) (*bbolt.DB, error) {
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return openBolt(f)
}

// openBolt gives f, which is locked and holds a verified or no database, to bbolt, which closes it.
func openBolt(f *os.File) (db *bbolt.DB, err error) {
	err = protect(func() (err error) {
		db, err = bbolt.Open(f.Name(), 0o600, &bbolt.Options{
			OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return f, nil },
			FreelistType: bbolt.FreelistMapType,
			NoStatistics: true,
		})
		return err
	})
	return db, err
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
