package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/bpf"
	"ip6d/integration/bench/harness"
	"ip6d/nat"
)

// programCosts are what the datapath's programs themselves take for a small UDP packet, in ns.
type programCosts struct {
	FromMachine  float64 `json:"from_machine"`
	FromUnderlay float64 `json:"from_underlay"`
}

// programs measures both programs, each run so many times, with maps that are filled as on the hosts of a line.
func (p *pins) programs(repeat int) (costs programCosts, err error) {
	const loopback = 1 // PROG_RUN's packets come from there
	path, err := newPath(line(p.ip6d(nat.Sizes{}, func(_ *path, h *host, d *nat.Datapath) error {
		return h.do("attach", func() error { return d.AttachPort(loopback, h.machine) })
	})))
	if err != nil {
		return costs, err
	}
	defer func() { err = errors.Join(err, path.close()) }()

	source, destination := path.sender.Stable, path.receiver.Stable
	one, two := path.hosts[0], path.hosts[1]
	costs.FromMachine, err = p.cost(repeat, one, bpf.DatapathProgFromMachine, source.Addr(), destination.Addr())
	if err != nil {
		return costs, err
	}
	costs.FromUnderlay, err = p.cost(repeat, two, bpf.DatapathProgFromUnderlay, routing(source, one.id), routing(destination, two.id))
	return costs, err
}

// cost measures one of a host's programs.
func (p *pins) cost(repeat int, h *host, name string, source, destination netip.Addr) (ns float64, err error) {
	program, err := ebpf.LoadPinnedProgram(p.Dir(filepath.Join(h.pins(), "programs", name)), nil)
	if err != nil {
		return 0, err
	}
	defer program.Close()
	err = h.do("run "+name, func() error {
		verdict, cost, err := harness.Cost(program, datagram(source, destination), repeat)
		if err == nil && verdict != redirected {
			err = fmt.Errorf("verdict %d: the packet was not sent on", verdict)
		}
		ns = float64(cost) / float64(time.Nanosecond)
		return err
	})
	return ns, err
}

const redirected = 7 // TC_ACT_REDIRECT

// datagram is a frame with a small UDP packet, for the loopback device's MAC, which is zero.
func datagram(source, destination netip.Addr) []byte {
	const ethernet, ipv6, udp = 14, 40, 8
	b := make([]byte, ethernet+ipv6+udp+udpPayload)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IPV6)
	ip := b[ethernet:]
	ip[0], ip[6], ip[7] = 6<<4, unix.IPPROTO_UDP, 64
	binary.BigEndian.PutUint16(ip[4:], udp+udpPayload)
	copy(ip[8:24], source.AsSlice())
	copy(ip[24:40], destination.AsSlice())
	binary.BigEndian.PutUint16(ip[ipv6:], udpPort)
	binary.BigEndian.PutUint16(ip[ipv6+2:], udpPort)
	binary.BigEndian.PutUint16(ip[ipv6+4:], udp+udpPayload)
	return b
}

// routing is the routing address of a machine on a host, both constants of the bench.
func routing(s addr.Stable, at addr.Host) netip.Addr {
	r, err := plan.Encode(s, at)
	if err != nil {
		panic(err)
	}
	return r.Addr()
}
