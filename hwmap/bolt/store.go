package bolt

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

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
	versionKey   = "version"   // decimal
	idKey        = "id"        // of this database, text
	revisionKey  = "revision"  // head
	compactedKey = "compacted" // when, RFC 3339; missing in a file that never was
)

// Options says which file to open.
type Options struct {
	// Path of the database file, which is created where it does not exist, with mode 0600. Its directory is created too,
	// with mode 0700.
	Path string

	// Logger takes what went wrong without failing a call. nil: nothing is logged.
	Logger *slog.Logger

	// Observe is told how long each "commit", "get" and "list" took, as its caller saw it. nil: nobody looks.
	Observe func(operation string, took time.Duration)

	// CompactFrom is the size of the file in bytes from which Run compacts it. 0: DefaultCompactFrom.
	CompactFrom int64

	// AsItIs leaves a file that is half empty as it is. Otherwise Open compacts it.
	AsItIs bool

	// commit writes a transaction; tests put a failing disk here. nil: bbolt's own.
	commit func(*bbolt.Tx) error
}

// Store is a hwmap.Store in a file. It is safe for concurrent use.
type Store struct {
	path        string
	log         *slog.Logger
	observe     func(string, time.Duration)
	commit      func(*bbolt.Tx) error
	compactFrom int64
	asItIs      bool
	readOnly    bool
	id          string

	closed chan struct{} // closed by Close

	compacting sync.Mutex // held by the goroutine that compacts the file; it is taken before writing

	writing sync.Mutex      // held by the goroutine that writes the file; guards what follows
	touched map[string]bool // keys written since a compaction has begun; nil while there is none

	commits, writes atomic.Uint64 // since Open: transactions, and writes of the file, which they share

	mu        sync.Mutex // guards all below
	file      *file      // replaced by the goroutine that holds writing, too
	queue     []*request // transactions that wait for writing
	tail      tail       // the latest transactions, for watchers
	broken    error      // why the file is not used any more
	compacted Compaction // the last one
}

// Open opens the database file, or creates it. Every other process that opens it gets an error until Close.
//
// Errors: hwmap.ErrCorrupt, ErrNewerFormat, ErrLocked, ErrUsage (no path), or what the operating system said
// (fs.ErrPermission, a full disk).
func Open(o Options) (*Store, error) {
	if o.Path == "" {
		return nil, fmt.Errorf("open database: %w: no path is given", hwmap.ErrUsage)
	}
	s := newStore(o)
	err := s.openFile(o.Path)
	if err == nil {
		err = s.dropHeld()
	}
	return s.opened(err)
}

// OpenReadOnly opens a file that no process writes, to look at it: a backup, or the database of a daemon that is down. It
// changes nothing, and every write fails. Errors: as those of Open.
func OpenReadOnly(path string) (*Store, error) {
	if path == "" {
		return nil, fmt.Errorf("open database: %w: no path is given", hwmap.ErrUsage)
	}
	s := newStore(Options{Path: path})
	s.readOnly = true
	f, err := lock(path, os.O_RDONLY)
	if err == nil {
		err = s.openExisting(f)
	}
	return s.opened(err)
}

func newStore(o Options) *Store {
	s := &Store{
		path:        o.Path,
		log:         cmp.Or(o.Logger, slog.New(slog.DiscardHandler)),
		observe:     o.Observe,
		commit:      o.commit,
		compactFrom: cmp.Or(o.CompactFrom, DefaultCompactFrom),
		asItIs:      o.AsItIs,
		closed:      make(chan struct{}),
	}
	if s.commit == nil {
		s.commit = (*bbolt.Tx).Commit
	}
	return s
}

// opened returns s, or closes it and says what to do about err.
func (s *Store) opened(err error) (*Store, error) {
	if err == nil {
		return s, nil
	}
	if s.file != nil {
		err = errors.Join(err, s.file.close())
	}
	switch {
	case errors.Is(err, hwmap.ErrCorrupt):
		err = fmt.Errorf("%w; move the file away and restore it from a backup", err)
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w; run as root, or as the owner of the file and its directory", err)
	}
	return nil, fmt.Errorf("open database %s: %w", s.path, advise(err, s.path))
}

// format fills a new database.
func (s *Store) format() error {
	s.id = rand.Text()
	return s.file.db.Update(func(tx *bbolt.Tx) error {
		if err := makeBuckets(tx); err != nil {
			return err
		}
		b := tx.Bucket(formatBucket)
		return errors.Join(
			b.Put([]byte(versionKey), encode(versionKey, 0, strconv.AppendInt(nil, Format, 10))),
			b.Put([]byte(idKey), encode(idKey, 0, []byte(s.id))),
			head{}.write(tx),
		)
	})
}

func makeBuckets(tx *bbolt.Tx) error {
	for _, name := range [][]byte{formatBucket, recordsBucket, heldBucket} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
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
		if _, err := checkRecords(tx, h); err != nil {
			return err
		}
		s.tail.floor = h.revision
		return nil
	})
}

// checkRecords reads every record, and returns how many there are. Errors: hwmap.ErrCorrupt.
func checkRecords(tx *bbolt.Tx, h head) (n int, err error) {
	var sum uint64
	for _, name := range [][]byte{recordsBucket, heldBucket} {
		b := tx.Bucket(name)
		if b == nil {
			return 0, fmt.Errorf("%w: bucket %q is missing", hwmap.ErrCorrupt, name)
		}
		if err := b.ForEach(func(k, v []byte) error {
			sum += part(v)
			n++
			_, _, err := decode(string(k), v)
			return err
		}); err != nil {
			return 0, err
		}
	}
	// A page that a disk acknowledged and then lost leaves an older one, which is good in itself.
	if h.txid != uint64(tx.ID()) || h.sum != sum {
		return 0, fmt.Errorf("%w: a part of it is older than the rest; does the disk lose writes?", hwmap.ErrCorrupt)
	}
	return n, nil
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
	s.compacting.Lock() // a compaction ends soon, and takes away what it has made
	defer s.compacting.Unlock()
	if err := s.file.close(); err != nil {
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
