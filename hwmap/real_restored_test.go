package hwmap_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/nat"
)

// With a real etcd, whose data directory is brought back as it was before a move.
func TestAMoveSurvivesThatEtcdIsRestoredFromBeforeIt(t *testing.T) {
	binary, err := etcdproc.FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*deadline)
	defer cancel()
	server, err := etcdproc.Start(ctx, etcdproc.Options{Binary: binary, Dir: filepath.Join(t.TempDir(), "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex // guards hosts
	hosts := make(map[addr.Host]*realHost)
	find := func(id addr.Host) (*hwmap.Map, error) {
		mu.Lock()
		defer mu.Unlock()
		if h, ok := hosts[id]; ok {
			return h.Map, nil
		}
		return nil, hwmap.ErrUnavailable
	}
	dir := t.TempDir()
	for id := addr.Host(1); id <= 2; id++ {
		h := startReal(t, id, dir, etcd.Options{Endpoints: []string{server.Endpoint()}, Cluster: "test", DialTimeout: time.Second, CallTimeout: 5 * time.Second}, newKernel(id, func(nat.Machine) {}), newDevices(), find)
		mu.Lock()
		hosts[id] = h
		mu.Unlock()
	}
	one, two := hosts[1], hosts[2]
	v, err := one.Create(ctx, "web1", 7)
	must(err)
	must(attach("web1")(ctx, one.Map))
	until(t, "both know both", func() bool { return len(one.Hosts()) == 2 && len(two.Hosts()) == 2 })

	backup := filepath.Join(t.TempDir(), "backup")
	server.Stop()
	must(os.CopyFS(backup, os.DirFS(server.Dir())))
	must(server.Start(ctx))
	following := func() bool { return one.Status().Following && two.Status().Following }
	until(t, "both follow again", following)
	for _, h := range hosts {
		if reason := h.Status().StoreSuspect; reason != "" {
			t.Errorf("after a restart the store is suspect: %s", reason)
		}
	}
	must(begin("web1", 2)(ctx, one.Map))
	must(attach("web1")(ctx, two.Map))
	must(switchover("web1")(ctx, one.Map))
	must(finish("web1")(ctx, one.Map))

	server.Stop()
	must(os.RemoveAll(server.Dir()))
	must(os.CopyFS(server.Dir(), os.DirFS(backup)))
	must(server.Start(ctx))
	until(t, "both find the store suspect", func() bool {
		return one.Status().StoreSuspect != "" && two.Status().StoreSuspect != ""
	})
	for id, h := range hosts {
		if err := create("web2")(ctx, h.Map); !errors.Is(err, hwmap.ErrSuspect) {
			t.Errorf("create on host %d: %v", id, err)
		}
	}
	moved, _ := one.kernel.MovedEntries()
	if len(moved) != 1 || moved[0].ID != v.ID || moved[0].Host != 2 {
		t.Errorf("host 1 sends by %v", moved)
	}
	must(acceptStore(ctx, one.Map))
	t.Cleanup(func() {
		for id, h := range hosts {
			t.Logf("host %d: %+v", id, h.Status())
		}
	})
	until(t, "both believe the store again", func() bool {
		return following() && one.Status().StoreSuspect == "" && two.Status().StoreSuspect == "" &&
			len(one.Status().Pending) == 0 && len(two.Status().Pending) == 0
	})
	if again, err := two.Machine("web1"); err != nil || again.State != hwmap.Here || again.Epoch != 2 {
		t.Errorf("on host 2 it is %+v, %v", again, err)
	}
	must(begin("web1", 1)(ctx, two.Map)) // its record is there again
	must(attach("web1")(ctx, one.Map))
	must(switchover("web1")(ctx, two.Map))
	must(finish("web1")(ctx, two.Map))
	must(create("web2")(ctx, one.Map))
}
