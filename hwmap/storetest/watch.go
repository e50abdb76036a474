package storetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"

	"ip6d/hwmap"
)

// watcher collects what a Watch delivers.
type watcher struct {
	s      *store
	cancel context.CancelFunc

	mu      sync.Mutex // guards all below
	batches []hwmap.Batch
	ended   bool
	err     error
}

func (s *store) watch(prefix hwmap.Key, after hwmap.Revision) *watcher {
	w := &watcher{s: s}
	w.cancel = s.run(func(ctx context.Context) {
		err := s.Watch(ctx, prefix, after, func(b hwmap.Batch) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.batches = append(w.batches, b)
			return nil
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		w.ended, w.err = true, err
	})
	return w
}

// got returns the batches up to now, and fails the test where the watch has ended by itself.
func (w *watcher) got() []hwmap.Batch {
	w.s.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		w.s.t.Fatalf("watch ended after %d batches: %v", len(w.batches), w.err)
	}
	return slices.Clone(w.batches)
}

// want waits for as many batches as are given, and compares.
func (w *watcher) want(want ...hwmap.Batch) {
	w.s.t.Helper()
	w.s.wait("batches of a watch", func() bool { return len(w.got()) >= len(want) })
	w.s.wantBatches(w.got(), want)
}

func (s *store) wantBatches(got, want []hwmap.Batch) {
	s.t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			s.t.Fatalf("watch left out batch %d: revision %d: %s", i, want[i].Revision, text(want[i].Entries))
		case i >= len(want):
			s.t.Fatalf("watch delivered one batch too many: revision %d: %s", got[i].Revision, text(got[i].Entries))
		case got[i].Revision != want[i].Revision || !slices.EqualFunc(got[i].Entries, want[i].Entries, sameEntry):
			s.t.Fatalf("batch %d of the watch is wrong\n got revision %d: %s\nwant revision %d: %s", i,
				got[i].Revision, text(got[i].Entries), want[i].Revision, text(want[i].Entries))
		}
	}
}

// end waits until the watch has ended, and returns its error.
func (w *watcher) end() error {
	w.s.t.Helper()
	w.s.wait("end of a watch", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.ended
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

var watches = []claim{
	{"WatchDeliversTransactionsWholeAndInOrder", func(s *store) {
		s.put("map/before", "no")
		w := s.watch("map/", s.revision())
		r1 := s.put("map/b", "1", "map/a", "1", "other", "no")
		s.put("other", "no")
		r2 := s.commit(hwmap.Txn{Then: append(writes("map/c", "2"), hwmap.Write{Key: "map/a"}, hwmap.Write{Key: "map/nothing"})})
		r3 := s.put("map/b", "1")
		w.want(
			hwmap.Batch{Revision: r1, Entries: []hwmap.Entry{present("map/b", "1", r1), present("map/a", "1", r1)}},
			hwmap.Batch{Revision: r2, Entries: []hwmap.Entry{present("map/c", "2", r2), gone("map/a", r2)}},
			hwmap.Batch{Revision: r3, Entries: []hwmap.Entry{present("map/b", "1", r3)}})
	}},

	{"WatchFromAnEarlierRevisionReplays", func(s *store) {
		start := s.revision()
		r1 := s.put("a", "1")
		r2 := s.put("a", "2")
		r3 := s.delete("a")
		want := []hwmap.Batch{
			{Revision: r1, Entries: []hwmap.Entry{present("a", "1", r1)}},
			{Revision: r2, Entries: []hwmap.Entry{present("a", "2", r2)}},
			{Revision: r3, Entries: []hwmap.Entry{gone("a", r3)}},
		}
		s.watch("", start).want(want...)
		s.watch("", r1).want(want[1:]...)
		s.watch("", r2).want(want[2:]...)
		s.watch("", r3).want()
	}},

	{"ListThenWatchMissesNothing", func(s *store) {
		const n = 200
		s.run(func(ctx context.Context) {
			for i := range n {
				if _, err := s.Commit(ctx, hwmap.Txn{Then: writes("n", strconv.Itoa(i))}); err != nil {
					s.t.Error(err)
					return
				}
			}
		})
		for range 10 {
			entries, r := s.list("n")
			next := 0
			if len(entries) > 0 {
				at, err := strconv.Atoi(string(entries[0].Value))
				if err != nil {
					s.t.Fatal(err)
				}
				next = at + 1
			}
			w := s.watch("n", r)
			s.wait("the last write", func() bool { return next+len(w.got()) >= n })
			for _, b := range w.got() {
				if string(b.Entries[0].Value) != strconv.Itoa(next) {
					s.t.Fatalf("watch after %d delivered %s where %d follows", r, text(b.Entries), next)
				}
				next++
			}
		}
	}},

	{"WatchOfWhatTheStoreHasNotReachedSaysListAgain", func(s *store) {
		s.put("a", "1")
		w := s.watch("", s.revision()+1000000)
		if err := w.end(); !errors.Is(err, hwmap.ErrCompacted) {
			s.t.Errorf("watch after a revision that was never reached returned %v", err)
		}
	}},

	{"WatchEndsWithItsContext", func(s *store) {
		w := s.watch("", s.revision())
		r := s.put("a", "1")
		w.want(hwmap.Batch{Revision: r, Entries: []hwmap.Entry{present("a", "1", r)}})
		w.cancel()
		if err := w.end(); !errors.Is(err, context.Canceled) {
			s.t.Errorf("watch returned %v after its context ended", err)
		}
	}},

	{"WatchEndsWithTheErrorOfItsCaller", func(s *store) {
		start := s.revision()
		s.put("a", "1")
		s.put("a", "2")
		enough, calls := errors.New("enough"), 0
		err := s.Watch(s.t.Context(), "", start, func(hwmap.Batch) error {
			calls++
			return enough
		})
		if !errors.Is(err, enough) || calls != 1 {
			s.t.Errorf("watch returned %v after %d calls", err, calls)
		}
	}},

	{"SlowWatcherHoldsUpNobody", func(s *store) {
		start := s.revision()
		block, blocked := make(chan struct{}), make(chan struct{}, 1)
		s.t.Cleanup(func() { close(block) })
		s.run(func(ctx context.Context) {
			// What it returns is of no interest: the test ends it.
			_ = s.Watch(ctx, "", start, func(hwmap.Batch) error {
				select {
				case blocked <- struct{}{}:
				default:
				}
				<-block
				return nil
			})
		})
		s.put("first", "")
		<-blocked
		w := s.watch("n", s.revision())
		var want []hwmap.Batch
		for i := range 50 {
			r := s.put("n", strconv.Itoa(i))
			want = append(want, hwmap.Batch{Revision: r, Entries: []hwmap.Entry{present("n", strconv.Itoa(i), r)}})
		}
		w.want(want...)
	}},
}
