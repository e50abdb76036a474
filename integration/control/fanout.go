package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/integration/bench/report"
)

// Keys of how long it takes until all know a change: the 99th percentile of changes and who waits for them, in milliseconds.
const (
	fanoutOurs = "fanout_p99_ms"
	fanoutBare = "raw_watch_p99_ms"
)

const (
	fanoutMoves = 10
	fanoutPause = 300 * time.Millisecond // between moves
)

// arrivals are when each of many watchers saw the change that is going on.
type arrivals struct {
	mu    sync.Mutex // guards all below
	want  int
	start time.Time
	took  []float64
	all   chan struct{}
}

// expect begins to wait for a change. before is called when it is about to be written.
func (a *arrivals) expect(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.want, a.start, a.all = n, time.Time{}, make(chan struct{})
}

func (a *arrivals) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.start = time.Now()
}

func (a *arrivals) arrived() {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.want == 0 || a.start.IsZero() {
		return
	}
	a.took = append(a.took, milliseconds(now.Sub(a.start)))
	if a.want--; a.want == 0 {
		close(a.all)
	}
}

// wait returns when all have seen the change.
func (a *arrivals) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	select {
	case <-a.all:
		return nil
	case <-ctx.Done():
		a.mu.Lock()
		defer a.mu.Unlock()
		return fmt.Errorf("%d have not seen it: %w", a.want, ctx.Err())
	}
}

// percentile forgets what was measured.
func (a *arrivals) percentile() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := report.Percentile(a.took, 0.99)
	a.took = nil
	return p
}

// fanout measures the time from when a switchover's transaction is sent until an agent has it in its map, for many agents
// with a connection each, beside that of as many bare watches with a connection each.
func (b *bench) fanout(ctx context.Context) (err error) {
	var c closers
	defer func() { err = errors.Join(err, c.close()) }()
	server, err := b.startStore(ctx, &c)
	if err != nil {
		return err
	}
	var ours, theirs arrivals
	agents, err := b.startAgents(ctx, server, &ours, &c)
	if err != nil {
		return err
	}
	write, err := b.startWatches(ctx, server, &theirs, &c)
	if err != nil {
		return err
	}
	round := 0
	return b.interleave(ctx, []turn{
		{fanoutOurs, func(ctx context.Context) (float64, error) {
			round++
			return b.moveSlowly(ctx, agents, &ours, round)
		}},
		{fanoutBare, func(ctx context.Context) (float64, error) {
			for i := range fanoutMoves {
				theirs.expect(b.agents)
				theirs.begin()
				if err := write(ctx, i); err != nil {
					return 0, err
				}
				if err := theirs.wait(ctx); err != nil {
					return 0, err
				}
				time.Sleep(fanoutPause)
			}
			return theirs.percentile(), nil
		}},
	})
}

// moveSlowly moves machines from the first agent's host to the second's, one at a time.
func (b *bench) moveSlowly(ctx context.Context, agents []*agent, a *arrivals, round int) (float64, error) {
	from, to := agents[0], agents[1]
	var names []string
	for i := range fanoutMoves {
		name := fmt.Sprintf("machine-%d-%d", round, i)
		if _, err := from.Create(ctx, name, network); err != nil {
			return 0, err
		}
		if _, err := from.Begin(ctx, name, to.Self.ID); err != nil {
			return 0, err
		}
		if _, err := to.Attach(ctx, name, hwmap.PortSpec{Existing: "port"}); err != nil {
			return 0, err
		}
		names = append(names, name)
	}
	time.Sleep(b.pause) // what all publish about that is over
	for _, name := range names {
		a.expect(b.agents - 1) // the target has no such entry
		from.kernel.flipped = a.begin
		if outcome, _, err := from.Switchover(ctx, name); err != nil || outcome != hwmap.Committed {
			return 0, fmt.Errorf("switchover of %s: %s, %w", name, outcome, err)
		}
		if err := a.wait(ctx); err != nil {
			return 0, err
		}
		time.Sleep(fanoutPause)
	}
	time.Sleep(b.pause)
	return a.percentile(), nil
}

// agent is a host's map with a memory for a kernel.
type agent struct {
	*hwmap.Map
	kernel *kernel
}

func (b *bench) startAgents(ctx context.Context, server *etcdproc.Server, a *arrivals, c *closers) ([]*agent, error) {
	peers := make(fleet)
	agents := make([]*agent, b.agents)
	var mu sync.Mutex // guards peers and c
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := range agents {
		g.Go(func() error {
			mu.Lock()
			store, err := openStore(ctx, server, c)
			mu.Unlock()
			if err != nil {
				return err
			}
			id := addr.Host(i + 1)
			dir := filepath.Join(b.dir, "agents", fmt.Sprint(id))
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			truth, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "host.db")})
			if err != nil {
				return err
			}
			k := newKernel(a.arrived)
			m, err := hwmap.Open(gctx, hwmap.Options{
				Plan: addr.DefaultPlan, Cell: cell, Cluster: cluster,
				Self: hwmap.Host{ID: id, Name: fmt.Sprintf("host%d", id), Identity: fmt.Sprintf("identity-%d", id),
					Underlay: netip.AddrFrom16([16]byte{0xfd, 14: byte(id >> 8), 15: byte(id)})},
				Truth: truth, Fleet: store, Datapath: k, Ports: ports{}, Peers: peers,
				Quarantine: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
			})
			mu.Lock()
			defer mu.Unlock()
			c.add(truth.Close)
			if err != nil {
				return err
			}
			agents[i], peers[id] = &agent{m, k}, m
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	c.add(func() error {
		cancel()
		wg.Wait()
		return nil
	})
	for _, x := range agents {
		wg.Go(func() { _ = x.Run(running) }) // it returns ctx's error
	}
	for _, x := range agents {
		if err := until(ctx, func() bool { return len(x.Hosts()) == b.agents }); err != nil {
			return nil, fmt.Errorf("agents do not know all hosts: %w", err)
		}
	}
	return agents, nil
}

// startWatches has as many watch a key of their own, and returns what writes to it.
func (b *bench) startWatches(ctx context.Context, server *etcdproc.Server, a *arrivals, c *closers) (func(context.Context, int) error, error) {
	watching, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var clients []*clientv3.Client
	c.add(func() error {
		cancel()
		wg.Wait()
		var errs []error
		for _, client := range clients {
			errs = append(errs, client.Close())
		}
		return errors.Join(errs...)
	})
	for range b.agents {
		client, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}})
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
		events := client.Watch(watching, "bare/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
		if created, ok := <-events; !ok || !created.Created {
			return nil, fmt.Errorf("watch: %w", created.Err())
		}
		wg.Go(func() {
			for r := range events {
				for range r.Events {
					a.arrived()
				}
			}
		})
	}
	value := `{"machine":1234,"name":"machine-1-1234","network":7,"host":2,"epoch":2}`
	return func(ctx context.Context, i int) error {
		key := fmt.Sprintf("bare/machines/%d", i)
		_, err := clients[0].Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), ">", -1), clientv3.Compare(clientv3.ModRevision("bare"), "=", 0)).
			Then(clientv3.OpPut(key, value)).Commit()
		return err
	}, nil
}
