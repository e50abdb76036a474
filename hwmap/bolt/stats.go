package bolt

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"ip6d/hwmap"
)

// Stats is what there is to know about a database file.
type Stats struct {
	Size      int64 // of the file, in bytes
	PageSize  int   // in bytes
	Pages     int   // in use, or free again; the file may have room for more
	FreePages int   // of Pages

	Records  map[string]int // by kind: the part of the key before its last slash
	Revision hwmap.Revision // of the last transaction

	Commits, Writes uint64 // since Open: transactions, and writes of the file, which they share
	Compacted       Compaction
}

// Stats counts the records, piece by piece, while others write: those that are put or deleted meanwhile may count or not.
// Errors: hwmap.ErrUnavailable, hwmap.ErrCorrupt.
func (s *Store) Stats(ctx context.Context) (Stats, error) {
	stats, err := s.Space(ctx)
	if err != nil {
		return Stats{}, err
	}
	stats.Records = make(map[string]int)
	err = s.scan(ctx, recordsBucket, func(pairs []pair) error {
		for _, p := range pairs {
			stats.Records[kind(string(p.key))]++
		}
		return nil
	})
	if err == nil {
		err = s.view(func(tx *bbolt.Tx) error { return stats.readFormat(tx) })
	}
	if err != nil {
		return Stats{}, fmt.Errorf("read database %s: %w", s.path, err)
	}
	return stats, nil
}

// Space is Stats without what is in the records: Records and Revision. It takes no time. Errors: hwmap.ErrUnavailable.
func (s *Store) Space(context.Context) (Stats, error) {
	if err := s.usable(); err != nil {
		return Stats{}, fmt.Errorf("read database %s: %w", s.path, err)
	}
	file := s.acquire()
	defer s.release(file)
	space, err := file.space()
	var info os.FileInfo
	if err == nil {
		info, err = file.f.Stat()
	}
	if err != nil {
		return Stats{}, fmt.Errorf("read database %s: %w", s.path, unavailable(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Size: info.Size(), PageSize: space.pageSize, Pages: space.pages, FreePages: space.free,
		Commits: s.commits.Load(), Writes: s.writes.Load(), Compacted: s.compacted,
	}, nil
}

// readFormat reads what the format bucket says.
func (stats *Stats) readFormat(tx *bbolt.Tx) error {
	h, err := readHead(tx)
	if err != nil {
		return err
	}
	stats.Revision = h.revision
	v := tx.Bucket(formatBucket).Get([]byte(compactedKey))
	if v == nil || !stats.Compacted.At.IsZero() {
		return nil
	}
	_, text, err := decode(compactedKey, v)
	if err != nil {
		return err
	}
	if stats.Compacted.At, err = time.Parse(time.RFC3339, string(text)); err != nil {
		return fmt.Errorf("%w: record %q: %w", hwmap.ErrCorrupt, compactedKey, err)
	}
	return nil
}

// kind is the part of the key before its last slash, or all of it.
func kind(key string) string {
	if i := strings.LastIndexByte(key, '/'); i > 0 {
		return key[:i]
	}
	return key
}

// space is how the pages of a file are used.
type space struct{ pages, free, pageSize int }

func (s space) size() int64 { return int64(s.pages) * int64(s.pageSize) }
func (s space) used() int64 { return int64(s.pages-s.free) * int64(s.pageSize) }

func (f *file) space() (s space, err error) {
	err = protect(func() error {
		return f.db.View(func(tx *bbolt.Tx) error {
			now := f.db.Stats()
			s = space{free: now.FreePageN + now.PendingPageN, pageSize: f.db.Info().PageSize}
			s.pages = int(tx.Size() / int64(s.pageSize))
			return nil
		})
	})
	return s, err
}
