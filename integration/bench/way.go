package main

import (
	"errors"
	"fmt"
	"net/netip"

	"ip6d/addr"
	"ip6d/nat"
)

// way is something that carries packets between two machines, to be measured.
type way struct {
	name  string // in JSON
	title string // for people
	build func(*path) error
	wire  string       // see path.check
	to    []netip.Addr // where a flood goes; nil: to the receiver's own address
}

// The names that the ratios refer to.
const (
	wayStraight     = "straight"
	wayPlain        = "plain"
	wayIP6D         = "ip6d"
	wayNftStateless = "nft_stateless"
	wayNftNAT       = "nft_nat"
	wayNPT          = "npt"
	wayVXLAN        = "vxlan"
	waySRv6         = "srv6"
	waySharedPlain  = "same_host_plain"
	waySharedIP6D   = "same_host_ip6d"
	wayEmpty        = "moved_empty"
	wayMoved        = "moved_full"
)

// ways are those that are made anew for each round: some turn on code in the kernel that the others would pass, too.
func (p *pins) ways() []way {
	const translated = "MACHINE_ROUTING/128 REMOTE_ROUTING/128"
	return []way{
		{name: wayStraight, title: "straight veth", build: straight},
		{name: wayPlain, title: "plain forwarding", build: line(plain), wire: "MACHINE/128 REMOTE/128"},
		{name: wayIP6D, title: "ip6d", build: line(p.ip6d(nat.Sizes{}, nil)), wire: translated},
		{name: wayNftStateless, title: "nft, stateless", build: line(nftStateless), wire: translated},
		{name: wayNftNAT, title: "nft NAT", build: line(nftNAT), wire: translated},
		{name: wayNPT, title: "ip6tables NPT", build: line(npt), wire: "OWN_NETWORK/64 PEER_NETWORK/64"},
		{name: wayVXLAN, title: "VXLAN", build: line(vxlan), wire: "HOST/128 PEER/128"},
		{name: waySRv6, title: "SRv6", build: line(srv6), wire: "HOST/128 PEER_SEGMENT/128"},
		{name: waySharedPlain, title: "same host, plain", build: shared(nothing)},
		{name: waySharedIP6D, title: "same host, ip6d", build: shared(p.sharedIP6D)},
	}
}

// moved are ip6d without and with so many movers, which are made once: filling the map takes a while. Of the movers, so
// many are where the flood goes.
func (p *pins) moved(movers, destinations int) []way {
	c := newCrowd(movers, destinations)
	return []way{
		{name: wayEmpty, title: "ip6d, none moved", build: c.line(p, false), to: c.to},
		{name: wayMoved, title: fmt.Sprintf("ip6d, %d moved", movers), build: c.line(p, true), to: c.to},
	}
}

// nothing is all that plain forwarding needs on a host that has both machines.
func nothing(*path, *host) error { return nil }

// crowd is many machines. Some of them are where the flood goes.
type crowd struct {
	first  addr.Machine
	size   int
	every  int // one of so many gets packets
	to     []netip.Addr
	stable []addr.Stable // those of to
}

// The first of the crowd, and the host that they have left: nobody knows a way to it.
const (
	crowdFirst = addr.Machine(0x100000)
	crowdBits  = 92 // the prefix of the addresses of 0x100000 machines
	deserted   = addr.Host(3)
)

func newCrowd(size, destinations int) *crowd {
	c := &crowd{first: crowdFirst, size: size, every: size / destinations}
	for i := range destinations {
		s, err := plan.Stable(network, cell, c.first+addr.Machine(i*c.every))
		if err != nil {
			panic(err) // the numbers are constants of the bench
		}
		c.stable = append(c.stable, s)
		c.to = append(c.to, s.Addr())
	}
	return c
}

// line is ip6d with the crowd's destinations on host 2. Either they are at home there, and nobody has moved, or
// all of the crowd have moved there.
func (c *crowd) line(p *pins, moved bool) func(*path) error {
	sizes := nat.Sizes{Machines: len(c.to) + 2}
	build := line(p.ip6d(sizes, func(path *path, h *host, d *nat.Datapath) error {
		if h.id == 2 {
			return c.arrive(path, d)
		}
		home := addr.Host(2)
		if moved {
			home = deserted
		}
		for b := c.first.Block(); b <= (c.first + addr.Machine(c.size-1)).Block(); b++ {
			if err := d.PutBlock(nat.Block{Cell: cell, Block: b, Home: home}); err != nil {
				return err
			}
		}
		for i := 0; moved && i < c.size; i++ {
			id := addr.ID{Cell: cell, Machine: c.first + addr.Machine(i)}
			if err := d.PutMoved(nat.Moved{ID: id, Host: 2, Epoch: 1}); err != nil {
				return err
			}
		}
		return nil
	}))
	return func(path *path) error {
		return errors.Join(
			build(path),
			// the receiver stands for all of them
			path.receiver.ip(fmt.Sprintf("route add local %s dev lo\n", netip.PrefixFrom(c.to[0], crowdBits).Masked())),
		)
	}
}

// arrive makes the destinations machines of host 2, all in the receiver's port.
func (c *crowd) arrive(path *path, d *nat.Datapath) error {
	receiver, _, err := d.Machine(path.receiver.ID())
	if err != nil {
		return err
	}
	for _, s := range c.stable {
		if err := d.PutMachine(here(s, receiver.Port)); err != nil {
			return err
		}
	}
	return nil
}
