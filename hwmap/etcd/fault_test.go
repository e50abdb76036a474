package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
)

// short is a bound for calls that are meant to fail.
const short = 500 * time.Millisecond

func put(key, value string) hwmap.Txn {
	return hwmap.Txn{Then: []hwmap.Write{{Key: hwmap.Key(key), Value: []byte(value)}}}
}

func create(key, value string) hwmap.Txn {
	t := put(key, value)
	t.If = []hwmap.Condition{{Key: hwmap.Key(key)}}
	return t
}

func commit(t *testing.T, s hwmap.Store, txn hwmap.Txn) hwmap.Revision {
	t.Helper()
	r, err := s.Commit(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// admin is etcd's own client, for what a Store does not do.
func admin(t *testing.T, server *etcdproc.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// restart starts a stopped server again.
func restart(t *testing.T, server *etcdproc.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, server.Start(ctx))
}

func TestCommitToAHangingServerIsInDoubtAndLaterKnown(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	hasty := open(t, server, etcd.Options{CallTimeout: short})
	patient := open(t, server, etcd.Options{})
	commit(t, patient, put("a", "0"))
	// hasty has a connection now, on which its next call is sent.
	wait(t, "a connection", func() bool { _, err := hasty.Get(t.Context(), "a"); return err == nil })

	cases := []struct {
		name    string
		context func() (context.Context, context.CancelFunc)
		because error
	}{
		{"call timeout", func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }, nil},
		{"deadline of the caller", func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), short/2) }, context.DeadlineExceeded},
		{"caller gives up", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(short/2, cancel)
			return ctx, cancel
		}, context.Canceled},
	}
	for i, c := range cases {
		key := fmt.Sprintf("doubt/%d", i)
		must(t, server.Pause())
		ctx, cancel := c.context()
		_, err := hasty.Commit(ctx, create(key, "x"))
		cancel()
		if !errors.Is(err, hwmap.ErrInDoubt) || errors.Is(err, hwmap.ErrUnavailable) || c.because != nil && !errors.Is(err, c.because) {
			t.Errorf("%s: Commit returned %v, must be in doubt", c.name, err)
		}
		if !strings.Contains(fmt.Sprint(err), server.Endpoint()) {
			t.Errorf("%s: %v does not name the endpoint", c.name, err)
		}
		if _, err := hasty.Get(t.Context(), hwmap.Key(key)); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("%s: Get returned %v, must be unavailable", c.name, err)
		}
		must(t, server.Resume())
		// Whoever writes on the condition of what he reads now ends the doubt: one of the two transactions wins.
		e, err := patient.Get(t.Context(), hwmap.Key(key))
		must(t, err)
		_, err = patient.Commit(t.Context(), hwmap.Txn{
			If:   []hwmap.Condition{{Key: hwmap.Key(key), ModRevision: e[0].ModRevision}},
			Then: []hwmap.Write{{Key: hwmap.Key(key), Value: []byte("settled")}},
		})
		if err != nil && !(errors.Is(err, hwmap.ErrConflict) && e[0].ModRevision == 0) {
			t.Errorf("%s: settling returned %v", c.name, err)
		}
		e, err = patient.Get(t.Context(), hwmap.Key(key))
		must(t, err)
		if v := string(e[0].Value); v != "settled" && v != "x" {
			t.Errorf("%s: the key is %q", c.name, v)
		}
	}
}

func TestStoppedServerIsUnavailableAndItsReturnIsNoticed(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{DialTimeout: short})
	ctx := t.Context()
	wait(t, "a connection", func() bool { _, err := s.Get(ctx, "a"); return err == nil })
	server.Stop()
	// A commit on the connection that is just breaking may be in doubt. It was not made: there is no server.
	wait(t, "unavailable", func() bool {
		_, err := s.Commit(ctx, create("a", "1"))
		if !errors.Is(err, hwmap.ErrUnavailable) && !errors.Is(err, hwmap.ErrInDoubt) {
			t.Fatalf("Commit returned %v", err)
		}
		return errors.Is(err, hwmap.ErrUnavailable) && !errors.Is(err, hwmap.ErrInDoubt)
	})
	_, getErr := s.Get(ctx, "a")
	_, _, listErr := s.List(ctx, "")
	_, idErr := s.ID(ctx)
	for call, err := range map[string]error{
		"Get":   getErr,
		"List":  listErr,
		"ID":    idErr,
		"Hold":  s.Hold(ctx, "alive", nil, time.Second),
		"Watch": watchUnavailable(t, server),
	} {
		if !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), server.Endpoint()) {
			t.Errorf("%s returned %v, must be unavailable and name the endpoint", call, err)
		}
	}
	restart(t, server)
	wait(t, "the server's return", func() bool { _, err := s.Commit(ctx, create("a", "1")); return err == nil })
}

