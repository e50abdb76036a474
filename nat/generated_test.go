package nat

import (
	"cmp"
	"flag"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"ip6d/addr"
)

var seed = flag.Uint64("seed", 0, "of the generated packets; 0: another one each time")

// generator makes worlds and packets in which everything that can be confused is: few hosts, networks, cells and
// machines, so that addresses meet entries.
type generator struct {
	*rand.Rand
	*bench
}

func pick[T any](g generator, from ...T) T { return from[g.IntN(len(from))] }

func (g generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g generator) host() addr.Host { return pick(g, addr.Host(1), 2, 3, 0x10004) }

// otherHost is not this one.
func (g generator) otherHost() addr.Host { return pick(g, addr.Host(2), 3, 0x10004) }

func (g generator) stable() addr.Stable {
	network, cell := addr.Network(5), addr.Cell(1)
	if g.chance(10) {
		network = pick(g, addr.Network(6), 0x50000)
	}
	if g.chance(10) {
		cell = 2
	}
	return stable(network, cell, addr.Machine(g.IntN(3)*addr.BlockSize+g.IntN(6)))
}

// resident is a machine that has an entry, with its right network.
func (g generator) resident() addr.Stable {
	all := slices.SortedFunc(maps.Values(g.reference.Machines), func(a, b Machine) int {
		return cmp.Or(cmp.Compare(a.ID.Cell, b.ID.Cell), cmp.Compare(a.ID.Machine, b.ID.Machine))
	})
	m := pick(g, all...)
	return stable(m.Network, m.ID.Cell, m.ID.Machine)
}

// world fills the maps.
func (g generator) world() {
	g.clear()
	r := g.reference
	for range 2 + g.IntN(20) {
		s := g.stable()
		port := pick(g, Port{}, peerPort(g.port, 1), peerPort(g.other, 2), devicePort(g.other, 3))
		switch pick(g, Delivering, Delivering, Incoming, Away) {
		case Delivering:
			g.machine(s, Delivering, 0, port)
		case Incoming:
			g.machine(s, Incoming, g.otherHost(), port)
		case Away:
			g.machine(s, Away, g.otherHost(), port)
		}
	}
	for range g.IntN(8) {
		r.Moved[addr.ID{Cell: 1, Machine: g.stable().Machine()}] = g.host()
	}
	for range g.IntN(6) {
		r.Blocks[BlockID{1, g.stable().Machine().Block()}] = g.host()
	}
	for _, h := range []addr.Host{2, 3, 0x10004} {
		if g.chance(85) {
			g.nextHop(h, pick(g, g.underlay.index, g.underlay.index, 9999), pick(g, forAnHour, 0))
		}
	}
	if g.chance(30) {
		r.Dead[g.otherHost()] = true
	}
	r.Fenced = g.chance(5)
	r.Ports[g.port.index] = g.stable()
	r.Ports[g.other.index] = g.stable()
	r.Awaited[g.other.index] = g.chance(50)
	g.load()
}

// address is of any form, and more often than not makes sense.
func (g generator) address() netip.Addr {
	switch g.IntN(12) {
	case 0, 1, 2:
		return g.stable().Addr()
	case 3, 4, 5:
		return routing(g.stable(), g.host())
	case 6:
		return endpoint(pick(g, addr.Cell(1), 2), g.host()).Addr()
	case 7:
		h := g.host()
		return routing(endpoint(pick(g, addr.Cell(1), 2), h), h)
	case 8:
		return control(g.host())
	case 9:
		return pick(g, internet, linkLocal, gatewayAddress, solicitedNode, allRouters, netip.IPv6Unspecified())
	}
	// any of them, with one hextet off: these are the invalid ones
	a := pick(g, g.stable().Addr(), routing(g.stable(), g.host()), control(g.host())).As16()
	be16(a[2*g.IntN(8):], pick(g, uint16(0), 1, 2, 3, 0xffff, uint16(g.Uint32())))
	return netip.AddrFrom16(a)
}

// here is a routing address of this host.
func (g generator) here() netip.Addr {
	if g.chance(10) {
		return routing(endpoint(pick(g, addr.Cell(1), 2), 1), 1)
	}
	return routing(pick(g, g.stable(), g.resident(), g.resident()), 1)
}

