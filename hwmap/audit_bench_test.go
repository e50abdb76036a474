package hwmap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// BenchmarkLookAtAMillionMovedMachines says how long an audit takes, and for how long at most it keeps others waiting.
func BenchmarkLookAtAMillionMovedMachines(b *testing.B) {
	const machines = 1_000_000
	fleet, cache := newMemory(), newMemory()
	put := func(key string, record any) {
		text, err := json.Marshal(record)
		if err != nil {
			b.Fatal(err)
		}
		for _, s := range []*memory{fleet, cache} {
			s.records[hwmap.Key(key)] = hwmap.Entry{Key: hwmap.Key(key), Value: text, ModRevision: 1}
		}
	}
	fleet.revision, fleet.floor, cache.revision = 1, 1, 1
	for id := addr.Host(2); id <= 3; id++ {
		put(fmt.Sprintf("map/hosts/%d", id), hwmap.Host{ID: id, Name: "host", Identity: string(rune('a' + id)), State: hwmap.Joined, Underlay: netip.MustParseAddr("fd00::2")})
	}
	for block := addr.Block(0); int(block) <= machines/addr.BlockSize; block++ {
		put(fmt.Sprintf("map/blocks/%d", block), hwmap.Block{Block: block, Home: 2, Epoch: 1})
	}
	for n := addr.Machine(0); n < machines; n++ {
		put(fmt.Sprintf("map/machines/%d", n), hwmap.Machine{Machine: n, Name: fmt.Sprintf("m%d", n), Network: 7, Host: 3, Epoch: 2})
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m, err := hwmap.Open(ctx, hwmap.Options{
		Plan: addr.DefaultPlan, Cell: cell, Self: hwmap.Host{ID: 1, Name: "host1", Identity: "one"},
		Truth: newMemory(), Cache: cache, Fleet: fleet, Datapath: newKernel(1, func(nat.Machine) {}), Ports: newDevices(),
		Peers: network{&steps{}, nil}, Quarantine: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = m.Run(ctx) }() // it returns ctx's error
	for !m.Status().Following {    // to take in the listing holds the map for long, and that is no audit
		time.Sleep(10 * time.Millisecond)
	}
	var longest time.Duration
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			began := time.Now()
			m.Hosts()
			longest = max(longest, time.Since(began))
			select {
			case <-done:
				return
			case <-time.After(100 * time.Microsecond):
			}
		}
	}()
	for b.Loop() {
		found, err := hwmap.Audit{Map: m}.Look(ctx, nil)
		if err != nil {
			b.Fatal(err)
		}
		if len(found) > 0 {
			b.Fatalf("it finds %d differences, such as %+v", len(found), found[0])
		}
	}
	close(done)
	<-stopped
	b.ReportMetric(float64(longest.Microseconds()), "longest-wait-us")
}
