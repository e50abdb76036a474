package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"

	"ip6d/hwmap"
)

// Get implements hwmap.Store.
func (s *Store) Get(ctx context.Context, keys ...hwmap.Key) ([]hwmap.Entry, error) {
	defer s.timed("get")()
	entries := make([]hwmap.Entry, len(keys))
	err := s.read(ctx, func(tx *bbolt.Tx) error {
		b := tx.Bucket(recordsBucket)
		for i, k := range keys {
			entries[i] = hwmap.Entry{Key: k}
			v := b.Get([]byte(k))
			if v == nil {
				continue
			}
			var err error
			if entries[i], err = entry(k, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// List implements hwmap.Store.
func (s *Store) List(ctx context.Context, prefix hwmap.Key) ([]hwmap.Entry, hwmap.Revision, error) {
	defer s.timed("list")()
	var (
		chunks   [][]hwmap.Entry // one slice that grows to a million would be copied many times
		chunk    []hwmap.Entry
		revision hwmap.Revision
	)
	err := s.read(ctx, func(tx *bbolt.Tx) error {
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		revision = h.revision
		c := tx.Bucket(recordsBucket).Cursor()
		for k, v := c.Seek([]byte(prefix)); bytes.HasPrefix(k, []byte(prefix)) && k != nil; k, v = c.Next() {
			e, err := entry(hwmap.Key(k), v)
			if err != nil {
				return err
			}
			if len(chunk) == cap(chunk) {
				chunks = append(chunks, chunk)
				chunk = make([]hwmap.Entry, 0, min(max(16, 2*cap(chunk)), 8192))
			}
			chunk = append(chunk, e)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return slices.Concat(append(chunks, chunk)...), revision, nil
}

// entry copies: what bbolt returns is gone with its transaction.
func entry(k hwmap.Key, v []byte) (hwmap.Entry, error) {
	r, value, err := decode(string(k), v)
	return hwmap.Entry{Key: k, Value: append([]byte{}, value...), ModRevision: r}, err
}

// read runs f in a read transaction of a usable file.
func (s *Store) read(ctx context.Context, f func(*bbolt.Tx) error) error {
	err := ctx.Err()
	if err == nil {
		err = s.usable()
	}
	if err == nil {
		if err = s.view(f); errors.Is(err, hwmap.ErrCorrupt) {
			s.giveUp(err)
		}
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("read database %s: %w", s.path, unavailable(err))
}

// view runs f in a read transaction.
func (s *Store) view(f func(*bbolt.Tx) error) error {
	file := s.acquire()
	defer s.release(file)
	return protect(func() error { return file.db.View(f) })
}

// timed begins to time an operation for Options.Observe, and returns what ends it.
func (s *Store) timed(operation string) (end func()) {
	if s.observe == nil {
		return func() {}
	}
	start := time.Now()
	return func() { s.observe(operation, time.Since(start)) }
}

// unavailable makes err say that nothing was written, if it does not yet.
func unavailable(err error) error {
	switch {
	case errors.Is(err, hwmap.ErrUnavailable):
		return err
	case errors.Is(err, bbolterrors.ErrDatabaseNotOpen):
		return errClosed
	}
	return fmt.Errorf("%w: %w", hwmap.ErrUnavailable, err)
}
