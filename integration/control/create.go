package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/disk"
	ipam "github.com/metal-stack/go-ipam"
	"go.etcd.io/bbolt"

	"ip6d/addr"
	"ip6d/nat"
)

// Keys of what is created per second.
const (
	createOurs      = "creates_per_s"
	createFsync     = "bbolt_puts_per_s"
	createBatch     = "bbolt_batched_puts_per_s"
	createHostLocal = "host_local_per_s"
	createGoIPAM1   = "go_ipam_etcd_1_caller_per_s"
	createGoIPAM    = "go_ipam_etcd_64_callers_per_s"
)

// create measures durable creates of the Go API beside raw commits on the same disk, and beside two libraries that give
// out addresses. Each has given out the same number before.
func (b *bench) create(ctx context.Context) (err error) {
	var c closers
	defer func() { err = errors.Join(err, c.close()) }()
	h, err := openHost(ctx, hostOptions{id: 1, dir: filepath.Join(b.dir, "create"), sizes: nat.Sizes{Machines: nat.MaxMachines, Blocks: 1 << 13}})
	if err != nil {
		return err
	}
	c.add(h.close)
	h.run()
	var number atomic.Int64
	ours := func(ctx context.Context, _ int) error {
		name := fmt.Sprintf("machine-%d", number.Add(1))
		for {
			_, err := h.Create(ctx, name, network)
			if !errors.Is(err, addr.ErrExhausted) { // the next block is being leased
				return err
			}
			runtime.Gosched()
		}
	}
	if _, err := times(ctx, b.given, callers, ours); err != nil {
		return err
	}
	raw, err := bbolt.Open(filepath.Join(b.dir, "raw.db"), 0o600, nil)
	if err != nil {
		return err
	}
	c.add(raw.Close)
	put := func(tx *bbolt.Tx) error {
		bucket, err := tx.CreateBucketIfNotExists([]byte("records"))
		if err != nil {
			return err
		}
		return bucket.Put(binary.BigEndian.AppendUint64(nil, uint64(number.Add(1))), make([]byte, 100))
	}
	hostLocal, err := b.hostLocal()
	if err != nil {
		return fmt.Errorf("host-local: %w", err)
	}
	if _, err := times(ctx, b.given, 1, hostLocal.reserve); err != nil {
		return fmt.Errorf("host-local: %w", err)
	}
	goIPAM, err := b.goIPAM(ctx, &c)
	if err != nil {
		return fmt.Errorf("go-ipam: %w", err)
	}
	return b.interleave(ctx, []turn{
		{createOurs, func(ctx context.Context) (float64, error) { return b.rate(ctx, callers, ours) }},
		{createFsync, func(ctx context.Context) (float64, error) {
			return b.rate(ctx, 1, func(context.Context, int) error { return raw.Update(put) })
		}},
		{createBatch, func(ctx context.Context) (float64, error) {
			return b.rate(ctx, callers, func(context.Context, int) error { return raw.Batch(put) })
		}},
		{createHostLocal, func(ctx context.Context) (float64, error) { return b.rate(ctx, 1, hostLocal.get) }},
		{createGoIPAM1, func(ctx context.Context) (float64, error) { return b.rate(ctx, 1, goIPAM) }},
		{createGoIPAM, func(ctx context.Context) (float64, error) { return b.rate(ctx, callers, goIPAM) }},
	})
}

// hostLocal is the allocator of a CNI plugin, which keeps a file for each address. It holds a lock on its directory, so one
// caller gets as much from it as many.
type hostLocal struct {
	store     *disk.Store
	allocator *allocator.IPAllocator
	subnet    netip.Addr
	number    int
}

func (b *bench) hostLocal() (*hostLocal, error) {
	store, err := disk.New("network", filepath.Join(b.dir, "host-local"))
	if err != nil {
		return nil, err
	}
	_, subnet, err := net.ParseCIDR("fd00:1::/64")
	if err != nil {
		return nil, err
	}
	set := allocator.RangeSet{{Subnet: types.IPNet(*subnet)}}
	if err := set.Canonicalize(); err != nil {
		return nil, err
	}
	return &hostLocal{store: store, allocator: allocator.NewIPAllocator(&set, store, 0), subnet: netip.MustParseAddr("fd00:1::")}, nil
}

// reserve gives out an address as Get does, without reading all that were given out before.
func (h *hostLocal) reserve(context.Context, int) error {
	h.number++
	a := h.subnet.As16()
	binary.BigEndian.PutUint64(a[8:], uint64(h.number+1)) // the first is the gateway's
	_, err := h.store.Reserve(fmt.Sprintf("container-%d", h.number), "eth0", a[:], "0")
	return err
}

func (h *hostLocal) get(context.Context, int) error {
	h.number++
	_, err := h.allocator.Get(fmt.Sprintf("container-%d", h.number), "eth0", nil)
	return err
}

// goIPAM starts an etcd, and returns what takes an address from go-ipam on it.
func (b *bench) goIPAM(ctx context.Context, c *closers) (func(context.Context, int) error, error) {
	server, err := b.startStore(ctx, c)
	if err != nil {
		return nil, err
	}
	at, err := netip.ParseAddrPort(server.Endpoint()[len("http://"):])
	if err != nil {
		return nil, err
	}
	storage, err := ipam.NewEtcd(ctx, at.Addr().String(), fmt.Sprint(at.Port()), nil, nil, false)
	if err != nil {
		return nil, err
	}
	i := ipam.NewWithStorage(storage)
	p, err := i.NewPrefix(ctx, "fd00:2::/64")
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ int) error {
		for {
			_, err := i.AcquireIP(ctx, p.Cidr)
			if !errors.Is(err, ipam.ErrOptimisticLockError) { // another caller was faster, ten times
				return err
			}
		}
	}, nil
}
