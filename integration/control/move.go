package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/nat"
)

// Keys of moves.
const (
	moveOurs     = "switchovers_per_s"
	moveBare     = "transactions_per_s"
	bytesUnmoved = "bytes_per_unmoved"
)

// fleet is hosts that ask each other by a call of a function.
type fleet map[addr.Host]*hwmap.Map

func (f fleet) of(h hwmap.Host) (*hwmap.Map, error) {
	if m, ok := f[h.ID]; ok {
		return m, nil
	}
	return nil, hwmap.ErrUnavailable
}

func (f fleet) Accept(ctx context.Context, target hwmap.Host, m addr.Machine) error {
	t, err := f.of(target)
	if err != nil {
		return err
	}
	return t.Accept(ctx, m)
}

func (f fleet) Check(ctx context.Context, h hwmap.Host, m addr.Machine) (hwmap.PeerView, error) {
	t, err := f.of(h)
	if err != nil {
		return hwmap.PeerView{}, err
	}
	return t.Check(ctx, m)
}

func (f fleet) Reread(_ context.Context, h hwmap.Host, m addr.Machine) error {
	t, err := f.of(h)
	if err != nil {
		return err
	}
	t.Reread(m)
	return nil
}

func (f fleet) Activate(ctx context.Context, source hwmap.Host, m addr.Machine) error {
	s, err := f.of(source)
	if err != nil {
		return err
	}
	return s.Activate(ctx, m)
}

// move measures switchovers from one host to another on one etcd member, beside bare transactions that compare and write as
// much. What a host knows of machines that never moved is looked at on the way.
func (b *bench) move(ctx context.Context) (err error) {
	var c closers
	defer func() { err = errors.Join(err, c.close()) }()
	server, err := b.startStore(ctx, &c)
	if err != nil {
		return err
	}
	hosts, peers := make(map[addr.Host]*host), make(fleet)
	for id := addr.Host(1); id <= 2; id++ {
		store, err := openStore(ctx, server, &c)
		if err != nil {
			return err
		}
		h, err := openHost(ctx, hostOptions{
			id: id, dir: filepath.Join(b.dir, fmt.Sprint("move-", id)), sizes: nat.Sizes{Machines: nat.MaxMachines}, store: store, peers: peers,
		})
		if err != nil {
			return err
		}
		c.add(h.close)
		hosts[id], peers[id] = h, h.Map
	}
	for _, h := range hosts {
		h.run()
	}
	store, err := openStore(ctx, server, &c)
	if err != nil {
		return err
	}
	if err := until(ctx, func() bool { return len(hosts[1].Hosts()) == 2 && len(hosts[2].Hosts()) == 2 }); err != nil {
		return err
	}
	if err := b.unmoved(ctx, hosts[1], hosts[2]); err != nil {
		return err
	}
	bare, err := b.bareMoves(ctx, store)
	if err != nil {
		return err
	}
	round := 0
	return b.interleave(ctx, []turn{
		{moveOurs, func(ctx context.Context) (float64, error) {
			round++
			return b.moveAll(ctx, hosts[1], hosts[2], round)
		}},
		{moveBare, func(ctx context.Context) (float64, error) { return times(ctx, b.moves, callers, bare) }},
	})
}

// moveAll moves machines, of which only the switchovers are timed.
func (b *bench) moveAll(ctx context.Context, from, to *host, round int) (float64, error) {
	name := func(i int) string { return fmt.Sprintf("machine-%d-%d", round, i) }
	if _, err := times(ctx, b.moves, 16, func(ctx context.Context, i int) error {
		for {
			_, err := from.Create(ctx, name(i), network)
			if err == nil {
				break
			}
			if !errors.Is(err, addr.ErrExhausted) { // the next block is being leased
				return err
			}
			time.Sleep(time.Millisecond)
		}
		if _, err := from.Begin(ctx, name(i), to.Self.ID); err != nil {
			return err
		}
		_, err := to.Attach(ctx, name(i), hwmap.PortSpec{Existing: "port"})
		return err
	}); err != nil {
		return 0, err
	}
	perSecond, err := times(ctx, b.moves, callers, func(ctx context.Context, i int) error {
		outcome, _, err := from.Switchover(ctx, name(i))
		if err == nil && outcome != hwmap.Committed {
			err = fmt.Errorf("switchover of %s: %s", name(i), outcome)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	for i := range b.moves {
		if err := until(ctx, func() bool {
			v, err := to.Machine(name(i))
			return err == nil && v.State == hwmap.Here
		}); err != nil {
			return 0, fmt.Errorf("%s does not arrive: %w", name(i), err)
		}
	}
	return perSecond, nil
}

// bareMoves returns transactions that change a record of their own as a switchover does: while that, and another one, are
// as they were.
func (b *bench) bareMoves(ctx context.Context, store *etcd.Store) (func(context.Context, int) error, error) {
	const other = hwmap.Key("bare/host")
	value := []byte(`{"machine":1234,"name":"machine-1-1234","network":7,"host":2,"epoch":2}`)
	at, err := store.Commit(ctx, hwmap.Txn{Then: []hwmap.Write{{Key: other, Value: value}}})
	if err != nil {
		return nil, err
	}
	revisions := make([]hwmap.Revision, b.moves)
	return func(ctx context.Context, i int) (err error) {
		key := hwmap.Key(fmt.Sprintf("bare/machines/%d", i))
		revisions[i], err = store.Commit(ctx, hwmap.Txn{
			If:   []hwmap.Condition{{Key: key, ModRevision: revisions[i]}, {Key: other, ModRevision: at}},
			Then: []hwmap.Write{{Key: key, Value: value}},
		})
		return err
	}, nil
}

// unmoved measures what another host and the store keep of a machine that never moved: nothing may be added for it.
func (b *bench) unmoved(ctx context.Context, here, other *host) error {
	kept := func() (n int, err error) {
		for _, s := range []hwmap.Store{other.cache, here.Fleet} {
			entries, _, err := s.List(ctx, "map/machines/")
			if err != nil {
				return 0, err
			}
			for _, e := range entries {
				n += len(e.Key) + len(e.Value)
			}
		}
		moved, movedErr := other.datapath.MovedEntries()
		machines, machinesErr := other.datapath.Machines()
		views, viewsErr := other.Machines()
		const entry = 16 // at least
		return n + entry*(len(moved)+len(machines)+len(views)), errors.Join(movedErr, machinesErr, viewsErr)
	}
	before, err := kept()
	if err != nil {
		return err
	}
	const machines = 1024
	if _, err := times(ctx, machines, callers, func(ctx context.Context, i int) error {
		for {
			_, err := here.Create(ctx, fmt.Sprintf("unmoved-%d", i), network)
			if !errors.Is(err, addr.ErrExhausted) {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}); err != nil {
		return err
	}
	after, err := kept()
	if err != nil {
		return err
	}
	b.add(bytesUnmoved, float64(after-before)/machines)
	return nil
}

// until waits for a condition, and looks less often the longer it takes: a thousand agents may need some time, and all of
// the computer's.
func until(ctx context.Context, holds func() bool) error {
	deadline := time.Now().Add(3 * time.Minute)
	for pause := time.Millisecond; !holds(); pause = min(2*pause, 200*time.Millisecond) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return errors.New("not within three minutes")
		}
		time.Sleep(pause)
	}
	return nil
}
