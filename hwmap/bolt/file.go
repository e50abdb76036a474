package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"

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
	found, err := verifyFile(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if found.torn {
		s.log.Warn("one meta page of the database is damaged; if that was no power loss, the last transaction may be missing", "path", s.path)
	}
	o := &bbolt.Options{ReadOnly: s.readOnly, PreLoadFreelist: true}
	if s.file, err = openBolt(f, o); err != nil {
		return err
	}
	if err := s.load(); err != nil || s.readOnly {
		return err
	}
	s.clearUnborn()
	if s.asItIs || found.pages*found.pageSize < compactAtOpen || found.free < found.pages/2 {
		return nil
	}
	switch _, err := s.Compact(context.Background()); {
	case err == nil:
	case s.usable() != nil: // the compacted file has the name, and may lose it again
		return err
	default:
		s.log.Warn("database not compacted", "path", s.path, "error", err) // it is as good as before, only large
	}
	return nil
}

// verifyFile verifies f as it is on the disk. What an interrupted commit left in memory is written first, or what is read now
// could be gone after a power loss; what a failed fsync left there, where it looks written, is dropped.
func verifyFile(f *os.File) (findings, error) {
	if err := f.Sync(); err != nil {
		return findings{}, err
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return findings{}, fmt.Errorf("drop what memory holds of it: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return findings{}, err
	}
	return verify(f, info.Size())
}

// clearUnborn removes what an interrupted compaction left. It holds as much as the database, and nothing else needs it.
func (s *Store) clearUnborn() {
	info, err := os.Lstat(s.path + unborn)
	if err != nil || !info.Mode().IsRegular() {
		return
	}
	if err := os.Remove(s.path + unborn); err != nil {
		s.log.Warn("file of an interrupted compaction not removed", "path", s.path+unborn, "error", err)
		return
	}
	s.log.Info("file of an interrupted compaction removed", "path", s.path+unborn)
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
		if removed := os.Remove(path + unborn); !errors.Is(removed, fs.ErrNotExist) { // whoever opened the file may have removed it
			err = errors.Join(err, removed)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		return s.openFile(path)
	}
	if s.file, err = openEmpty(f, path); err != nil {
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

// file is an open database file. A compaction replaces it by another, under those who still read it.
type file struct {
	db *bbolt.DB
	f  *os.File // of db, to read what bbolt does not tell

	// stuck: bbolt panicked in the middle of a write, and holds its locks for ever.
	stuck atomic.Bool

	users   int  // who read it; guarded by Store.mu
	retired bool // another has taken its place: the last user closes it; guarded by Store.mu
}

// write runs f, which writes to the file, as protect does.
func (f *file) write(do func() error) error {
	done := false
	err := protect(func() error {
		err := do()
		done = true
		return err
	})
	if !done {
		f.stuck.Store(true)
	}
	return err
}

func (f *file) close() error {
	if f.stuck.Load() {
		return f.f.Close() // and with it the lock; what is mapped goes with the process
	}
	return f.db.Close()
}

// acquire returns the file for reading, until it is released.
func (s *Store) acquire() *file {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file.users++
	return s.file
}

func (s *Store) release(f *file) {
	s.mu.Lock()
	f.users--
	last := f.retired && f.users == 0
	s.mu.Unlock()
	if last {
		s.discard(f)
	}
}

// replace makes f the file. The caller holds writing.
func (s *Store) replace(f *file) {
	s.mu.Lock()
	old := s.file
	s.file = f
	old.retired = true
	last := old.users == 0
	s.mu.Unlock()
	if last {
		go s.discard(old) // the system takes its time to free a large file, and writers are waiting
	}
}

// discard closes a file that has no name any more.
func (s *Store) discard(f *file) {
	if err := f.close(); err != nil {
		s.log.Warn("old file of the compacted database not closed", "path", s.path, "error", err)
	}
}

// How a file grows: to double its size, within these bounds. Each growth is an fsync more.
const (
	minGrowth = 32 << 10
	maxGrowth = 16 << 20
)

// growBy sets how much room the file gets beyond what tx needs, should tx need more than there is.
func (f *file) growBy(tx *bbolt.Tx) {
	f.db.AllocSize = int(min(max(tx.Size(), minGrowth), maxGrowth))
}

// mapSize is how much of the address space a file has. While it fits, bbolt need not map it anew, for which a writer waits
// until nobody reads, and readers after that for the writer.
const mapSize = 1 << 30

// openEmpty makes f, which is locked, a new database: what a crash left in it is worth nothing. Errors name it as it is
// going to be named.
func openEmpty(f *os.File, name string) (*file, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // the lock is on both
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	f = os.NewFile(uintptr(fd), name)
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return openBolt(f, &bbolt.Options{})
}

// openBolt gives f, which is locked and holds a verified or no database, to bbolt, which closes it.
func openBolt(f *os.File, o *bbolt.Options) (*file, error) {
	o.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return f, nil }
	o.FreelistType = bbolt.FreelistMapType
	o.InitialMmapSize = mapSize
	opened := &file{f: f}
	err := protect(func() (err error) {
		opened.db, err = bbolt.Open(f.Name(), 0o600, o)
		return err
	})
	if err != nil {
		return nil, err
	}
	opened.db.AllocSize = minGrowth
	return opened, nil
}

// lock opens a file and takes its lock, or returns ErrLocked at once: a second daemon must not wait in the dark.
func lock(path string, flag int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, flag, 0o600)
		if err != nil {
			return nil, err
		}
		how := unix.LOCK_EX
		if flag == os.O_RDONLY {
			how = unix.LOCK_SH
		}
		if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
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
