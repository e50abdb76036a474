package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/vishvananda/netlink"

	"ip6d/addr"
	"ip6d/config"
	"ip6d/host"
	"ip6d/hwmap"
	"ip6d/nat"
)

// kernelSide is this host's network: the agent that keeps its devices and routes, and the datapath on them. Each tells
// the other what it needs to know.
type kernelSide struct {
	config   config.Config
	log      *slog.Logger
	agent    *host.Agent
	datapath *nat.Datapath
	isFirst  bool // neither the datapath nor ip6d0 was there before

	wireGuard *host.WireGuard // nil: the underlay is a device that is there

	lost     sync.WaitGroup  // losses that are being taken in
	portLost func(host.Port) // by the hardware map
}

// openAgent looks at this host's network, and changes nothing yet.
func (d *daemon) openAgent() error {
	k := &d.kernel
	k.config, k.log = d.config, d.log
	c := d.config
	endpoint, err := c.Plan.Endpoint(c.Cell, c.Host)
	if err != nil {
		return err
	}
	if c.UnderlayEndpoint.IsValid() {
		if k.wireGuard, err = openWireGuard(c); err != nil {
			return err
		}
	}
	k.agent, err = host.New(host.Options{
		Plan: c.Plan, Host: c.Host, Endpoint: endpoint, Underlay: c.UnderlayDevice, WireGuard: k.wireGuard, Logger: d.log,
		OnUnderlay: k.takeUnderlay,
		OnStack:    func(s host.Stack) error { return k.datapath.AttachStack(s.Peer) },
		OnPort:     func(p host.Port, s addr.Stable) error { return k.datapath.AttachPort(p.Ifindex, s) },
		OnPortGone: func(p host.Port) { k.portLost(p) },
	})
	if err != nil {
		return err
	}
	d.opened(k.agent.Close)
	return nil
}

// openDatapath makes ip6d0 and loads the datapath, or takes both over from an earlier daemon while packets flow.
func (d *daemon) openDatapath() error {
	k, c := &d.kernel, d.config
	_, dirErr := os.Stat(c.BPFDir)
	_, stackErr := netlink.LinkByName(host.StackDevice) // which an earlier daemon's datapath has, whatever its bpf_dir was
	k.isFirst = errors.Is(dirErr, fs.ErrNotExist) && errors.As(stackErr, new(netlink.LinkNotFoundError))
	stack, err := k.agent.Prepare()
	if err != nil {
		return err
	}
	k.datapath, err = nat.Open(nat.Options{
		Plan: c.Plan, Cell: c.Cell, Host: c.Host, PinDir: c.BPFDir, Stack: stack.Ifindex,
		VerifyMAC: c.VerifyMAC, Sizes: c.Sizes, Logger: d.log,
	})
	if err != nil {
		return err
	}
	d.opened(k.datapath.Close)
	k.agent.SetNextHops(k.datapath)
	if c.UnderlayDevice == "" {
		return k.takeUnderlay(0)
	}
	return nil
}

// undo removes what a first start made that then failed. A later one leaves all as it was: packets flow through it.
func (k *kernelSide) undo() error {
	if !k.isFirst {
		return nil
	}
	if k.datapath != nil {
		// The truth may have brought ports back, which need their programs.
		machines, err := k.datapath.Machines()
		if err != nil || len(machines) > 0 {
			return err
		}
		if err := nat.Remove(k.config.BPFDir); err != nil {
			return err
		}
	}
	return errors.Join(k.agent.RemoveStack(), k.agent.RemoveWireGuard())
}

// takeUnderlay attaches the datapath to the underlay's device, and to no other: an earlier daemon may have had another.
// 0: there is none.
func (k *kernelSide) takeUnderlay(ifindex int) error {
	if ifindex != 0 {
		if err := k.datapath.AttachUnderlay(ifindex); err != nil {
			return err
		}
	}
	all, err := k.datapath.Attachments()
	if err != nil {
		return err
	}
	for _, a := range all {
		if a.IsUnderlay() && a.Ifindex != ifindex {
			k.log.Info("device is the underlay no more", "ifindex", a.Ifindex)
			err = errors.Join(err, k.datapath.DetachUnderlay(a.Ifindex))
		}
	}
	return err
}

// takeLosses has m told of ports whose device is gone, until ctx ends. The agent is not kept waiting for it: what m is
// doing with the machine may wait for the agent.
func (k *kernelSide) takeLosses(ctx context.Context, m *hwmap.Map) {
	k.portLost = func(p host.Port) {
		k.lost.Go(func() {
			if err := m.PortLost(ctx, p.Address.Machine(), p.Ifindex); err != nil && ctx.Err() == nil {
				k.log.Error("loss of a port not taken in", "device", p.Name, "machine", p.Address, "error", err)
			}
		})
	}
}
