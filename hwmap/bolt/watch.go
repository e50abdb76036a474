package bolt

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"ip6d/hwmap"
)

// How much of the latest transactions is kept in memory for watchers: so many batches, so many bytes. A watcher that falls
// further behind gets hwmap.ErrCompacted, as does one that asks for a revision of before the last Open.
const (
	tailBatches = 4096
	tailBytes   = 16 << 20
)

// tail is the latest transactions, without a gap.
type tail struct {
	floor   hwmap.Revision // of the last transaction that is not in batches
	batches []hwmap.Batch  // revisions floor+1, floor+2, ...
	bytes   int
	grown   chan struct{} // closed by the next add; nil while nobody waits
}

func (t *tail) last() hwmap.Revision { return t.floor + hwmap.Revision(len(t.batches)) }

func (t *tail) add(b hwmap.Batch) {
	t.batches = append(t.batches, b)
	t.bytes += size(b)
	for len(t.batches) > tailBatches || t.bytes > tailBytes && len(t.batches) > 1 {
		t.bytes -= size(t.batches[0])
		t.floor = t.batches[0].Revision
		t.batches[0] = hwmap.Batch{} // or the array would keep it
		t.batches = t.batches[1:]
	}
	if t.grown != nil {
		close(t.grown)
		t.grown = nil
	}
}

func size(b hwmap.Batch) int {
	n := 64
	for _, e := range b.Entries {
		n += 64 + len(e.Key) + len(e.Value)
	}
	return n
}

// since returns the transactions after the revision, and where there are none, what closes when there is one.
func (t *tail) since(after hwmap.Revision) ([]hwmap.Batch, <-chan struct{}, error) {
	if after < t.floor || after > t.last() {
		return nil, nil, fmt.Errorf("%w: watch after %d, but %d to %d are known", hwmap.ErrCompacted, after, t.floor, t.last())
	}
	if t.grown == nil {
		t.grown = make(chan struct{})
	}
	return slices.Clone(t.batches[after-t.floor:]), t.grown, nil
}

// Watch implements hwmap.Store. It knows the transactions since Open, and of those the latest few thousand. A revision
// that the database has not reached yet is ErrCompacted too: it was seen in another database, or in this one before it was
// restored.
func (s *Store) Watch(ctx context.Context, prefix hwmap.Key, after hwmap.Revision, f func(hwmap.Batch) error) error {
	// A revision that was read from the file a moment ago may be on its way to the tail: the writer lets go after that.
	s.writing.Lock()
	s.writing.Unlock() //lint:ignore SA2001 waiting is all
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.usable(); err != nil {
			return fmt.Errorf("watch database %s: %w", s.path, err)
		}
		s.mu.Lock()
		batches, grown, err := s.tail.since(after)
		s.mu.Unlock()
		if err != nil {
			return fmt.Errorf("watch database %s: %w", s.path, err)
		}
		for _, b := range batches {
			if err := ctx.Err(); err != nil {
				return err
			}
			after = b.Revision
			if b = only(b, prefix); len(b.Entries) == 0 {
				continue
			}
			if err := f(b); err != nil {
				return err
			}
		}
		if len(batches) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.closed:
		case <-grown:
		}
	}
}

// only returns b with the keys that start with prefix. Values are copied: watchers do not share them.
func only(b hwmap.Batch, prefix hwmap.Key) hwmap.Batch {
	out := hwmap.Batch{Revision: b.Revision}
	for _, e := range b.Entries {
		if strings.HasPrefix(string(e.Key), string(prefix)) {
			e.Value = slices.Clone(e.Value)
			out.Entries = append(out.Entries, e)
		}
	}
	return out
}
