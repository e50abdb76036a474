package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"ip6d/addr"
)

// underlayMTU leaves room for the largest header that a way puts around a machine's packets, so that the machines' MTU
// is 1500 with all of them.
const underlayMTU = 1600

// The numbers of the fleet. Machine i is at home on host i.
const (
	network addr.Network = 42
	cell    addr.Cell    = 1
)

var plan = addr.DefaultPlan

// path is a way from one machine to another, ready to carry.
type path struct {
	sender, receiver *machine
	hosts            []*host // one or two, or none where nothing is between the machines
	closers          []func() error
}

// machine is a namespace with one device, eth0, which has the machine's stable address.
type machine struct {
	*space
	addr.Stable
}

// host is a namespace that forwards, with the device "underlay" and one port for each machine: "port" and the machine's
// number.
type host struct {
	*space
	id, other       addr.Host
	machine, remote addr.Stable // its own and, where there is one, the other host's
}

// close takes everything away that belongs to the path.
func (p *path) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i]())
	}
	p.closers = nil
	return errors.Join(errs...)
}

// space makes a namespace that is gone with the path.
func (p *path) space(name string, forwards bool) (*space, error) {
	s, err := newSpace(name, forwards)
	if err == nil {
		p.closers = append(p.closers, s.close)
	}
	return s, err
}

// machine makes the machine of that number, without a device.
func (p *path) machine(number addr.Machine) (*machine, error) {
	stable, err := plan.Stable(network, cell, number)
	if err != nil {
		return nil, err
	}
	s, err := p.space("machine "+stable.String(), false)
	return &machine{s, stable}, err
}

// The two machines.
const (
	senderNumber   = addr.Machine(1*addr.BlockSize + 1)
	receiverNumber = addr.Machine(2*addr.BlockSize + 1)
)

// newPath makes the two machines, and lets build connect them.
func newPath(build func(*path) error) (p *path, err error) {
	p = &path{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.sender, err = p.machine(senderNumber); err != nil {
		return nil, err
	}
	if p.receiver, err = p.machine(receiverNumber); err != nil {
		return nil, err
	}
	return p, build(p)
}

// straight connects the machines by nothing but a veth pair.
func straight(p *path) error {
	return errors.Join(
		p.sender.ip("link add eth0 type veth peer name eth0 netns "+p.receiver.path()),
		p.sender.up("route add "+p.receiver.String()+" dev eth0"),
		p.receiver.up("route add "+p.sender.String()+" dev eth0"),
	)
}

// up brings eth0 up with the machine's address, and adds a route.
func (m *machine) up(route string) error {
	return m.ip(fmt.Sprintf("link set eth0 up\naddress add %s/128 dev eth0\n%s\n", m, route))
}

// line connects the machines by a host each, and lets configure make both hosts carry:
//
//	machine eth0 -- port [host] underlay -- underlay [host] port -- eth0 machine
func line(configure func(*path, *host) error) func(*path) error {
	return func(p *path) error {
		hosts := make([]*host, 2)
		for i := range hosts {
			s, err := p.space(fmt.Sprintf("host %d", i+1), true)
			if err != nil {
				return err
			}
			hosts[i] = &host{space: s, id: addr.Host(i + 1), other: addr.Host(2 - i)}
		}
		p.hosts = hosts
		hosts[0].machine, hosts[0].remote = p.sender.Stable, p.receiver.Stable
		hosts[1].machine, hosts[1].remote = p.receiver.Stable, p.sender.Stable
		err := errors.Join(
			hosts[0].ip(fmt.Sprintf("link add underlay mtu %d type veth peer name underlay mtu %[1]d netns %s", underlayMTU, hosts[1].path())),
			hosts[0].port(p.sender),
			hosts[1].port(p.receiver),
		)
		for _, h := range hosts {
			err = errors.Join(err, h.ip(h.words("link set underlay up\naddress add HOST/64 dev underlay\n")))
		}
		for _, h := range hosts {
			err = errors.Join(err, configure(p, h))
		}
		return err
	}
}

// shared connects the machines by one host, and lets configure make it carry:
//
//	machine eth0 -- port [host] port -- eth0 machine
func shared(configure func(*path, *host) error) func(*path) error {
	return func(p *path) error {
		s, err := p.space("the host", true)
		if err != nil {
			return err
		}
		h := &host{space: s, id: 1, other: 2, machine: p.sender.Stable}
		p.hosts = []*host{h}
		if err := errors.Join(h.port(p.sender), h.port(p.receiver)); err != nil {
			return err
		}
		return configure(p, h)
	}
}

// port connects a machine, whose gateway the host becomes.
func (h *host) port(m *machine) error {
	port := portName(m.Stable)
	return errors.Join(
		h.ip(fmt.Sprintf("link add %s type veth peer name eth0 netns %s", port, m.path())),
		m.up("route add default via fe80::1 dev eth0"),
		h.ip(fmt.Sprintf("link set %[1]s up\naddress add fe80::1/64 dev %[1]s\nroute add %[2]s dev %[1]s\n", port, m)),
	)
}

func portName(s addr.Stable) string { return fmt.Sprintf("port%x", uint32(s.Machine())) }

// underlayAddress is a host's own address.
func underlayAddress(h addr.Host) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", uint32(h)))
}

// segment is the one at which a host takes SRv6's headers off.
func segment(h addr.Host) string { return behind(plan.HostPrefix(h), 0xffff) }

// networkOf is the network's prefix of 64 bits for prefix translation in a host's of 48.
func networkOf(p netip.Prefix) string { return behind(p, uint16(network)) }

// behind returns a prefix of 48 bits, with the hextet behind it.
func behind(p netip.Prefix, hextet uint16) string {
	b := p.Addr().As16()
	b[6], b[7] = byte(hextet>>8), byte(hextet)
	return netip.AddrFrom16(b).String()
}

// tunnelAddress is a host's own in a tunnel.
func tunnelAddress(h addr.Host) string { return fmt.Sprintf("fd00::%x", uint32(h)) }

// words fills in the words in capitals of a rival's script, each host's as seen by itself.
func (h *host) words(script string) string {
	return strings.NewReplacer( // of two words that begin alike, the longer one has to come first
		"OWN_NETWORK", networkOf(plan.HostPrefix(h.id)),
		"PEER_NETWORK", networkOf(plan.HostPrefix(h.other)),
		"OWN_SEGMENT", segment(h.id),
		"PEER_SEGMENT", segment(h.other),
		"TUNNEL_OWN", tunnelAddress(h.id),
		"TUNNEL_PEER", tunnelAddress(h.other),
		"OWN_PREFIX", plan.HostPrefix(h.id).String(),
		"PEER_PREFIX", plan.HostPrefix(h.other).String(),
		"MACHINE_ROUTING", routing(h.machine, h.id).String(),
		"REMOTE_ROUTING", routing(h.remote, h.other).String(),
		"HOST", underlayAddress(h.id).String(),
		"PEER", underlayAddress(h.other).String(),
		"NETWORK", netip.PrefixFrom(h.machine.Addr(), 64).Masked().Addr().String(),
		"MACHINE", h.machine.String(),
		"REMOTE", h.remote.String(),
		"PORT", portName(h.machine),
	).Replace(script)
}
