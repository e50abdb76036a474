package hwmap_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ip6d/hwmap"
	"ip6d/hwmap/storetest"
)

// memory is a Store in memory, so that a test can run a whole fleet in virtual time. It passes the suite of the real ones.
type memory struct {
	mu       sync.Mutex // guards all below
	id       string
	revision hwmap.Revision
	records  map[hwmap.Key]hwmap.Entry
	history  []hwmap.Batch // of revisions after compacted
	floor    hwmap.Revision
	grown    chan struct{} // closed by the next change
	closed   chan struct{}
}

// livelock is a revision that no test gets to: hosts that undo each other's writes would not let virtual time go on.
const livelock = 20_000

func newMemory() *memory {
	return &memory{id: rand.Text(), records: make(map[hwmap.Key]hwmap.Entry), grown: make(chan struct{}), closed: make(chan struct{})}
}

func (s *memory) usable(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", hwmap.ErrUnavailable, err)
	}
	select {
	case <-s.closed:
		return fmt.Errorf("%w: closed", hwmap.ErrUnavailable)
	default:
		return nil
	}
}

func (s *memory) ID(ctx context.Context) (string, error) {
	if err := s.usable(ctx); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id, nil
}

func (s *memory) Get(ctx context.Context, keys ...hwmap.Key) ([]hwmap.Entry, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	entries := make([]hwmap.Entry, len(keys))
	for i, k := range keys {
		entries[i] = s.records[k]
		entries[i].Key, entries[i].Value = k, slices.Clone(entries[i].Value)
	}
	return entries, nil
}

func (s *memory) List(ctx context.Context, prefix hwmap.Key) ([]hwmap.Entry, hwmap.Revision, error) {
	if err := s.usable(ctx); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var entries []hwmap.Entry
	for _, k := range slices.Sorted(maps.Keys(s.records)) {
		if strings.HasPrefix(string(k), string(prefix)) {
			e := s.records[k]
			e.Value = slices.Clone(e.Value)
			entries = append(entries, e)
		}
	}
	return entries, s.revision, nil
}

func (s *memory) Commit(ctx context.Context, t hwmap.Txn) (hwmap.Revision, error) {
	if err := t.Check(); err != nil {
		return 0, err
	}
	if err := s.usable(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range t.If {
		if now := s.records[c.Key].ModRevision; now != c.ModRevision {
			return 0, fmt.Errorf("%w: %s is of revision %d, not %d", hwmap.ErrConflict, c.Key, now, c.ModRevision)
		}
	}
	b := hwmap.Batch{Revision: s.revision + 1}
	for _, w := range t.Then {
		if _, exists := s.records[w.Key]; w.Value == nil && !exists {
			continue
		}
		e := hwmap.Entry{Key: w.Key, Value: slices.Clone(w.Value), ModRevision: b.Revision}
		if w.Value == nil {
			delete(s.records, w.Key)
		} else {
			s.records[w.Key] = e
		}
		b.Entries = append(b.Entries, e)
	}
	if len(b.Entries) > 0 {
		s.revision = b.Revision
		if s.revision == livelock {
			panic(fmt.Sprintf("the hosts write without end; the last records: %s", lastOf(s.history)))
		}
		s.history = append(s.history, b)
		close(s.grown)
		s.grown = make(chan struct{})
	}
	return s.revision, nil
}

func (s *memory) Watch(ctx context.Context, prefix hwmap.Key, after hwmap.Revision, f func(hwmap.Batch) error) error {
	for {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.usable(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		if after < s.floor || after > s.revision {
			s.mu.Unlock()
			return fmt.Errorf("%w: watch after %d", hwmap.ErrCompacted, after)
		}
		batches, grown := slices.Clone(s.history[after-s.floor:]), s.grown
		s.mu.Unlock()
		for _, b := range batches {
			after = b.Revision
			watched := hwmap.Batch{Revision: b.Revision}
			for _, e := range b.Entries {
				if strings.HasPrefix(string(e.Key), string(prefix)) {
					e.Value = slices.Clone(e.Value)
					watched.Entries = append(watched.Entries, e)
				}
			}
			if len(watched.Entries) == 0 {
				continue
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := f(watched); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-s.closed:
		case <-grown:
		}
	}
}

func (s *memory) Hold(ctx context.Context, key hwmap.Key, value []byte, _ time.Duration) error {
	if ctx.Err() != nil {
		return nil
	}
	if value == nil {
		value = []byte{}
	}
	revision, err := s.Commit(ctx, hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: value}}})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-s.closed:
		return fmt.Errorf("%w: closed", hwmap.ErrUnavailable)
	}
	_, _ = s.Commit(context.WithoutCancel(ctx), hwmap.Txn{
		If:   []hwmap.Condition{{Key: key, ModRevision: revision}},
		Then: []hwmap.Write{{Key: key}},
	}) // a conflict: another Hold has taken it over
	return nil
}

func (s *memory) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

// compact forgets the history: a watch that has fallen behind has to list.
func (s *memory) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.floor, s.history = s.revision, nil
}

func TestMemoryKeepsTheContractOfStores(t *testing.T) {
	storetest.Run(t, func(t *testing.T) hwmap.Store {
		s := newMemory()
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}

// lastOf says what the last transactions wrote.
func lastOf(history []hwmap.Batch) (text string) {
	for _, b := range history[max(0, len(history)-8):] {
		for _, e := range b.Entries {
			text += fmt.Sprintf("\n%d %s = %s", b.Revision, e.Key, e.Value)
		}
	}
	return text
}