func watchUnavailable(t *testing.T, server *etcdproc.Server) error {
	return open(t, server, etcd.Options{CallTimeout: short}).Watch(t.Context(), "", 1, nil)
}

func TestOpenDoesNotWaitForTheServer(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	server.Stop()
	s := open(t, server, etcd.Options{DialTimeout: short})
	_, err := s.Commit(t.Context(), create("a", "1"))
	if !errors.Is(err, hwmap.ErrUnavailable) || errors.Is(err, hwmap.ErrInDoubt) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Commit returned %v, must say why", err)
	}
	restart(t, server)
	wait(t, "the server", func() bool { _, err := s.Commit(t.Context(), create("a", "1")); return err == nil })
}

// A server that accepts connections and says nothing has seen no transaction.
func TestSilentServerIsUnavailable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	s, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{l.Addr().String()}, Cluster: "test", DialTimeout: short})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	if _, err := s.Commit(t.Context(), put("a", "1")); !errors.Is(err, hwmap.ErrUnavailable) || errors.Is(err, hwmap.ErrInDoubt) {
		t.Errorf("Commit returned %v", err)
	}
}

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
			_, revision, err = s.List(t.Context(), "")
			must(t, err)
			commit(t, other, put("a", "next"))
			if err := watch(revision); errors.Is(err, hwmap.ErrCompacted) || !strings.Contains(err.Error(), "delivered") {
				t.Errorf("after listing again, Watch returned %v", err)
			}
		})
	}
}

func TestLostLeaseIsTakenAgain(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	reader := open(t, server, etcd.Options{})
	a := admin(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Hold(ctx, "alive/1", []byte("x"), 2*time.Second) }()

	revision := hwmap.Revision(0)
	for range 2 {
		wait(t, "held key", func() bool {
			e, err := reader.Get(t.Context(), "alive/1")
			must(t, err)
			was := revision
			revision = max(revision, e[0].ModRevision)
			return revision > was
		})
		leases, err := a.Leases(t.Context())
		must(t, err)
		if len(leases.Leases) != 1 {
			t.Fatalf("there are %d leases for one held key", len(leases.Leases))
		}
		_, err = a.Revoke(t.Context(), leases.Leases[0].ID)
		must(t, err)
	}
	wait(t, "held key", func() bool {
		e, err := reader.Get(t.Context(), "alive/1")
		must(t, err)
		return e[0].ModRevision > revision
	})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Hold returned %v", err)
	}
	if e, err := reader.Get(t.Context(), "alive/1"); err != nil || e[0].ModRevision != 0 {
		t.Errorf("after Hold, the key is %v, error %v", e, err)
	}
	if leases, err := a.Leases(t.Context()); err != nil || len(leases.Leases) != 0 {
		t.Errorf("after Hold, there are leases %v, error %v", leases, err)
	}
}

func TestHeldKeyGoesWithItsProcess(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	reader := open(t, server, etcd.Options{})
	ended := make(chan error, 1)
	go func() { ended <- s.Hold(t.Context(), "alive/1", []byte("x"), time.Second) }()
	present := func() bool {
		e, err := reader.Get(t.Context(), "alive/1")
		must(t, err)
		return e[0].ModRevision != 0
	}
	wait(t, "held key", present)
	must(t, s.Close()) // as the end of the process does, it revokes nothing
	if err := <-ended; !errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("Hold returned %v", err)
	}
	wait(t, "the key to go", func() bool { return !present() })
}

func TestHoldEndsWhenTheServerStaysAway(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{DialTimeout: short})
	ended := make(chan error, 1)
	go func() { ended <- s.Hold(t.Context(), "alive/1", []byte("x"), time.Second) }()
	wait(t, "held key", func() bool {
		e, err := s.Get(t.Context(), "alive/1")
		return err == nil && e[0].ModRevision != 0
	})
	server.Stop()
	select {
	case err := <-ended:
		if !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("Hold returned %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Hold hangs")
	}
}

