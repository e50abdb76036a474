package hwmap_test

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/hwmap/witness"
	"ip6d/nat"
)

// deadline is how long a test in real time waits for what must happen.
const deadline = time.Minute

// realHost is a host whose databases are files.
type realHost struct {
	*hwmap.Map
	kernel *kernel
	stop   func()
}

// With the real stores, in real time: a move, a daemon that starts again from its files, and a store that goes away.
func TestAMoveOverEtcdWithTheHostsTruthInFiles(t *testing.T) {
	binary, err := etcdproc.FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	server, err := etcdproc.Start(ctx, etcdproc.Options{Binary: binary, Dir: filepath.Join(t.TempDir(), "etcd")})
	if err != nil {
		t.Fatal(err)
	}
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
	kernels, ports := make(map[addr.Host]*kernel), make(map[addr.Host]*devices)
	dir := t.TempDir()
	start := func(id addr.Host) *realHost {
		t.Helper()
		if kernels[id] == nil {
			kernels[id], ports[id] = newKernel(id, func(nat.Machine) {}), newDevices()
		}
		h := startReal(t, id, dir, etcd.Options{Endpoints: []string{server.Endpoint()}, Cluster: "test", DialTimeout: time.Second, CallTimeout: 5 * time.Second}, kernels[id], ports[id], find)
		mu.Lock()
		defer mu.Unlock()
		hosts[id] = h
		return h
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	one, two := start(1), start(2)
	v, err := one.Create(ctx, "web1", 7)
	must(err)
	must(attach("web1")(ctx, one.Map))
	until(t, "host 1 knows host 2", func() bool { return len(one.Hosts()) == 2 })
	must(begin("web1", 2)(ctx, one.Map))
	must(attach("web1")(ctx, two.Map))
	must(switchover("web1")(ctx, one.Map))
	one.stop()
	one = start(1)
	must(finish("web1")(ctx, one.Map))
	until(t, "host 1 sends to host 2", func() bool {
		moved, _ := one.kernel.MovedEntries()
		return len(moved) == 1 && moved[0].Host == 2
	})
	e, _, err := two.kernel.Machine(v.ID)
	must(err)
	if e.State != nat.Delivering || e.Epoch != 2 {
		t.Errorf("host 2 has %+v", e)
	}

	server.Stop()
	two.stop()
	two = start(2)
	if again, err := two.Machine("web1"); err != nil || again.Stable != v.Stable || again.State != hwmap.Here {
		t.Errorf("without the store host 2 has %+v, %v", again, err)
	}
	if _, err := two.Create(ctx, "web2", 7); err != nil {
		t.Errorf("without the store: %v", err)
	}
	if blocks, _ := two.kernel.Blocks(); len(blocks) != 2 {
		t.Errorf("without the store host 2 knows the blocks %v", blocks)
	}
}

// startReal starts a host. It ends with the test, or with its stop.
func startReal(t *testing.T, id addr.Host, dir string, store etcd.Options, k *kernel, ports *devices, find func(addr.Host) (*hwmap.Map, error)) *realHost {
	t.Helper()
	file := func(name string) *bolt.Store {
		s, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, string(rune('0'+id)), name)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ctx, cancel := context.WithCancel(context.Background())
	fleet, err := etcd.Open(ctx, store)
	if err != nil {
		t.Fatal(err)
	}
	truth, cache := file("host.db"), file("map.db")
	side := witness.New(filepath.Join(dir, string(rune('0'+id)), "host.db.witness"))
	m, err := hwmap.Open(ctx, hwmap.Options{
		Plan: addr.DefaultPlan, Cell: cell,
		Self: hwmap.Host{
			ID: id, Name: "host", Identity: string(rune('a' + id)),
			Underlay: netip.AddrFrom16([16]byte{0xfd, 15: byte(id)}),
		},
		Truth: truth, Cache: cache, Fleet: fleet, Datapath: k, Ports: ports,
		Witness:    side,
		Peers:      network{&steps{next: func(addr.Host, string) fault { return none }, wait: func() {}}, find},
		Quarantine: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx) // it returns ctx's error
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		<-done
		for _, s := range []interface{ Close() error }{fleet, truth, cache, side} {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(stop)
	return &realHost{Map: m, kernel: k, stop: stop}
}

// until waits for a condition.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	expired := time.After(deadline)
	for !holds() {
		select {
		case <-expired:
			t.Fatalf("%s: not within %v", what, deadline)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
