package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/cilium/ebpf"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/nat"
)

// Keys of a boot with a million moved machines.
const (
	bootTime   = "boot_1m_ms"
	openTime   = "open_cache_ms"
	lookupTime = "lookup_ns"
	bytesMoved = "bytes_per_moved"
)

// bootBlocks is room for as many machines as bytes_per_moved is of.
const bootBlocks = 1 << 20 / addr.BlockSize

// boot measures how long it takes until the kernel has what the cache has, on a host that boots while the store is away, and
// then what that host's memory and kernel are like.
func (b *bench) boot(ctx context.Context) error {
	dir := filepath.Join(b.dir, "boot")
	if err := b.fillCache(ctx, filepath.Join(dir, "map.db")); err != nil {
		return fmt.Errorf("fill the cache: %w", err)
	}
	for round := range b.rounds {
		if err := b.bootOnce(ctx, dir, round); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) bootOnce(ctx context.Context, dir string, round int) (err error) {
	runtime.GC() // what was before is not this one's
	var c closers
	defer func() { err = errors.Join(err, c.close()) }()
	truth := filepath.Join(dir, fmt.Sprint(round))
	if err := os.MkdirAll(truth, 0o700); err != nil {
		return err
	}
	start := time.Now()
	cache, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "map.db")})
	if err != nil {
		return err
	}
	b.add(openTime, milliseconds(time.Since(start)))
	c.add(cache.Close)
	h, err := openHost(ctx, hostOptions{id: 1, dir: truth, sizes: nat.Sizes{Blocks: bootBlocks}, fleet: away{}, opened: cache})
	if err != nil {
		return err
	}
	c.add(h.close)
	entries, err := h.datapath.MovedEntries()
	if err != nil {
		return err
	}
	if len(entries) != b.moved {
		return fmt.Errorf("the kernel has %d moved entries, not %d", len(entries), b.moved)
	}
	b.add(bootTime, milliseconds(h.took))
	if err := b.lookup(h); err != nil {
		return err
	}
	return b.memory(h)
}

// lookup resolves machines in any order.
func (b *bench) lookup(h *host) error {
	ids := make([]addr.ID, 1<<20)
	for i := range ids {
		ids[i] = addr.ID{Cell: cell, Machine: addr.Machine(rand.IntN(b.moved))}
	}
	start := time.Now()
	for _, id := range ids {
		if at, ok := h.HostOf(id); !ok || at != hostOf(id.Machine) {
			return fmt.Errorf("machine %s is said to be on host %d, %v", id, at, ok)
		}
	}
	b.add(lookupTime, float64(time.Since(start).Nanoseconds())/float64(len(ids)))
	return nil
}

// memory is what the kernel takes for the maps that have an entry for each moved machine, in parts of what they have room for.
func (b *bench) memory(h *host) error {
	total := uint64(0)
	for _, name := range []string{"moved", "epochs"} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(h.pins.Dir("host"), "maps", name), nil)
		if err != nil {
			return err
		}
		info, err := m.Info()
		if err = errors.Join(err, m.Close()); err != nil {
			return err
		}
		memlock, known := info.Memlock()
		if !known {
			return fmt.Errorf("the kernel does not tell what map %s takes", name)
		}
		total += memlock
	}
	b.add(bytesMoved, float64(total)/(bootBlocks*addr.BlockSize))
	return nil
}

// hostOf is the host that a moved machine is on. Host 1 is the one that boots.
func hostOf(m addr.Machine) addr.Host { return addr.Host(2 + m%bootHosts) }

const (
	bootHosts = 1000          // that have moved machines
	bootHome  = bootHosts + 2 // of all but one block, which is the booting host's
)

// fillCache writes the map of a fleet whose machines have all moved.
func (b *bench) fillCache(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	s, err := bolt.Open(bolt.Options{Path: path})
	if err != nil {
		return err
	}
	defer s.Close()
	var t hwmap.Txn
	put := func(key string, record any) error {
		value, err := json.Marshal(record)
		t.Then = append(t.Then, hwmap.Write{Key: hwmap.Key(key), Value: value})
		if err == nil && len(t.Then) == 50_000 {
			_, err = s.Commit(ctx, t)
			t.Then = t.Then[:0]
		}
		return err
	}
	for i := range addr.Host(bootHome) {
		h := hwmap.Host{ID: i + 1, Name: fmt.Sprintf("host%d", i+1), Identity: fmt.Sprintf("identity-%d", i+1), State: hwmap.Joined,
			Underlay: netip.AddrFrom16([16]byte{0xfd, 14: byte((i + 1) >> 8), 15: byte(i + 1)})}
		if err := put(fmt.Sprintf("map/hosts/%d", h.ID), h); err != nil {
			return err
		}
	}
	for i := range addr.Block(bootBlocks) {
		record := hwmap.Block{Block: i, Home: bootHome, Epoch: 1}
		if i == bootBlocks-1 {
			record.Home = 1
		}
		if err := put(fmt.Sprintf("map/blocks/%d", i), record); err != nil {
			return err
		}
	}
	for i := range addr.Machine(b.moved) {
		at := hostOf(i)
		record := hwmap.Machine{Machine: i, Name: fmt.Sprintf("machine-%d", i), Network: network, Host: at, Epoch: 2}
		if err := put(fmt.Sprintf("map/machines/%d", i), record); err != nil {
			return err
		}
	}
	_, err = s.Commit(ctx, t)
	return err
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// away is a store that cannot be reached.
type away struct{}

func (away) Get(context.Context, ...hwmap.Key) ([]hwmap.Entry, error) {
	return nil, hwmap.ErrUnavailable
}
func (away) List(context.Context, hwmap.Key) ([]hwmap.Entry, hwmap.Revision, error) {
	return nil, 0, hwmap.ErrUnavailable
}
func (away) Commit(context.Context, hwmap.Txn) (hwmap.Revision, error) {
	return 0, hwmap.ErrUnavailable
}
func (away) Watch(context.Context, hwmap.Key, hwmap.Revision, func(hwmap.Batch) error) error {
	return hwmap.ErrUnavailable
}
func (away) Hold(context.Context, hwmap.Key, []byte, time.Duration) error {
	return hwmap.ErrUnavailable
}
func (away) ID(context.Context) (string, error) { return "", hwmap.ErrUnavailable }
func (away) Close() error                       { return nil }
