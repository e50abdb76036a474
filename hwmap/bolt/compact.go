package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"ip6d/hwmap"
)

// When a file that is half empty is compacted by itself: when it is opened, where nobody waits but the daemon's start,
// and while it is in use. bbolt never returns space to the file system.
const (
	compactAtOpen      = 4 << 20 // bytes
	DefaultCompactFrom = 64 << 20
)

// How Run looks whether a compaction is due, and how long it waits after one that failed: at first, and at most.
const (
	lookEvery       = time.Minute
	maxCompactPause = time.Hour
)

const (
	// scanned is how much is read in one read transaction, in bytes: long ones would keep bbolt from reusing pages.
	scanned = 1 << 20

	// fewTouched is how many records are left to the end of a compaction, where writers wait for them.
	fewTouched = 256

	// spareRoom is what a compaction leaves of the file system, in bytes: machines must not fail to be created for it.
	spareRoom = 16 << 20
)

// Compaction is what a compaction did.
type Compaction struct {
	At            time.Time // when it ended; zero: there was none
	Before, After int64     // size of the file in bytes; 0 where it was before Open
	Took          time.Duration
	Pause         time.Duration // of Took, what writers had to wait
}

// Compact replaces the file by one without free pages. Reads go on, and writes but for a moment at the end. A crash leaves
// the one file or the other, and each has every transaction that was acknowledged.
//
// Errors: hwmap.ErrUnavailable, hwmap.ErrCorrupt, those of ctx, or what the operating system said, as of a full disk. The
// file then is as it was.
func (s *Store) Compact(ctx context.Context) (Compaction, error) {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	c, err := s.compact(ctx)
	if err != nil {
		return Compaction{}, fmt.Errorf("compact database %s: %w", s.path, advise(err, s.path))
	}
	s.mu.Lock()
	s.compacted = c
	s.mu.Unlock()
	s.log.Info("database compacted", "path", s.path, "before", c.Before, "after", c.After, "took", c.Took, "pause", c.Pause)
	return c, nil
}

// compact does it. The caller holds compacting.
//
// First the records are copied a piece at a time, each piece as it is then, while writers go on and note what they touch.
// What was touched is copied again, until little is left. That little is copied while writers wait; then the sums of both
// files must be the same, and the new one gets the name.
func (s *Store) compact(ctx context.Context) (c Compaction, err error) {
	start := time.Now()
	if err := s.usable(); err != nil {
		return c, err
	}
	if c.Before, err = s.roomForCopy(); err != nil {
		return c, err
	}
	f, err := lock(s.path+unborn, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return c, err
	}
	to := &copying{Store: s}
	if to.file, err = openEmpty(f, s.path); err != nil {
		return c, errors.Join(err, os.Remove(s.path+unborn))
	}
	s.note(true)
	defer s.note(false)
	if err := to.copyAll(ctx); err != nil {
		return c, errors.Join(err, os.Remove(s.path+unborn), to.file.close())
	}

	s.writing.Lock()
	defer s.writing.Unlock()
	waiting := time.Now()
	c.At = waiting.Round(0)
	if err := to.finish(c.At); err != nil {
		return c, errors.Join(err, os.Remove(s.path+unborn), to.file.close())
	}
	if err := os.Rename(s.path+unborn, s.path); err != nil {
		return c, errors.Join(err, os.Remove(s.path+unborn), to.file.close())
	}
	s.replace(to.file)
	// Before the rename is durable nothing may be written: a power loss would bring the old file back.
	if err := syncDir(filepath.Dir(s.path)); err != nil {
		s.giveUp(err)
		return c, err
	}
	c.Pause, c.Took = time.Since(waiting), time.Since(start)
	info, err := to.file.f.Stat()
	if err != nil {
		return c, err
	}
	c.After = info.Size()
	return c, nil
}

// note begins or ends to note in touched what is written.
func (s *Store) note(on bool) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.touched = nil
	if on {
		s.touched = make(map[string]bool)
	}
}

// takeTouched returns what was touched since the last call. The caller holds writing.
func (s *Store) takeTouched() []string {
	keys := slices.Sorted(maps.Keys(s.touched))
	clear(s.touched)
	return keys
}

// roomForCopy returns the size of the file, if its file system has room for a copy of what is in it.
func (s *Store) roomForCopy() (size int64, err error) {
	file := s.acquire()
	defer s.release(file)
	info, err := file.f.Stat()
	if err != nil {
		return 0, err
	}
	space, err := file.space()
	if err != nil {
		return 0, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(s.path), &fs); err != nil {
		return 0, fmt.Errorf("look for room: %w", err)
	}
	need := uint64(space.used()) + spareRoom
	if room := fs.Bavail * uint64(fs.Bsize); room < need {
		return 0, fmt.Errorf("%w: the copy needs %d MiB, and %s has %d MiB left", unix.ENOSPC, need>>20, filepath.Dir(s.path), room>>20)
	}
	return info.Size(), nil
}

// copying is a file that is going to replace the Store's.
type copying struct {
	*Store
	file *file // instead of the Store's
	head head  // its sum is that of what was copied
}

