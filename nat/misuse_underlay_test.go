package nat

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// Whoever is on the underlay's link is one of the fleet's hosts, or says so.
func TestWhatTheUnderlayMustNotBringGoesNowhere(t *testing.T) {
	f := newAbused(t)
	ok(t, f.one.PutMachine(Machine{ID: bare.ID(), Network: bare.Network(), Epoch: 1, State: Delivering}))
	from2, to := routing(remote, 2), routing(alice, 1)
	about := func(s addr.Stable) []byte { return embedded(routing(s, 1), from2) }
	self := routing(endpoint(1, 1), 1)
	all := []misuse{
		{"own source", "own_source", datagram(routing(bob, 1), to)},
		{"own endpoint as source", "own_source", datagram(self, to)},
		{"own control address as source", "own_source", message(control(1), to, timeExceeded, about(alice)...)},
		{"stable source", "stable_source", datagram(remote.Addr(), to)},
		{"stable source of this host's", "stable_source", datagram(bob.Addr(), to)},
		{"endpoint's stable source", "stable_source", datagram(endpoint(1, 2).Addr(), to)},
		{"stable source to the host itself", "stable_source", datagram(endpoint(1, 2).Addr(), f.one.address)},
		{"stable addresses", "stable_source", datagram(remote.Addr(), alice.Addr())},
		{"stable destination", "stable_destination", datagram(from2, alice.Addr())},
		{"the endpoint's stable address", "stable_destination", datagram(from2, endpoint(1, 1).Addr())},
		{"stable destination, from outside", "stable_destination", datagram(f.two.address, alice.Addr())},

		{"foreign prefix", "outside_source", datagram(f.two.address, to)},
		{"foreign prefix, TCP", "outside_source", segment(internet, to, 22)},
		{"foreign prefix, to the endpoint", "outside_source", datagram(f.two.address, self)},
		{"foreign prefix, echo", "outside_source", message(internet, to, echoRequest, about(alice)...)},
		{"control address", "outside_source", datagram(control(2), to)},
		{"control address, to the endpoint", "outside_source", segment(control(2), self, 22)},
		{"link-local source", "outside_source", datagram(linkLocal, to)},
		{"no source", "outside_source", datagram(netip.IPv6Unspecified(), to)},
		{"error about another machine's packet", "outside_source", message(internet, to, packetTooBig, about(bob)...)},
		{"error about a packet of the other network", "outside_source", message(internet, to, packetTooBig, about(stable(6, 1, 0x101))...)},
		{"error about stable addresses", "outside_source", message(internet, to, packetTooBig, embedded(alice.Addr(), remote.Addr())...)},
		{"error about nothing", "outside_source", message(internet, to, packetTooBig)},
		{"error in fragments", "outside_source", message(internet, to, packetTooBig, about(alice)...).behind([]byte{44}, firstFragment)},

		{"another network", "other_network", datagram(routing(stranger, 2), to)},
		{"another network, an error", "other_network", message(routing(stranger, 2), to, packetTooBig, about(alice)...)},
		{"number of a machine of another network", "network_mismatch", datagram(from2, routing(stable(5, 1, 0x103), 1))},
		{"source of host 0", "invalid_source", datagram(netip.MustParseAddr("fdab::5:0:201:1"), to)},
		{"source with the word 0xffff", "invalid_source", datagram(netip.MustParseAddr("fdab:0:2:0:5:0:201:ffff"), to)},
		{"destination with the word 0xffff", "invalid_destination", datagram(from2, netip.MustParseAddr("fdab:0:1:0:5:0:101:ffff"))},
		{"destination of cell 0", "invalid_destination", datagram(from2, netip.MustParseAddr("fdab:0:1:0:5:0:101:0"))},

		{"router advertisement", "neighbour_discovery", message(from2, to, 134).hops(255)},
		{"neighbour advertisement", "neighbour_discovery", message(from2, to, 136, gatewayAddress.AsSlice()...).hops(255)},
		{"neighbour advertisement to the endpoint", "neighbour_discovery", message(from2, self, 136).hops(255)},
		{"neighbour advertisement behind options", "neighbour_discovery", message(from2, to, 136).behind([]byte{60}, padding)},
		{"redirect", "neighbour_discovery", message(internet, to, 137, about(alice)...).hops(255)},
		{"routing header of type 0", "routing_header", datagram(from2, to).behind([]byte{43}, routingHeader(0, routing(mallet, 1)))},
		{"routing header of type 4 to the endpoint", "routing_header", datagram(from2, self).behind([]byte{43}, routingHeader(4, mallet.Addr()))},
		{"seven extension headers", "extension_headers", datagram(from2, to).behind([]byte{60, 60, 60, 60, 60, 60, 60}, append([][]byte{padding}, sixOptions...)...)},
		{"type behind the packet's end", "malformed", message(from2, to, 136).edited(func(b []byte) []byte { be16(b[etherLength+4:], 3); return b })},
		{"tunnelled to the endpoint", "tunnelled", frame{source: from2, destination: self, next: 41, payload: embedded(bob.Addr(), mallet.Addr())}},

		{"machine that is not here", "not_here", datagram(from2, routing(ghost, 1))},
		{"machine whose home sends it here", "loop", datagram(from2, routing(stable(5, 1, 0x2ff), 1))},
		{"machine without a port", "no_port", datagram(from2, routing(bare, 1))},
		{"endpoint of another cell", "not_here", datagram(from2, routing(endpoint(2, 1), 1))},
		{"control address that is nobody's", "forwarded", datagram(from2, netip.MustParseAddr("fdab:0:1::77"))},
	}
	send := f.two.underlay.rawSocket()
	w := watching(f.alice.eth0, f.bob.eth0, f.mallet.eth0, f.one.stack, f.two.underlay)
	for _, m := range all {
		w.refused(f.one, m.name, m.reason, send, m.frame.between(f.two.underlay.mac, f.one.underlay.mac).marked().bytes())
	}
}

