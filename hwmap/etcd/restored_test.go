package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
)

func TestAStoreRestoredInPlaceIsNoticedByTheNextCall(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	id, err := s.ID(t.Context())
	must(t, err)
	commit(t, s, put("a", "1"))
	server.Stop()
	backup := filepath.Join(t.TempDir(), "backup")
	must(t, os.CopyFS(backup, os.DirFS(server.Dir())))
	restart(t, server)
	last := commit(t, s, put("a", "2"))
	server.Stop()
	must(t, os.RemoveAll(server.Dir()))
	must(t, os.CopyFS(server.Dir(), os.DirFS(backup)))
	restart(t, server)

	for what, call := range map[string]func() error{
		"get":  func() error { _, err := s.Get(t.Context(), "a"); return err },
		"list": func() error { _, _, err := s.List(t.Context(), "a"); return err },
		"commit": func() error {
			_, err := s.Commit(t.Context(), create("b", "1"))
			return err
		},
	} {
		if err := call(); !errors.Is(err, hwmap.ErrRestored) {
			t.Errorf("%s after revision %d: error %v, want ErrRestored", what, last, err)
		}
	}
	again, err := s.ID(t.Context())
	if err != nil || again != id {
		t.Errorf("the id is %s, %v; was %s", again, err, id)
	}
	if e, err := s.Get(t.Context(), "a"); err != nil || string(e[0].Value) != "1" {
		t.Errorf("after that it answers %s, %v", e[0].Value, err)
	}
}

// member is one of a cluster of several.
type member struct {
	name, peer string
	*etcdproc.Server
}

// startMember starts a member of cluster, which is its --initial-cluster. It waits for a quorum.
func startMember(t *testing.T, name, peer, cluster, state string) (*member, error) {
	binary, err := etcdproc.FindBinary()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := etcdproc.Start(ctx, etcdproc.Options{Binary: binary, Dir: filepath.Join(t.TempDir(), name), Args: []string{
		"--name=" + name, "--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + cluster, "--initial-cluster-state=" + state,
	}})
	return &member{name, peer, s}, err
}

func TestAReplacedMemberIsNoRestoredStore(t *testing.T) {
	t.Parallel()
	host := 1 + os.Getpid()%200
	peer := func(i int) string { return fmt.Sprintf("http://127.77.%d.%d:23800", host, i) }
	entry := func(i int) string { return fmt.Sprintf("m%d=%s", i, peer(i)) }
	members := make([]*member, 3)
	cluster := strings.Join([]string{entry(1), entry(2), entry(3)}, ",")
	var starting sync.WaitGroup
	for i := range members {
		starting.Go(func() {
			var err error
			if members[i], err = startMember(t, fmt.Sprintf("m%d", i+1), peer(i+1), cluster, "new"); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	var endpoints []string
	for _, m := range members {
		if m == nil || m.Server == nil {
			t.FailNow()
		}
		t.Cleanup(m.Stop)
		endpoints = append(endpoints, m.Endpoint())
	}
	s, err := etcd.Open(t.Context(), etcd.Options{Endpoints: endpoints, Cluster: "test", DialTimeout: patience, CallTimeout: patience})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	id, err := s.ID(t.Context())
	must(t, err)
	last := commit(t, s, put("a", "1"))

	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints[:2], Logger: zap.NewNop()})
	must(t, err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	list, err := client.MemberList(ctx)
	must(t, err)
	members[2].Stop()
	change := func(what string, call func(context.Context) error) {
		wait(t, what, func() bool {
			ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // what is asked for while there is no leader is never answered
			defer cancel()
			return call(ctx) == nil
		})
	}
	for _, m := range list.Members {
		if m.Name == "m3" {
			change("the old member is removed", func(ctx context.Context) error {
				_, err := client.MemberRemove(ctx, m.ID)
				if errors.Is(err, rpctypes.ErrMemberNotFound) {
					return nil // by an attempt before
				}
				return err
			})
		}
	}
	change("the new member is let in", func(ctx context.Context) error {
		_, err := client.MemberAdd(ctx, []string{peer(4)})
		if errors.Is(err, rpctypes.ErrPeerURLExist) {
			return nil
		}
		return err
	})
	fresh, err := startMember(t, "m4", peer(4), strings.Join([]string{entry(1), entry(2), entry(4)}, ","), "existing")
	must(t, err)
	t.Cleanup(fresh.Stop)

	for i := range 20 {
		now := commit(t, s, put("a", fmt.Sprint(i)))
		if now <= last {
			t.Errorf("revision %d comes after %d", now, last)
		}
		last = now
		if _, err := s.Get(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
	other := open(t, fresh.Server, etcd.Options{})
	for _, store := range []*etcd.Store{s, other} {
		again, err := store.ID(t.Context())
		_, revision, listErr := store.List(t.Context(), "a")
		if err != nil || listErr != nil || again != id || revision < last {
			t.Errorf("the id is %s, was %s; revision %d after %d (%v, %v)", again, id, revision, last, err, listErr)
		}
	}
}
