package bolt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"sync"

	"go.etcd.io/bbolt"

	"ip6d/hwmap"
)

// Format is the version of the file's layout that this package writes, and the highest that it reads.
const Format = 1

var (
	formatBucket  = []byte("format")
	recordsBucket = []byte("records")
	heldBucket    = []byte("held")
)

// Keys of the format bucket.
const (
	versionKey  = "version"  // decimal
	idKey       = "id"       // of this database, text
	revisionKey = "revision" // head
)

// Options says which file to open.
type Options struct {
	// Path of the database file, which is created where it does not exist, with mode 0600. Its directory is created too,
	// with mode 0700.
	Path string

	// Logger takes what went wrong without failing a call. nil: nothing is logged.
	Logger *slog.Logger

	// commit writes a transaction; tests put a failing disk here. nil: bbolt's own.
	commit func(*bbolt.Tx) error
}

// Store is a hwmap.Store in a file. It is safe for concurrent use.
type Store struct {
	path   string
	log    *slog.Logger
	commit func(*bbolt.Tx) error
	db     *bbolt.DB
	id     string

	closed chan struct{} // closed by Close

	writing sync.Mutex // held by the goroutine that writes the file

	mu     sync.Mutex // guards all below
	queue  []*request // transactions that wait for writing
	tail   tail       // the latest transactions, for watchers
	broken error      // why the file is not used any more
}

// Open opens the database file, or creates it. Every other process that opens it gets an error until Close.
//
// Errors: hwmap.ErrCorrupt, ErrNewerFormat, ErrLocked, ErrUsage (no path), or what the operating system said
// (fs.ErrPermission, a full disk).
func Open(o Options) (*Store, error) {
	if o.Path == "" {
		return nil, fmt.Errorf("open database: %w: no path is given", hwmap.ErrUsage)
	}
	s := &Store{path: o.Path, log: o.Logger, commit: o.commit, closed: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.commit == nil {
		s.commit = (*bbolt.Tx).Commit
	}
	err := s.openFile(o.Path)
	if err == nil {
		err = s.dropHeld()
	}
	if err == nil {
		return s, nil
	}
	if s.db != nil {
		err = errors.Join(err, s.db.Close())
	}
	switch {
	case errors.Is(err, hwmap.ErrCorrupt):
		err = fmt.Errorf("%w; move the file away and restore it from a backup", err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w; run as root, or as the owner of the file and its directory", err)
	}
	return nil, fmt.Errorf("open database %s: %w", o.Path, err)
}

// format fills a new database.
func (s *Store) format() error {
	s.id = rand.Text()
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{formatBucket, recordsBucket, heldBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		b := tx.Bucket(formatBucket)
		return errors.Join(
			b.Put([]byte(versionKey), encode(versionKey, 0, strconv.AppendInt(nil, Format, 10))),
			b.Put([]byte(idKey), encode(idKey, 0, []byte(s.id))),
			head{}.write(tx),
		)
	})
}

// load reads what format wrote, and every record once, so that damage shows now and not in the middle of a migration.
func (s *Store) load() error {
	return s.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(formatBucket)
		if b == nil {
			return fmt.Errorf("%w: it is a bbolt file, but not one of ip6d", hwmap.ErrCorrupt)
		}
		_, version, err := decode(versionKey, b.Get([]byte(versionKey)))
		if err != nil {
			return err
		}
		switch v, err := strconv.Atoi(string(version)); {
		case err != nil || v < 1:
			return fmt.Errorf("%w: its format version is %q", hwmap.ErrCorrupt, version)
		case v > Format:
			return fmt.Errorf("%w: the file has version %d, this ip6d reads up to %d; install the newer ip6d again, or restore the older file", hwmap.ErrNewerFormat, v, Format)
		}
		_, id, err := decode(idKey, b.Get([]byte(idKey)))
		if err != nil {
			return err
		}
		s.id = string(id)
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		var sum uint64
		for _, name := range [][]byte{recordsBucket, heldBucket} {
			if b = tx.Bucket(name); b == nil {
				return fmt.Errorf("%w: bucket %q is missing", hwmap.ErrCorrupt, name)
			}
			if err := b.ForEach(func(k, v []byte) error {
				sum += part(v)
				_, _, err := decode(string(k), v)
				return err
			}); err != nil {
				return err
			}
		}
		// A page that a disk acknowledged and then lost leaves an older one, which is good in itself.
		if h.txid != uint64(tx.ID()) || h.sum != sum {
			return fmt.Errorf("%w: a part of it is older than the rest; does the disk lose writes?", hwmap.ErrCorrupt)
		}
		s.tail.floor = h.revision
		return nil
	})
}

// ID names this database: it is random and made with the file, so another one means other records and revisions. A copy
// of the file has the same. Errors: hwmap.ErrUnavailable after Close.
func (s *Store) ID(context.Context) (string, error) {
	if err := s.usable(); err != nil {
		return "", fmt.Errorf("read database %s: %w", s.path, err)
	}
	return s.id, nil
}

// Close closes the file. Watch and Hold return hwmap.ErrUnavailable, as does every later call.
func (s *Store) Close() error {
	s.mu.Lock()
	select {
	case <-s.closed:
		s.mu.Unlock()
		return nil
	default:
	}
	close(s.closed)
	s.mu.Unlock()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close database %s: %w", s.path, err)
	}
	return nil
}

// usable returns why the file cannot be used: closed, or broken earlier. It wraps hwmap.ErrUnavailable.
func (s *Store) usable() error {
	select {
	case <-s.closed:
		return errClosed
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broken
}

var errClosed = fmt.Errorf("%w: it is closed", hwmap.ErrUnavailable)

// give up the file after a failure that leaves unknown what is on the disk. Going on would answer from memory what a power
// loss takes away; only opening it anew reads what is really there.
func (s *Store) giveUp(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = fmt.Errorf("%w: an earlier failure left it unusable (%w); check the disk, then restart ip6d", hwmap.ErrUnavailable, cause)
		s.log.Error("database given up", "path", s.path, "error", cause)
	}
}