// Where hosts are neighbours on the link, their MACs tell who speaks.
func TestAHostIsNotAnotherWhereItsMACTells(t *testing.T) {
	f := newAbused(t)
	o := f.one.options
	o.VerifyMAC = true
	ok(t, f.one.Close())
	f.one.Datapath = f.one.open(o)
	ok(t, f.one.PutHost(NextHop{Host: 3, Ifindex: f.one.underlay.index, Kind: HopNeighbour, Gateway: onLink(3, 1), Source: f.one.underlay.mac, MAC: mac(3), Trusted: forAnHour}))
	send := f.two.underlay.rawSocket()
	w := watching(f.alice.eth0, f.one.stack)
	to := routing(alice, 1)
	for name, forged := range map[string]frame{
		"a machine":             datagram(routing(mover, 3), to),
		"an endpoint":           datagram(routing(endpoint(1, 3), 3), to),
		"a host, of an error":   message(control(3), to, timeExceeded, embedded(to, routing(mover, 3))...),
		"what it has forwarded": datagram(routing(remote, 3), to),
	} {
		w.refused(f.one, name+" of host 3, from host 2's MAC", "forged_host", send, forged.between(f.two.underlay.mac, f.one.underlay.mac).marked().bytes())
	}
	warm(f.far, f.alice) // from whom it says it is
}

// newLAN makes a device of the host's that is no underlay, and who is at its other end.
func (h *fleetHost) newLAN() (lan, outsider device) {
	lan, outsider = vethPair(h.namespace, newNamespace(h.t), "lan", "eth0", 1500)
	h.do(func() error { return addAddress("lan", netip.MustParsePrefix("2001:db8:99::1/64")) })
	return lan, outsider
}

// A host forwards for others, but lets nobody speak as one of its own.
func TestNobodySpeaksAsAMachineThroughTheHost(t *testing.T) {
	f := newAbused(t)
	lan, outsider := f.one.newLAN()
	send := outsider.rawSocket()
	self := endpoint(1, 1)
	w := watching(f.two.underlay, f.two.stack, f.far.eth0, f.bob.eth0, f.one.stack)
	for _, source := range []netip.Addr{
		routing(alice, 1), routing(self, 1), control(1), must(plan.Relay(endpoint(1, 2), 1)), netip.MustParseAddr("fdab:0:1::77"),
		alice.Addr(), self.Addr(), stable(5, 9, 1).Addr(),
	} {
		for _, to := range []netip.Addr{routing(remote, 2), routing(endpoint(1, 2), 2), control(2), f.two.address} {
			name := fmt.Sprintf("from %s to %s", source, to)
			w.refused(f.one, name, "forwarded", send, datagram(source, to).between(outsider.mac, lan.mac).marked().bytes())
		}
		// nor to those here, by ip6d0
		for _, to := range []netip.Addr{bob.Addr(), routing(bob, 1), remote.Addr()} {
			name := fmt.Sprintf("from %s to %s", source, to)
			w.refused(f.one, name, "forwarded", send, datagram(source, to).between(outsider.mac, lan.mac).marked().bytes())
		}
	}

	// what is legitimate passes: others' packets, and the host's own
	in := f.two.underlay.capture()
	other := netip.MustParseAddr("2001:db8:99::2")
	sent := datagram(other, f.two.address).between(outsider.mac, lan.mac).marked()
	ok(t, send(sent.bytes()))
	in.await("packet in transit", isMarked)
	for _, own := range []netip.Addr{f.one.address, control(1)} {
		if own == control(1) {
			f.one.do(func() error { return addAddress("lo", netip.PrefixFrom(own, 128)) })
		}
		c := f.one.listenUDP(own, 0)
		if _, err := c.WriteTo([]byte("mine"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(f.two.address, 9))); err != nil {
			t.Error(err)
		}
		in.await("packet of the host's own, from "+own.String(), func(b []byte) bool {
			p, isIPv6 := readPacket(b)
			return isIPv6 && p.source == own && p.ip()[6] == unix.IPPROTO_UDP
		})
	}
}
