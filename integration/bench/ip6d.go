package main

import (
	"errors"
	"fmt"
	"time"

	"ip6d/addr"
	"ip6d/integration/bench/bpffs"
	"ip6d/nat"
)

// pins is where the programs and maps of all hosts are pinned.
type pins struct{ *bpffs.FS }

func newPins() (*pins, error) {
	f, err := bpffs.New()
	return &pins{f}, err
}

// ip6d makes the hosts of a line carry by this project's datapath, set up as package host would do it.
func (p *pins) ip6d(sizes nat.Sizes, also func(*path, *host, *nat.Datapath) error) func(*path, *host) error {
	return func(path *path, h *host) error {
		d, err := p.open(path, h, sizes)
		if err != nil {
			return err
		}
		underlay, err := h.device("underlay")
		if err != nil {
			return err
		}
		hop := nat.NextHop{
			Host: h.other, Ifindex: underlay.Index, Kind: nat.HopNeighbour,
			Gateway: underlayAddress(h.other), Source: underlay.HardwareAddr, Trusted: time.Hour,
		}
		peer, err := path.hosts[h.other-1].device("underlay")
		if err != nil {
			return err
		}
		hop.MAC = peer.HardwareAddr
		m := path.sender
		if h.id != 1 {
			m = path.receiver
		}
		err = errors.Join(
			h.ip(h.words("route add PEER_PREFIX via PEER dev underlay")),
			h.do("attach", func() error { return d.AttachUnderlay(underlay.Index) }),
			h.attach(d, m),
			d.PutHost(hop),
			d.PutBlock(nat.Block{Cell: cell, Block: senderNumber.Block(), Home: 1}),
			d.PutBlock(nat.Block{Cell: cell, Block: receiverNumber.Block(), Home: 2}),
		)
		if err != nil || also == nil {
			return err
		}
		return also(path, h, d)
	}
}

// sharedIP6D makes one host carry between both machines.
func (p *pins) sharedIP6D(path *path, h *host) error {
	d, err := p.open(path, h, nat.Sizes{})
	if err != nil {
		return err
	}
	return errors.Join(h.attach(d, path.sender), h.attach(d, path.receiver))
}

// open opens a host's datapath, which is gone with the path.
func (p *pins) open(path *path, h *host, sizes nat.Sizes) (d *nat.Datapath, err error) {
	err = h.do("open the datapath", func() error {
		d, err = nat.Open(nat.Options{Plan: plan, Cell: cell, Host: h.id, PinDir: p.Dir(h.pins()), Sizes: sizes})
		return err
	})
	if err != nil {
		return nil, err
	}
	path.closers = append(path.closers, d.Remove)
	return d, nil
}

// pins is the name of the host's pin directory: there may be two paths at a time, with hosts of the same number.
func (h *host) pins() string { return fmt.Sprintf("%d", h.ns.FD()) }

// attach makes a machine one that is here.
func (h *host) attach(d *nat.Datapath, m *machine) error {
	port, err := h.device(portName(m.Stable))
	if err != nil {
		return err
	}
	eth0, err := m.device("eth0")
	if err != nil {
		return err
	}
	return errors.Join(
		h.do("attach", func() error { return d.AttachPort(port.Index, m.Stable) }),
		d.PutMachine(here(m.Stable, nat.Port{Ifindex: port.Index, Enter: nat.EnterPeer, MAC: eth0.HardwareAddr})),
	)
}

// here is the entry of a machine that has its port here.
func here(s addr.Stable, port nat.Port) nat.Machine {
	return nat.Machine{ID: s.ID(), Network: s.Network(), Epoch: 1, State: nat.Delivering, Port: port}
}
