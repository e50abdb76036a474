package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
)

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
