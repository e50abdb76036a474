package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
)

func TestWatchBreaksWithItsServerAndGoesOnFromItsRevision(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	writer := open(t, server, etcd.Options{})
	var got []string
	var last hwmap.Revision
	collect := func(b hwmap.Batch) error {
		last = b.Revision
		for _, e := range b.Entries {
			got = append(got, string(e.Value))
		}
		return nil
	}
	_, last, err := s.List(t.Context(), "")
	must(t, err)
	for round := range 3 {
		commit(t, writer, put("a", fmt.Sprint(2*round)))
		err := s.Watch(t.Context(), "", last, func(b hwmap.Batch) error {
			defer server.Stop()
			return collect(b)
		})
		if !errors.Is(err, hwmap.ErrUnavailable) {
			t.Fatalf("Watch returned %v when its server was killed", err)
		}
		restart(t, server)
		wait(t, "the server", func() bool { _, err := writer.Commit(t.Context(), put("a", fmt.Sprint(2*round+1))); return err == nil })
		enough := errors.New("enough")
		err = s.Watch(t.Context(), "", last, func(b hwmap.Batch) error { return errors.Join(collect(b), enough) })
		if !errors.Is(err, enough) {
			t.Fatalf("Watch returned %v after the server's return", err)
		}
	}
	if want := "0 1 2 3 4 5"; strings.Join(got, " ") != want {
		t.Errorf("watches saw %v, must be %s", got, want)
	}
}

// A quiet watch must not trust a server for ever that is only silent.
func TestWatchOfAHangingServerBreaks(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	_, start, err := s.List(t.Context(), "")
	must(t, err)
	commit(t, s, put("a", "1"))
	err = s.Watch(t.Context(), "", start, func(hwmap.Batch) error { return server.Pause(t.Context()) })
	if !errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("Watch returned %v", err)
	}
}

func TestCompactionIsToldToWatchesThatNeedTheLost(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	old := commit(t, s, put("a", "1"))
	commit(t, s, put("a", "2"))
	last := commit(t, s, put("a", "3"))
	running := make(chan hwmap.Revision, 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- s.Watch(ctx, "", last-1, func(b hwmap.Batch) error { running <- b.Revision; return nil })
	}()
	if r := <-running; r != last {
		t.Fatalf("watch delivered revision %d", r)
	}
	_, err := admin(t, server).Compact(t.Context(), int64(last))
	must(t, err)

	err = s.Watch(t.Context(), "", old, func(b hwmap.Batch) error { return fmt.Errorf("delivered %v", b) })
	if !errors.Is(err, hwmap.ErrCompacted) {
		t.Errorf("Watch after a compacted revision returned %v", err)
	}
	// The watch that is up to date is not concerned.
	next := commit(t, s, put("a", "4"))
	if r := <-running; r != next {
		t.Errorf("watch delivered revision %d, must be %d", r, next)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Watch returned %v", err)
	}
	entries, r, err := s.List(t.Context(), "")
	if err != nil || len(entries) != 1 || r < next {
		t.Errorf("List returned %v at %d, error %v", entries, r, err)
	}
}

// A cluster that was restored or set up anew has the same address, settings and id, and revisions that mean other things.
func TestWatchDoesNotGoOnInAnotherHistory(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name   string
		before int // transactions in the first history
		after  int // and in the second
	}{
		{"at a lower revision", 5, 1},
		{"at a higher revision", 1, 5},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			server := startServer(t)
			s := open(t, server, etcd.Options{})
			for i := range c.before {
				commit(t, s, put("a", fmt.Sprint(i)))
			}
			// A restart begins a new term, as elections do in a cluster with a past.
			server.Stop()
			restart(t, server)
			_, revision, err := s.List(t.Context(), "")
			must(t, err)

			server.Stop()
			must(t, os.RemoveAll(server.Dir()))
			restart(t, server)
			other := open(t, server, etcd.Options{})
			for i := range c.after {
				commit(t, other, put("a", fmt.Sprint(i)))
			}
			watch := func(after hwmap.Revision) error {
				for {
					err := s.Watch(t.Context(), "", after, func(b hwmap.Batch) error { return fmt.Errorf("delivered %v", b) })
					if !errors.Is(err, hwmap.ErrUnavailable) { // the old connection
						return err
					}
				}
			}
			if err := watch(revision); !errors.Is(err, hwmap.ErrCompacted) {
				t.Errorf("Watch returned %v", err)
			}
			_, err = s.ID(t.Context()) // goes on with what answers now
			must(t, err)
			_, revision, err = s.List(t.Context(), "")
			must(t, err)
			commit(t, other, put("a", "next"))
			if err := watch(revision); errors.Is(err, hwmap.ErrCompacted) || !strings.Contains(err.Error(), "delivered") {
				t.Errorf("after listing again, Watch returned %v", err)
			}
		})
	}
}

// Transactions that are larger together than one response arrive in fragments, which end anywhere.
func TestWatchPutsFragmentsTogether(t *testing.T) {
	t.Parallel()
	server := startServer(t, "--max-request-bytes=20000")
	s := open(t, server, etcd.Options{})
	_, start, err := s.List(t.Context(), "")
	must(t, err)
	const each, n = 7, 400
	var revisions []hwmap.Revision
	for i := range n {
		var txn hwmap.Txn
		for k := range each {
			txn.Then = append(txn.Then, hwmap.Write{Key: hwmap.Key(fmt.Sprintf("k/%d", k)), Value: []byte(strings.Repeat(fmt.Sprint(i%10), 1000+i))})
		}
		revisions = append(revisions, commit(t, s, txn))
	}
	for range 5 {
		enough := errors.New("enough")
		next := 0
		err := s.Watch(t.Context(), "", start, func(b hwmap.Batch) error {
			if b.Revision != revisions[next] || len(b.Entries) != each {
				return fmt.Errorf("batch of revision %d has %d entries; must be revision %d with %d", b.Revision, len(b.Entries), revisions[next], each)
			}
			if next++; next == n {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) {
			t.Fatal(err)
		}
	}
}
