package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"ip6d/addr"
	"ip6d/host/netns"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/hwmap/witness"
	"ip6d/integration/bench/bpffs"
	"ip6d/nat"
)

const (
	cell    addr.Cell    = 1
	network addr.Network = 7
)

// closers is what is to be closed, the last first.
type closers []func() error

func (c *closers) add(f func() error) { *c = append(*c, f) }

func (c *closers) close() error {
	var errs []error
	for i := len(*c) - 1; i >= 0; i-- {
		errs = append(errs, (*c)[i]())
	}
	*c = nil
	return errors.Join(errs...)
}

// host is a host with its files, its maps in the kernel and its datapath in a namespace of its own. Machines get no devices:
// nothing here looks at packets.
type host struct {
	*hwmap.Map
	datapath *nat.Datapath
	cache    *bolt.Store
	pins     *bpffs.FS
	took     time.Duration // to open its hardware map
	closers
}

// hostOptions say what a host is like.
type hostOptions struct {
	id    addr.Host
	dir   string
	sizes nat.Sizes
	store *etcd.Store // nil: standalone
	peers hwmap.Peers
	// Instead of these: another store, and a cache that is open already.
	fleet  hwmap.Store
	opened *bolt.Store
}

// openHost opens a host, without having it run.
func openHost(ctx context.Context, o hostOptions) (_ *host, err error) {
	h := &host{}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	if h.datapath, h.pins, err = openDatapath(o.id, o.sizes, &h.closers); err != nil {
		return nil, err
	}
	truth, err := h.file(filepath.Join(o.dir, "host.db"))
	if err != nil {
		return nil, err
	}
	side := witness.New(filepath.Join(o.dir, "host.db.witness"))
	h.add(side.Close)
	options := hwmap.Options{
		Plan: addr.DefaultPlan, Cell: cell, Cluster: cluster,
		Self: hwmap.Host{
			ID: o.id, Name: fmt.Sprintf("host%d", o.id), Identity: fmt.Sprintf("identity-%d", o.id),
			Underlay: netip.AddrFrom16([16]byte{0xfd, 14: byte(o.id >> 8), 15: byte(o.id)}),
		},
		Truth: truth, Fleet: truth, Witness: side, Datapath: portless{h.datapath}, Ports: ports{}, Peers: o.peers,
		Quarantine: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	}
	if o.store != nil {
		options.Fleet = o.store
	}
	if o.fleet != nil {
		options.Fleet = o.fleet
	}
	if options.Fleet != options.Truth {
		if h.cache = o.opened; h.cache == nil {
			if h.cache, err = h.file(filepath.Join(o.dir, "map.db")); err != nil {
				return nil, err
			}
		}
		options.Cache = h.cache
	}
	start := time.Now()
	h.Map, err = hwmap.Open(ctx, options)
	h.took = time.Since(start)
	return h, err
}

// run has the host do by itself what it does, until it is closed.
func (h *host) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Run(ctx) // it returns ctx's error
	}()
	h.add(func() error {
		cancel()
		<-done
		return nil
	})
}

func (h *host) file(path string) (*bolt.Store, error) {
	s, err := bolt.Open(bolt.Options{Path: path})
	if err == nil {
		h.add(s.Close)
	}
	return s, err
}

// openDatapath opens a host's datapath in a namespace of its own.
func openDatapath(id addr.Host, sizes nat.Sizes, c *closers) (d *nat.Datapath, pins *bpffs.FS, err error) {
	ns, err := netns.New()
	if err != nil {
		return nil, nil, err
	}
	c.add(ns.Close)
	if pins, err = bpffs.New(); err != nil {
		return nil, nil, err
	}
	c.add(pins.Close)
	err = ns.Do(func() error {
		d, err = nat.Open(nat.Options{Plan: addr.DefaultPlan, Cell: cell, Host: id, PinDir: pins.Dir("host"), Sizes: sizes, Logger: slog.New(slog.DiscardHandler)})
		return err
	})
	if err == nil {
		c.add(d.Remove)
	}
	return d, pins, err
}

// portless is a datapath whose maps are the kernel's, and whose programs are attached to nothing.
type portless struct{ *nat.Datapath }

func (portless) AttachPort(int, addr.Stable) error { return nil }
func (portless) DetachPort(int) error              { return nil }
func (portless) AwaitPacket(int, bool) error       { return nil }

// ports are devices that are not there.
type ports struct{}

func (ports) Device(addr.Stable, hwmap.PortSpec) string { return "port" }

func (ports) Attach(_ addr.Stable, spec hwmap.PortSpec) (hwmap.LocalPort, nat.Port, error) {
	return hwmap.LocalPort{PortSpec: spec, Device: "port", MAC: portOfNone.MAC.String(), MTU: 1500}, portOfNone, nil
}

func (ports) Find(addr.Stable, hwmap.LocalPort) (nat.Port, error) { return portOfNone, nil }
func (ports) Detach(addr.Stable, hwmap.LocalPort) error           { return nil }
func (ports) SetHosts([]hwmap.Host) error                         { return nil }

var portOfNone = nat.Port{Ifindex: 1, Enter: nat.EnterPeer, MAC: nat.GatewayMAC()}

const cluster = "bench"

// startStore starts an etcd member whose data is durable on the run's disk.
func (b *bench) startStore(ctx context.Context, c *closers) (*etcdproc.Server, error) {
	dir, err := os.MkdirTemp(b.dir, "etcd-")
	if err != nil {
		return nil, err
	}
	server, err := etcdproc.Start(ctx, etcdproc.Options{Binary: filepath.Join(b.bin, "etcd"), Dir: dir, Durable: true})
	if err == nil {
		c.add(func() error { server.Stop(); return nil })
	}
	return server, err
}

// openStore opens a store of that server.
func openStore(ctx context.Context, server *etcdproc.Server, c *closers) (*etcd.Store, error) {
	s, err := etcd.Open(ctx, etcd.Options{Endpoints: []string{server.Endpoint()}, Cluster: cluster})
	if err == nil {
		c.add(s.Close)
	}
	return s, err
}
