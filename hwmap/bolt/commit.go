package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"go.etcd.io/bbolt"

	"ip6d/hwmap"
)

// request is a transaction on its way to the file.
type request struct {
	txn  hwmap.Txn
	held bool // its only key is that of a Hold

	// The outcome, written by the goroutine that holds Store.writing.
	done     bool
	changed  []hwmap.Entry
	revision hwmap.Revision
	err      error
}

// Commit implements hwmap.Store. Once it has begun it does not stop for ctx: a write to the local disk takes
// milliseconds, and so its outcome is known. ErrInDoubt is returned only when the disk failed after the last write; from
// then on the Store answers ErrUnavailable, because nothing but opening the file anew can tell what is in it.
func (s *Store) Commit(ctx context.Context, t hwmap.Txn) (hwmap.Revision, error) {
	defer s.timed("commit")()
	return s.submit(ctx, &request{txn: t})
}

func (s *Store) submit(ctx context.Context, r *request) (hwmap.Revision, error) {
	if err := r.txn.Check(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("write database %s: %w", s.path, unavailable(err))
	}
	s.mu.Lock()
	s.queue = append(s.queue, r)
	s.mu.Unlock()
	// Whoever gets the lock first writes all that wait, with one fsync; the others find theirs done.
	s.writing.Lock()
	defer s.writing.Unlock()
	if !r.done {
		s.flush()
	}
	if r.err != nil {
		return 0, fmt.Errorf("write database %s: %w", s.path, advise(r.err, s.path))
	}
	return r.revision, nil
}

// flush writes the queue. The caller holds writing.
func (s *Store) flush() {
	s.mu.Lock()
	group := s.queue
	s.queue = nil
	s.mu.Unlock()

	if err := s.write(group); err != nil {
		for _, r := range group {
			r.done, r.err = true, err // also of those that conflicted: with what is not in the file now
		}
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range group {
		r.done = true
		if len(r.changed) > 0 {
			s.tail.add(hwmap.Batch{Revision: r.revision, Entries: r.changed})
		}
	}
}

// write brings the group into the file, all of it or nothing, and returns ErrUnavailable or ErrInDoubt.
func (s *Store) write(group []*request) error {
	if err := s.usable(); err != nil {
		return err
	}
	var before head
	committing := false
	err := s.file.write(func() error {
		tx, err := s.file.db.Begin(true)
		if err != nil {
			return err
		}
		defer tx.Rollback() // it has none after a commit, and bbolt's otherwise is always nil
		if before, err = readHead(tx); err != nil {
			return err
		}
		now := before
		for _, r := range group {
			if err := r.apply(tx, &now); err != nil {
				return err
			}
		}
		if now.revision == before.revision {
			return nil
		}
		if err := now.write(tx); err != nil {
			return err
		}
		committing = true
		s.file.growBy(tx)
		// gofail: var beforeFile struct{}
		err = s.commit(tx)
		// gofail: var afterFile struct{}
		return err
	})
	if err == nil {
		s.wrote(group)
		return nil
	}
	if !committing {
		if errors.Is(err, hwmap.ErrCorrupt) {
			s.giveUp(err)
		}
		return unavailable(err)
	}
	// bbolt writes the pages, syncs, writes the meta page, syncs. Up to the meta page nothing has happened. After it, what a
	// reader sees is new, and whether a power loss would leave it so is unknown.
	var after head
	readErr := s.view(func(tx *bbolt.Tx) (err error) {
		after, err = readHead(tx)
		return err
	})
	if readErr == nil && after == before && !errors.Is(err, hwmap.ErrCorrupt) {
		return unavailable(err)
	}
	s.giveUp(err)
	return fmt.Errorf("%w: %w", hwmap.ErrInDoubt, err)
}

// wrote counts what has been written, and notes it for a compaction. The caller holds writing.
func (s *Store) wrote(group []*request) {
	changes := false
	for _, r := range group {
		if len(r.changed) == 0 {
			continue
		}
		changes = true
		s.commits.Add(1)
		for _, e := range r.changed {
			if s.touched != nil {
				s.touched[string(e.Key)] = true
			}
		}
	}
	if changes {
		s.writes.Add(1)
	}
}

// apply checks the conditions and makes the writes of one transaction. The error is bbolt's; a conflict is the request's own.
func (r *request) apply(tx *bbolt.Tx, h *head) error {
	records, held := tx.Bucket(recordsBucket), tx.Bucket(heldBucket)
	for _, c := range r.txn.If {
		var now hwmap.Revision
		if v := records.Get([]byte(c.Key)); v != nil {
			var err error
			if now, _, err = decode(string(c.Key), v); err != nil {
				return err
			}
		}
		if now != c.ModRevision {
			r.err = fmt.Errorf("%w: %q is of revision %d, not %d", hwmap.ErrConflict, c.Key, now, c.ModRevision)
			return nil
		}
	}
	revision := h.revision + 1
	for _, w := range r.txn.Then {
		k := []byte(w.Key)
		if w.Value == nil && records.Get(k) == nil {
			continue
		}
		var record, mark []byte
		if w.Value != nil {
			record = encode(string(w.Key), revision, w.Value)
		}
		if r.held {
			mark = encode(string(w.Key), revision, nil)
		}
		if err := errors.Join(set(records, k, record, h), set(held, k, mark, h)); err != nil {
			return err
		}
		r.changed = append(r.changed, hwmap.Entry{Key: w.Key, Value: bytes.Clone(w.Value), ModRevision: revision})
	}
	if len(r.changed) > 0 {
		h.revision = revision
	}
	r.revision = h.revision
	return nil
}

// set puts v at k, or deletes k where v is nil, and keeps the sum.
func set(b *bbolt.Bucket, k, v []byte, h *head) error {
	old := b.Get(k)
	if old == nil && v == nil {
		return nil
	}
	h.sum += part(v) - part(old)
	if v == nil {
		return b.Delete(k)
	}
	return b.Put(k, v)
}
