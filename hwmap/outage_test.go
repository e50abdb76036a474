package hwmap_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/nat"
)

// callTimeout is longer than a computer that is busy takes for anything here: what fails sooner did not wait for it.
const callTimeout = time.Minute

// With a real etcd that is killed, in real time. A daemon's timeouts are shorter; what matters is that a call for which there is
// no connection waits for that only.
func TestWhileEtcdIsDeadMovesFailAtOnceAndAfterItHostsCatchUpByWhatDiffers(t *testing.T) {
	binary, err := etcdproc.FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*deadline)
	defer cancel()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	server, err := etcdproc.Start(ctx, etcdproc.Options{Binary: binary, Dir: filepath.Join(t.TempDir(), "etcd")})
	must(err)
	t.Cleanup(server.Stop)
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
	kernels, ports := make(map[addr.Host]*kernel), make(map[addr.Host]*devices)
	start := func(id addr.Host) *realHost {
		t.Helper()
		if kernels[id] == nil {
			kernels[id], ports[id] = newKernel(id, func(nat.Machine) {}), newDevices()
		}
		h := startReal(t, id, dir, etcd.Options{Endpoints: []string{server.Endpoint()}, Cluster: "test", CallTimeout: callTimeout}, kernels[id], ports[id], find)
		mu.Lock()
		defer mu.Unlock()
		hosts[id] = h
		return h
	}
	one, two, three := start(1), start(2), start(3)
	until(t, "all know each other", func() bool {
		return len(one.Hosts()) == 3 && len(two.Hosts()) == 3 && len(three.Hosts()) == 3
	})
	move := func(name string, from, to *realHost) {
		t.Helper()
		must(begin(name, to.Self.ID)(ctx, from.Map))
		must(attach(name)(ctx, to.Map))
		must(switchover(name)(ctx, from.Map))
		until(t, name+" has arrived", func() bool {
			v, err := to.Machine(name)
			return err == nil && v.State == hwmap.Here
		})
	}
	for _, name := range []string{"stays", "goer", "waits"} {
		_, err := one.Create(ctx, name, 7)
		must(err)
		must(attach(name)(ctx, one.Map))
	}
	for _, name := range []string{"stays", "goer"} {
		move(name, one, two)
		must(finish(name)(ctx, one.Map))
	}
	must(begin("waits", 2)(ctx, one.Map))
	must(attach("waits")(ctx, two.Map))
	until(t, "host 3 knows both moves", func() bool {
		moved, _ := three.kernel.MovedEntries()
		return len(moved) == 2
	})

	server.Stop()
	until(t, "host 1 does not follow", func() bool { return !one.Status().Following })
	for what, call := range map[string]func(context.Context, *hwmap.Map) error{
		"begin":      func(ctx context.Context, m *hwmap.Map) error { return begin("waits", 2)(ctx, m) },
		"switchover": func(ctx context.Context, m *hwmap.Map) error { return switchover("waits")(ctx, m) },
		"abort":      func(ctx context.Context, m *hwmap.Map) error { return abort("waits")(ctx, m) },
	} {
		began := time.Now()
		err := call(ctx, one.Map)
		if !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), "etcd "+server.Endpoint()) {
			t.Errorf("%s without the store: %v; want an error that names it", what, err)
		}
		if took := time.Since(began); took >= callTimeout {
			t.Errorf("%s without the store failed after %v: it waited for an answer", what, took)
		}
	}
	s := one.Status()
	if s.Following || s.Revision == 0 || s.StoreErr == nil || time.Since(s.StaleSince) > deadline || time.Since(s.StaleSince) < 0 {
		t.Errorf("status does not say how stale the map is: %+v", s)
	}
	three.stop()

	must(server.Start(ctx))
	until(t, "hosts 1 and 2 follow again", func() bool { return one.Status().Following && two.Status().Following })
	move("goer", two, one)
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, Logger: zap.NewNop()})
	must(err)
	defer client.Close()
	now, err := client.Get(ctx, "x")
	must(err)
	_, err = client.Compact(ctx, now.Header.Revision)
	must(err)
	kernels[3].changed()
	three = start(3)
	until(t, "host 3 follows again", func() bool { return three.Status().Following })
	v, err := one.Machine("goer")
	must(err)
	until(t, "host 3 knows that it went home", func() bool {
		moved, _ := three.kernel.MovedEntries()
		return len(moved) == 1
	})
	if changes, want := kernels[3].changed(), []string{"moved " + v.ID.String() + " gone"}; !slices.Equal(changes, want) {
		t.Errorf("what host 3 changed: %q, want %q", changes, want)
	}
}