func TestHoldEndsInTimeWhenTheServerIsAway(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{DialTimeout: short, CallTimeout: short})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Hold(ctx, "alive/1", []byte("x"), time.Minute) }()
	wait(t, "held key", func() bool {
		e, err := s.Get(t.Context(), "alive/1")
		return err == nil && e[0].ModRevision != 0
	})
	must(t, server.Pause())
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("Hold returned %v, must say that the key is left", err)
		}
	case <-time.After(patience):
		t.Fatal("Hold hangs")
	}
}

func TestTransactionTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	var many, conditions hwmap.Txn
	for i := range 129 {
		many.Then = append(many.Then, hwmap.Write{Key: hwmap.Key(fmt.Sprintf("k/%d", i)), Value: []byte("x")})
		conditions.If = append(conditions.If, hwmap.Condition{Key: hwmap.Key(fmt.Sprintf("k/%d", i))})
	}
	conditions.Then = []hwmap.Write{{Key: "k/x", Value: []byte("x")}}
	for name, txn := range map[string]hwmap.Txn{
		"many writes":     many,
		"many conditions": conditions,
		"large":           put("k/large", strings.Repeat("x", 1800<<10)),
		"very large":      put("k/large", strings.Repeat("x", 5<<20)),
	} {
		if _, err := s.Commit(t.Context(), txn); !errors.Is(err, hwmap.ErrUsage) {
			t.Errorf("%s: Commit returned %.200v", name, err)
		}
	}
	if entries, _, err := s.List(t.Context(), "k/"); err != nil || len(entries) != 0 {
		t.Errorf("refused transactions wrote %d records, error %v", len(entries), err)
	}
}

// etcd says that there is no room also after it has written.
func TestFullServerLeavesTheOutcomeInDoubt(t *testing.T) {
	t.Parallel()
	server := startServer(t, "--quota-backend-bytes=2000000")
	s := open(t, server, etcd.Options{})
	for i := range 1000 {
		key := fmt.Sprintf("k/%d", i)
		_, err := s.Commit(t.Context(), create(key, strings.Repeat("x", 100<<10)))
		if err == nil {
			continue
		}
		if !errors.Is(err, hwmap.ErrInDoubt) || errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("Commit returned %v", err)
		}
		if e, err := s.Get(t.Context(), hwmap.Key(key)); err != nil {
			t.Error(err)
		} else {
			t.Logf("the commit in doubt was made: %t", e[0].ModRevision != 0)
		}
		return
	}
	t.Error("the server does not fill up")
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

func TestOpenRefusesWrongOptions(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]etcd.Options{
		"no endpoints":       {Cluster: "test"},
		"empty endpoint":     {Cluster: "test", Endpoints: []string{""}},
		"no cluster":         {Endpoints: []string{"127.0.0.1:2379"}},
		"slash in cluster":   {Endpoints: []string{"127.0.0.1:2379"}, Cluster: "a/b"},
		"control characters": {Endpoints: []string{"127.0.0.1:2379\x00"}, Cluster: "test"},
	} {
		if s, err := etcd.Open(t.Context(), o); !errors.Is(err, hwmap.ErrUsage) {
			t.Errorf("%s: Open returned %v", name, err)
			if err == nil {
				must(t, s.Close())
			}
		}
	}
}

func TestClustersOfOneEtcdDoNotSeeEachOther(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	a, ab := open(t, server, etcd.Options{Cluster: "a"}), open(t, server, etcd.Options{Cluster: "ab"})
	var seen atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	_, start, err := a.List(ctx, "")
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- a.Watch(ctx, "", start, func(hwmap.Batch) error { seen.Add(1); return nil }) }()
	commit(t, ab, put("k", "ab"))
	commit(t, a, put("k", "a"))
	wait(t, "the batch", func() bool { return seen.Load() > 0 })
	for s, want := range map[*etcd.Store]string{a: "a", ab: "ab"} {
		entries, _, err := s.List(t.Context(), "")
		if err != nil || len(entries) != 1 || string(entries[0].Value) != want {
			t.Errorf("cluster %s lists %v, error %v", want, entries, err)
		}
	}
	cancel()
	<-ended
	if n := seen.Load(); n != 1 {
		t.Errorf("watch of one cluster saw %d batches", n)
	}
	id, err := a.ID(t.Context())
	must(t, err)
	if other, err := ab.ID(t.Context()); err != nil || id != other || id == "" {
		t.Errorf("ids of one etcd are %q and %q, error %v", id, other, err)
	}
}