// packet is one that the program is likely to carry, or nearly.
func (g generator) packet(program string, on device) []byte {
	f := frame{to: on.mac, from: mac(0xaa), source: g.address(), destination: g.address()}
	if g.chance(90) {
		switch program {
		case fromMachine:
			f.source = g.reference.Ports[on.index].Addr()
			f.destination = pick(g, g.stable().Addr(), g.resident().Addr(), g.resident().Addr(), g.resident().Addr(), f.destination)
		case fromUnderlay:
			f.source = pick(g, routing(g.stable(), g.otherHost()), routing(g.stable(), g.otherHost()), routing(g.resident(), g.otherHost()), f.source)
			f.destination = g.here()
		case fromStack:
			f.source = pick(g, endpoint(1, 1).Addr(), control(1), internet, f.source)
			f.destination = pick(g, g.here(), g.stable().Addr(), g.resident().Addr())
		}
	}
	switch g.IntN(4) {
	case 0, 3:
		f.payload = udp(f.source, f.destination, make([]byte, g.IntN(40))...)
	case 1:
		f.next = protocolICMPv6
		kind := pick(g, byte(1), 2, 3, 4, 5, 128, 129, 132, 133, 134, 135, 136, 137, 138)
		f.payload = icmpv6(f.source, f.destination, kind, make([]byte, g.IntN(20))...)
	case 2:
		f.next = protocolICMPv6
		quoted := embedded(pick(g, f.destination, f.destination, g.address()), pick(g, f.source, g.address()))
		if g.chance(10) {
			quoted = quoted[:g.IntN(len(quoted))]
		}
		f.payload = icmpv6(f.source, f.destination, byte(1+g.IntN(4)), quoted...)
	}
	if program == fromMachine && g.chance(5) {
		asker, target := pick(g, linkLocal, f.source, g.address()), pick(g, gatewayAddress, gatewayAddress, g.address())
		f = solicitation(asker, pick(g, solicitedNode, gatewayAddress, g.address()), target, make([]byte, g.IntN(4)*8)...)
		f.to, f.from = on.mac, mac(0xaa)
	}
	if g.chance(15) {
		var kinds []byte
		var headers [][]byte
		for range 1 + g.IntN(8) {
			kind := pick(g, byte(protocolHopByHop), protocolDestination, protocolDestination, protocolFragment, protocolAuth)
			header := padding
			switch {
			case kind == protocolFragment:
				header = pick(g, firstFragment, secondFragment)
			case kind == protocolAuth:
				header = authentication
			case g.chance(2):
				kind = protocolRouting
			}
			kinds, headers = append(kinds, kind), append(headers, header)
		}
		f = f.behind(kinds, headers...)
	}
	if g.chance(1) {
		f.payload = append(f.payload, make([]byte, underlayMTU)...)
	}
	b := f.bytes()
	if f.edit == nil {
		b[etherLength+7] = pick(g, byte(64), 64, 64, 255, 0, 1, 2)
	}
	if g.chance(5) { // a bit that is off, anywhere behind the MACs
		b[12+g.IntN(len(b)-12)] ^= 1 << g.IntN(8)
	}
	if g.chance(3) { // cut or padded; the kernel runs no program on less than both headers
		b = slices.Concat(b, make([]byte, 8))[:etherLength+ipv6Length+g.IntN(len(b)+8-etherLength-ipv6Length)]
	}
	return b
}

// The programs and the reference agree on whatever packet meets whatever entries.
func TestProgramsAgreeWithReferenceOnGeneratedPackets(t *testing.T) {
	const worlds, packets = 60, 300
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("to see this again: go test -run %s -seed %d", t.Name(), s)

	b := newBench(t, 1, true)
	g := generator{rand.New(rand.NewPCG(s, 0)), b}
	actions := make(map[Action]int)
	for world := range worlds {
		g.world()
		b.namespace.do(func() error {
			for range packets {
				program := pick(g, fromMachine, fromUnderlay, fromStack)
				on := map[string]device{fromMachine: pick(g, b.port, b.other), fromUnderlay: b.underlay, fromStack: b.stack}[program]
				verdict, err := b.compare(program, on.index, g.packet(program, on))
				if err != nil {
					t.Errorf("seed %d, world %d: %v", s, world, err)
					return nil
				}
				actions[verdict.Action]++
			}
			return nil
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d packets: %v", worlds*packets, actions)
	for a := Next; a <= IntoStack; a++ {
		if actions[a] == 0 {
			t.Errorf("no packet went %v: the generator misses a whole way", a)
		}
	}
}
