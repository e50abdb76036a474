package hwmap_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/nat"
)

// BenchmarkCreate is 64 callers at once who create machines, on the disk of the temporary directory.
func BenchmarkCreate(b *testing.B) {
	m := openOnDisk(b, filepath.Join(b.TempDir(), "host.db"))
	var n atomic.Int64
	b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			for {
				_, err := m.Create(b.Context(), fmt.Sprintf("machine%d", n.Add(1)), 7)
				if err == nil {
					break
				}
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

// openOnDisk starts the daemon's map of a standalone host whose truth is a file; it ends with the test.
func openOnDisk(t testing.TB, path string) *hwmap.Map {
	t.Helper()
	truth, err := bolt.Open(bolt.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	m, err := hwmap.Open(t.Context(), hwmap.Options{
		Plan: addr.DefaultPlan, Cell: cell, Self: hwmap.Host{ID: 1, Name: "host1", Identity: "identity-1"},
		Truth: truth, Fleet: truth, Datapath: newKernel(1, func(nat.Machine) {}), Ports: newDevices(),
		Quarantine: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := truth.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}
