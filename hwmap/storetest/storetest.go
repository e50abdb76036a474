// Package storetest is the suite that every hwmap.Store passes: what the interface promises, as claims.
package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"ip6d/hwmap"
)

// patience is how long a test waits for what must happen. It is long because it is only ever waited for in full when a
// test fails.
const patience = time.Minute

// Run runs the suite. open returns a Store that holds no records, and closes it at the end of the test; the suite may have
// closed it before. Other Stores may write to the same server meanwhile, so revisions may have gaps.
func Run(t *testing.T, open func(t *testing.T) hwmap.Store) {
	for _, c := range slices.Concat(reads, commits, watches, holds, models, ends) {
		t.Run(c.claim, func(t *testing.T) {
			s := &store{t: t, Store: open(t)}
			t.Cleanup(s.join)
			c.check(s)
		})
	}
}

// claim is one thing that holds for every Store.
type claim struct {
	claim string
	check func(s *store)
}

// store is a Store under test. Its helpers end the test where they fail; they are called from the test's goroutine only.
type store struct {
	hwmap.Store
	t       *testing.T
	cancels []context.CancelFunc
	running sync.WaitGroup
}

// run runs f beside the test. Its context ends with the test, which waits for f.
func (s *store) run(f func(context.Context)) context.CancelFunc {
	ctx, cancel := context.WithCancel(s.t.Context())
	s.cancels = append(s.cancels, cancel)
	s.running.Go(func() { f(ctx) })
	return cancel
}

func (s *store) join() {
	for _, cancel := range s.cancels {
		cancel()
	}
	s.running.Wait()
}

func (s *store) get(keys ...hwmap.Key) []hwmap.Entry {
	s.t.Helper()
	entries, err := s.Get(s.t.Context(), keys...)
	if err != nil {
		s.t.Fatalf("Get(%q): %v", keys, err)
	}
	if len(entries) != len(keys) {
		s.t.Fatalf("Get(%q) returned %d entries", keys, len(entries))
	}
	return entries
}

func (s *store) list(prefix hwmap.Key) ([]hwmap.Entry, hwmap.Revision) {
	s.t.Helper()
	entries, revision, err := s.List(s.t.Context(), prefix)
	if err != nil {
		s.t.Fatalf("List(%q): %v", prefix, err)
	}
	return entries, revision
}

func (s *store) commit(t hwmap.Txn) hwmap.Revision {
	s.t.Helper()
	r, err := s.Commit(s.t.Context(), t)
	if err != nil {
		s.t.Fatalf("Commit(%v): %v", t, err)
	}
	return r
}

// put writes key, value, key, value, ... in one transaction.
func (s *store) put(pairs ...string) hwmap.Revision {
	s.t.Helper()
	return s.commit(hwmap.Txn{Then: writes(pairs...)})
}

func (s *store) delete(key hwmap.Key) hwmap.Revision {
	s.t.Helper()
	return s.commit(hwmap.Txn{Then: []hwmap.Write{{Key: key}}})
}

func writes(pairs ...string) []hwmap.Write {
	var w []hwmap.Write
	for p := range slices.Chunk(pairs, 2) {
		w = append(w, hwmap.Write{Key: hwmap.Key(p[0]), Value: []byte(p[1])})
	}
	return w
}

// wait waits until ok says so.
func (s *store) wait(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; !ok(); pause = min(2*pause, 50*time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %s in vain: %s", patience, what)
		}
		time.Sleep(pause)
	}
}

// present is an entry that exists. Its value is never nil.
func present(key, value string, r hwmap.Revision) hwmap.Entry {
	return hwmap.Entry{Key: hwmap.Key(key), Value: []byte(value), ModRevision: r}
}

// gone is an entry of a batch that was deleted.
func gone(key string, r hwmap.Revision) hwmap.Entry {
	return hwmap.Entry{Key: hwmap.Key(key), ModRevision: r}
}

func (s *store) wantEntries(got []hwmap.Entry, want ...hwmap.Entry) {
	s.t.Helper()
	if !slices.EqualFunc(got, want, sameEntry) {
		s.t.Errorf("entries are not as they must be\n got %s\nwant %s", text(got), text(want))
	}
}

// sameEntry tells an empty value from none: one is a record, the other a deletion.
func sameEntry(a, b hwmap.Entry) bool {
	return a.Key == b.Key && a.ModRevision == b.ModRevision && bytes.Equal(a.Value, b.Value) && (a.Value == nil) == (b.Value == nil)
}

func text(entries []hwmap.Entry) string {
	var b bytes.Buffer
	for _, e := range entries {
		value := "deleted"
		if e.Value != nil {
			value = fmt.Sprintf("%.40q", e.Value)
		}
		fmt.Fprintf(&b, "[%s@%d %s] ", e.Key, e.ModRevision, value)
	}
	return b.String()
}