// copyAll copies while writers go on, until what is left is little, and on the disk.
func (c *copying) copyAll(ctx context.Context) error {
	c.file.db.NoSync = true // until all is there
	if err := c.update(c.copyFormat); err != nil {
		return err
	}
	for _, bucket := range [][]byte{recordsBucket, heldBucket} {
		if err := c.scan(ctx, bucket, func(pairs []pair) error {
			return c.update(func(tx *bbolt.Tx) error { return c.put(tx.Bucket(bucket), pairs) })
		}); err != nil {
			return err
		}
	}
	for {
		c.writing.Lock()
		few := len(c.touched) <= fewTouched
		var keys []string
		if !few {
			keys = c.takeTouched()
		}
		c.writing.Unlock()
		if few {
			break
		}
		for keys := range slices.Chunk(keys, fewTouched) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := c.update(func(tx *bbolt.Tx) error { return c.copyAgain(tx, keys) }); err != nil {
				return err
			}
		}
	}
	c.file.db.NoSync = false
	return c.file.db.Sync()
}

// finish copies what is left, and checks that nothing is missing. The caller holds writing.
func (c *copying) finish(now time.Time) error {
	if err := c.usable(); err != nil {
		return err
	}
	return c.update(func(tx *bbolt.Tx) error {
		if err := c.copyAgain(tx, c.takeTouched()); err != nil {
			return err
		}
		var h head
		if err := c.view(func(from *bbolt.Tx) (err error) {
			h, err = readHead(from)
			return err
		}); err != nil {
			return err
		}
		if h.sum != c.head.sum {
			return fmt.Errorf("%w: the copy is not the same; `ip6d db check` tells more", hwmap.ErrCorrupt)
		}
		value := encode(compactedKey, 0, []byte(now.UTC().Format(time.RFC3339)))
		return errors.Join(tx.Bucket(formatBucket).Put([]byte(compactedKey), value), h.write(tx))
	})
}

// update writes to the copy.
func (c *copying) update(f func(*bbolt.Tx) error) error {
	return c.file.write(func() error {
		return c.file.db.Update(func(tx *bbolt.Tx) error {
			c.file.growBy(tx)
			return f(tx)
		})
	})
}

// copyFormat makes the buckets, and says whose copy it is.
func (c *copying) copyFormat(tx *bbolt.Tx) error {
	if err := makeBuckets(tx); err != nil {
		return err
	}
	return c.view(func(from *bbolt.Tx) error {
		return from.Bucket(formatBucket).ForEach(func(k, v []byte) error {
			return tx.Bucket(formatBucket).Put(k, v)
		})
	})
}

// put copies records that come in the order of their keys.
func (c *copying) put(b *bbolt.Bucket, pairs []pair) error {
	b.FillPercent = 1
	for _, p := range pairs {
		if _, _, err := decode(string(p.key), p.value); err != nil {
			return err
		}
		if err := set(b, p.key, p.value, &c.head); err != nil {
			return err
		}
	}
	return nil
}

// copyAgain copies the records of keys as they are now, and deletes those that are gone.
func (c *copying) copyAgain(tx *bbolt.Tx, keys []string) error {
	return c.view(func(from *bbolt.Tx) error {
		for _, name := range [][]byte{recordsBucket, heldBucket} {
			for _, k := range keys {
				v := bytes.Clone(from.Bucket(name).Get([]byte(k)))
				if err := set(tx.Bucket(name), []byte(k), v, &c.head); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// pair is a record as it is in the file.
type pair struct{ key, value []byte }

// scan calls f with all records of a bucket in the order of their keys, piece by piece, each piece in a read transaction of
// its own: as a whole it is of no one revision.
func (s *Store) scan(ctx context.Context, bucket []byte, f func([]pair) error) error {
	var next []byte
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed:
			return errClosed
		default:
		}
		var pairs []pair
		more := false
		if err := s.view(func(tx *bbolt.Tx) error {
			pairs, more = nil, false
			b := tx.Bucket(bucket)
			if b == nil {
				return fmt.Errorf("%w: bucket %q is missing", hwmap.ErrCorrupt, bucket)
			}
			size := 0
			c := b.Cursor()
			for k, v := c.Seek(next); k != nil; k, v = c.Next() {
				if size >= scanned {
					more = true
					break
				}
				size += len(k) + len(v)
				pairs = append(pairs, pair{bytes.Clone(k), bytes.Clone(v)})
			}
			return nil
		}); err != nil {
			return err
		}
		if err := f(pairs); err != nil {
			return err
		}
		if !more {
			return nil
		}
		next = append(bytes.Clone(pairs[len(pairs)-1].key), 0)
	}
}

// Run compacts the file whenever it is large and more than half empty, until ctx ends; it returns ctx's error, or nil after
// Close. A failure is told once, and tried again after longer and longer pauses.
func (s *Store) Run(ctx context.Context) error {
	pause := lookEvery
	for {
		t := time.NewTimer(pause + rand.N(pause/4))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-s.closed:
			t.Stop()
			return nil
		case <-t.C:
		}
		if !s.hollow() {
			pause = lookEvery
			continue
		}
		if _, err := s.Compact(ctx); err == nil || ctx.Err() != nil {
			pause = lookEvery
		} else {
			if pause == lookEvery {
				s.log.Warn("database not compacted; it stays large, and is tried again", "path", s.path, "error", err)
			}
			pause = min(2*pause, maxCompactPause)
		}
	}
}

// hollow reports whether the file is large and more than half empty.
func (s *Store) hollow() bool {
	if s.usable() != nil {
		return false
	}
	file := s.acquire()
	defer s.release(file)
	space, err := file.space()
	return err == nil && space.size() >= s.compactFrom && space.free > space.pages/2
}
