package nat

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"ip6d/addr"
)

// The inhabitants of the table below. This is host 1.
var (
	alice     = stable(5, 1, 0x101) // here
	bob       = stable(5, 1, 0x102) // here, the same network
	mallet    = stable(6, 1, 0x103) // here, another network
	gone      = stable(5, 1, 0x104) // away, to host 3
	bare      = stable(5, 1, 0x105) // here, without a port
	unplugged = stable(5, 1, 0x107) // here, its port's device has gone
	ghost     = stable(5, 1, 0x106) // of a block of this host, but not here

	remote   = stable(5, 1, 0x201) // at home on host 2
	mover    = stable(5, 1, 0x202) // from host 2, moved to host 3
	lost     = stable(5, 1, 0x203) // from host 2, moved here, but not here
	arriving = stable(5, 1, 0x204) // incoming, still owned by host 2
	stranger = stable(6, 1, 0x205) // at home on host 2, another network

	onFour = stable(5, 1, 0x401) // on host 4, whose device has gone
	onFive = stable(5, 1, 0x501) // on host 5, of which nothing is known
	nobody = stable(5, 1, 0x901) // of an unknown block
)

// settle fills the bench with them.
func (b *bench) settle() {
	r := b.reference
	r.Ports[b.port.index] = alice
	r.Ports[b.other.index] = mallet
	b.machine(alice, Delivering, 0, peerPort(b.port, 1))
	b.machine(bob, Delivering, 0, devicePort(b.other, 2))
	b.machine(mallet, Delivering, 0, peerPort(b.other, 3))
	b.machine(gone, Away, 3, Port{})
	b.machine(bare, Delivering, 0, Port{})
	b.machine(unplugged, Delivering, 0, Port{Ifindex: 9999, Enter: EnterPeer, MAC: mac(7)})
	b.machine(arriving, Incoming, 2, peerPort(b.port, 4))
	r.Moved[mover.ID()] = 3
	r.Moved[lost.ID()] = 1
	for block, home := range map[addr.Block]addr.Host{1: 1, 2: 2, 3: 3, 4: 4, 5: 5} {
		r.Blocks[BlockID{1, block}] = home
	}
	b.nextHop(2, b.underlay.index, forAnHour)
	b.nextHop(3, b.underlay.index, 0)
	b.nextHop(4, 9999, forAnHour)
	r.Dead[0x77] = true
	b.load()
}

// packetCase is a packet, and what must become of it.
type packetCase struct {
	name   string
	frame  frame
	want   Action
	reason string
}

func datagram(source, destination netip.Addr) frame {
	return frame{source: source, destination: destination, payload: udp(source, destination, 'x')}
}

func message(source, destination netip.Addr, kind byte, body ...byte) frame {
	return frame{source: source, destination: destination, next: protocolICMPv6, payload: icmpv6(source, destination, kind, body...)}
}

// behind puts extension headers before the payload. Each is given without its next header byte.
func (f frame) behind(kinds []byte, headers ...[]byte) frame {
	next := orDefault(f.next, 17)
	for i := len(kinds) - 1; i >= 0; i-- {
		f.payload = append(append([]byte{next}, headers[i]...), f.payload...)
		next = kinds[i]
	}
	if next == protocolHopByHop { // which reads as "not set" in frame
		f.edit = func(b []byte) []byte { b[etherLength+6] = protocolHopByHop; return b }
	}
	f.next = next
	return f
}

func (f frame) edited(edit func([]byte) []byte) frame {
	f.edit = edit
	return f
}

func (f frame) hops(n byte) frame {
	return f.edited(func(b []byte) []byte { b[etherLength+7] = n; return b })
}

func (f frame) typed(etherType uint16) frame {
	f.etherType = etherType
	return f
}

// solicitation asks from source for the MAC of target (RFC 4861 section 4.3).
func solicitation(source, destination, target netip.Addr, options ...byte) frame {
	return message(source, destination, 135, append(target.AsSlice(), options...)...).hops(255)
}

// embedded is a packet as an ICMPv6 error quotes it.
func embedded(source, destination netip.Addr) []byte {
	return datagram(source, destination).bytes()[etherLength:]
}

var (
	padding        = []byte{0, 1, 4, 0, 0, 0, 0}             // of an eight-byte options header
	firstFragment  = []byte{0, 0, 1, 0, 0, 0, 7}             // offset 0, more to come
	secondFragment = []byte{0, 0, 8, 0, 0, 0, 7}             // offset 8
	authentication = []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9} // twelve bytes
	sixOptions     = [][]byte{padding, padding, padding, padding, padding, padding}
	linkLocal      = netip.MustParseAddr("fe80::42")
	gatewayAddress = netip.MustParseAddr("fe80::1")
	solicitedNode  = netip.MustParseAddr("ff02::1:ff00:1")
	allRouters     = netip.MustParseAddr("ff02::2")
	internet       = netip.MustParseAddr("2001:db8::1")
	underlayRouter = netip.MustParseAddr("2001:db8::ffff")
)

func machineCases() []packetCase {
	A, B := alice.Addr(), bob.Addr()
	oversize := append(udp(A, remote.Addr()), make([]byte, underlayMTU)...)
	return []packetCase{
		{"local", datagram(A, B), ToDevice, ""},
		{"to itself", datagram(A, A), ToPeer, ""},
		{"remote by MAC", datagram(A, remote.Addr()), ToDevice, ""},
		{"moved, by neighbour", datagram(A, mover.Addr()), ToNeighbour, ""},
		{"away", datagram(A, gone.Addr()), ToNeighbour, ""},
		{"incoming goes to its owner", datagram(A, arriving.Addr()), ToDevice, ""},
		{"another host's endpoint", datagram(A, endpoint(1, 2).Addr()), ToDevice, ""},
		{"own endpoint", datagram(A, endpoint(1, 1).Addr()), IntoStack, ""},
		{"echo request", message(A, B, 128), ToDevice, ""},
		{"its own error keeps the packet in it", message(A, B, 1, embedded(B, A)...), ToDevice, ""},
		{"ESP", frame{source: A, destination: B, next: 50, payload: make([]byte, 32)}, ToDevice, ""},
		{"destination options", datagram(A, B).behind([]byte{60}, padding), ToDevice, ""},
		{"hop-by-hop options", datagram(A, B).behind([]byte{0}, padding), ToDevice, ""},
		{"first fragment", datagram(A, B).behind([]byte{44}, firstFragment), ToDevice, ""},
		{"later fragment", message(A, B, 136).behind([]byte{44}, secondFragment), ToDevice, ""},
		{"six extension headers", datagram(A, B).behind([]byte{60, 60, 60, 60, 60, 60}, sixOptions...), ToDevice, ""},
		{"with padding at the end", datagram(A, B).edited(func(b []byte) []byte { return append(b, 1, 2, 3) }), ToDevice, ""},

		{"local, last hop", datagram(A, B).hops(1), ToStack, "hop_limit"},
		{"remote, last hop", datagram(A, remote.Addr()).hops(1), ToStack, "hop_limit"},
		{"remote, no hop left", datagram(A, remote.Addr()).hops(0), ToStack, "hop_limit"},
		{"local, no hop left", datagram(A, B).hops(0), ToStack, "hop_limit"},
		{"own endpoint, last hop", datagram(A, endpoint(1, 1).Addr()).hops(1), IntoStack, ""},
		{"larger than the underlay's MTU", frame{source: A, destination: remote.Addr(), payload: oversize}, ToStack, "too_big"},
		{"larger than the port's MTU", frame{source: A, destination: B, payload: oversize}, ToStack, "too_big"},
		{"as large as the underlay's MTU", frame{source: A, destination: remote.Addr(), payload: oversize[:underlayMTU-ipv6Length]}, ToDevice, ""},
		{"a byte larger than the underlay's MTU", frame{source: A, destination: remote.Addr(), payload: oversize[:underlayMTU-ipv6Length+1]}, ToStack, "too_big"},

		{"neighbour solicitation", solicitation(linkLocal, solicitedNode, gatewayAddress), Answer, ""},
		{"neighbour solicitation from the stable address", solicitation(A, solicitedNode, gatewayAddress), Answer, ""},
		{"unicast neighbour solicitation", solicitation(linkLocal, gatewayAddress, gatewayAddress), Answer, ""},
		{"neighbour solicitation with its MAC", solicitation(linkLocal, solicitedNode, gatewayAddress, 1, 1, 2, 0, 0, 0, 0, 0xaa), Answer, ""},
		{"neighbour solicitation with two options", solicitation(linkLocal, solicitedNode, gatewayAddress, make([]byte, 64)...), Answer, ""},

		{"solicitation from another's address", solicitation(B, gatewayAddress, gatewayAddress), Refuse, "link_local"},
		{"solicitation that was routed", solicitation(linkLocal, gatewayAddress, gatewayAddress).hops(254), Refuse, "link_local"},
		{"solicitation of another", solicitation(linkLocal, gatewayAddress, linkLocal), Refuse, "link_local"},
		{"solicitation of another, to its group", solicitation(linkLocal, netip.MustParseAddr("ff02::1:ff00:42"), linkLocal), Refuse, "multicast"},
		{"solicitation of length 0", frame{source: linkLocal, destination: gatewayAddress, next: protocolICMPv6}.hops(255), Refuse, "link_local"},
		{"solicitation cut short", message(linkLocal, gatewayAddress, 135, make([]byte, 15)...).hops(255), Refuse, "link_local"},
		{"router solicitation", message(linkLocal, allRouters, 133).hops(255), Refuse, "multicast"},
		{"router advertisement", message(linkLocal, gatewayAddress, 134).hops(255), Refuse, "link_local"},
		{"advertisement to the gateway", message(linkLocal, gatewayAddress, 136).hops(255), Refuse, "link_local"},
		{"redirect", message(linkLocal, gatewayAddress, 137).hops(255), Refuse, "link_local"},
		{"echo to the gateway", message(linkLocal, gatewayAddress, 128).hops(255), Refuse, "link_local"},
		{"to a neighbour's link-local address", datagram(A, netip.MustParseAddr("fe80::2")), Refuse, "link_local"},
		{"from a link-local address", datagram(linkLocal, B), Refuse, "link_local"},
		{"advertisement to all nodes", message(linkLocal, netip.MustParseAddr("ff02::1"), 136).hops(255), Refuse, "multicast"},
		{"duplicate address detection", message(netip.IPv6Unspecified(), netip.MustParseAddr("ff02::1:ff00:101"), 135).hops(255), Refuse, "multicast"},
		{"multicast listener report", message(linkLocal, netip.MustParseAddr("ff02::16"), 143).behind([]byte{0}, []byte{0, 5, 2, 0, 0, 1, 0}), Refuse, "multicast"},
		{"multicast of a wider scope", datagram(A, netip.MustParseAddr("ff0e::1")), Refuse, "multicast"},

		{"VLAN tag", datagram(A, B).typed(0x8100), Refuse, "vlan_tagged"},
		{"service VLAN tag", datagram(A, B).typed(0x88a8), Refuse, "vlan_tagged"},
		{"IPv4", datagram(A, B).typed(0x0800), Refuse, "ipv4"},
		{"ARP", datagram(A, B).typed(0x0806), Refuse, "arp"},
		{"LLDP", datagram(A, B).typed(0x88cc), Refuse, "ether_type"},
		{"not version 6", datagram(A, B).edited(func(b []byte) []byte { b[etherLength] = 0x45; return b }), Refuse, "malformed"},
		{"shorter than it says", datagram(A, B).edited(func(b []byte) []byte { return b[:len(b)-1] }), Refuse, "malformed"},

		{"another's source", datagram(B, A), Refuse, "foreign_source"},
		{"own machine, other network", datagram(stable(6, 1, 0x101).Addr(), B), Refuse, "foreign_source"},
		{"routing form as source", datagram(routing(alice, 1), B), Refuse, "foreign_source"},
		{"IPv4-mapped source", datagram(netip.MustParseAddr("::ffff:10.0.0.1"), B), Refuse, "foreign_source"},
		{"routing form as destination", datagram(A, routing(remote, 2)), Refuse, "routing_destination"},
		{"control form as destination", datagram(A, control(2)), Refuse, "routing_destination"},
		{"internet", datagram(A, internet), Refuse, "no_egress"},
		{"fifth hextet", datagram(A, netip.MustParseAddr("fdaa:0:5:1:1:0:101:2")), Refuse, "invalid_destination"},
		{"last hextet", datagram(A, netip.MustParseAddr("fdaa:0:5:1::101:3")), Refuse, "invalid_destination"},
		{"cell 0", datagram(A, netip.MustParseAddr("fdaa:0:5:0::101:2")), Refuse, "invalid_destination"},
		{"cell 0xffff", datagram(A, netip.MustParseAddr("fdaa:0:5:ffff::101:2")), Refuse, "invalid_destination"},
		{"endpoint of host 0", datagram(A, netip.MustParseAddr("fdaa:0:0:1::2")), Refuse, "invalid_destination"},
		{"another network, here", datagram(A, mallet.Addr()), Refuse, "other_network"},
		{"another network, there", datagram(A, stranger.Addr()), Refuse, "other_network"},
		{"number of another network's machine", datagram(A, stable(5, 1, 0x103).Addr()), Refuse, "network_mismatch"},

		{"neighbour advertisement to a machine", message(A, B, 136), Refuse, "neighbour_discovery"},
		{"router advertisement to a machine", message(A, B, 134), Refuse, "neighbour_discovery"},
		{"redirect to a machine", message(A, B, 137), Refuse, "neighbour_discovery"},
		{"solicitation to an endpoint", message(A, endpoint(1, 1).Addr(), 135), Refuse, "neighbour_discovery"},
		{"advertisement behind options", message(A, B, 136).behind([]byte{0, 60}, padding, padding), Refuse, "neighbour_discovery"},
		{"advertisement behind authentication", message(A, B, 136).behind([]byte{51}, authentication), Refuse, "neighbour_discovery"},
		{"advertisement in a first fragment", message(A, B, 136).behind([]byte{44}, firstFragment), Refuse, "neighbour_discovery"},
		{"type in the padding behind a first fragment", message(A, B, 128).behind([]byte{44, 60}, firstFragment, padding).edited(func(b []byte) []byte {
			be16(b[etherLength+4:], 16) // the packet ends after the options: the type is in the next fragment
			return b
		}), Refuse, "malformed"},
		{"options longer than the packet", message(A, B, 136).behind([]byte{60}, []byte{200, 1, 4, 0, 0, 0, 0}), Refuse, "malformed"},
		{"routing header", datagram(A, B).behind([]byte{43}, padding), Refuse, "routing_header"},
		{"seven extension headers", message(A, B, 136).behind([]byte{60, 60, 60, 60, 60, 60, 60}, append(sixOptions, padding)...), Refuse, "extension_headers"},

		{"IPv6 in IPv6 between machines", frame{source: A, destination: B, next: 41, payload: embedded(B, A)}, ToDevice, ""},
		{"error to the endpoint about what it sent", message(A, endpoint(1, 1).Addr(), 2, embedded(endpoint(1, 1).Addr(), A)...), IntoStack, ""},
		{"error to the endpoint about what it sent to another", message(A, endpoint(1, 1).Addr(), 2, embedded(endpoint(1, 1).Addr(), mallet.Addr())...), Refuse, "foreign_error"},
		{"error to the endpoint that quotes too little", message(A, endpoint(1, 1).Addr(), 2, 0x60, 1, 2, 3), Refuse, "foreign_error"},
		{"IPv6 in IPv6 to the endpoint", frame{source: A, destination: endpoint(1, 1).Addr(), next: 41, payload: embedded(B, A)}, Refuse, "tunnelled"},
		{"GRE to the endpoint, behind options", frame{source: A, destination: endpoint(1, 1).Addr(), next: 47, payload: make([]byte, 40)}.behind([]byte{60}, padding), Refuse, "tunnelled"},
		{"later fragment of IPv4 in IPv6 to the endpoint", frame{source: A, destination: endpoint(1, 1).Addr(), next: 4, payload: make([]byte, 40)}.behind([]byte{44}, secondFragment), Refuse, "tunnelled"},

		{"here, without a port", datagram(A, bare.Addr()), Refuse, "no_port"},
		{"of a block of this host, not here", datagram(A, ghost.Addr()), Refuse, "not_here"},
		{"moved here, not here", datagram(A, lost.Addr()), Refuse, "not_here"},
		{"here, whose device has gone", frame{source: A, destination: unplugged.Addr(), payload: oversize[:1300]}, Refuse, "no_port"},
		{"unknown block", datagram(A, nobody.Addr()), Refuse, "not_here"},
		{"own endpoint of another cell", datagram(A, endpoint(2, 1).Addr()), Refuse, "not_here"},
		{"on a host whose device has gone", frame{source: A, destination: onFour.Addr(), payload: oversize[:1300]}, Refuse, "no_underlay"},
		{"on an unknown host", datagram(A, onFive.Addr()), Refuse, "unknown_host"},
	}
}

func underlayCases() []packetCase {
	from2 := routing(remote, 2)
	fromEndpoint := routing(endpoint(1, 2), 2)
	relayed := must(plan.Relay(endpoint(1, 2), 3))    // host 2's endpoint, by host 3
	ofEndpoint := must(plan.Relay(endpoint(1, 2), 1)) // the same, by this host
	about := func(s addr.Stable) []byte { return embedded(routing(s, 1), routing(remote, 2)) }
	jumbo := append(udp(from2, routing(gone, 1)), make([]byte, underlayMTU)...)
	to := func(s addr.Stable) netip.Addr { return routing(s, 1) }
	return []packetCase{
		{"delivering", datagram(from2, to(alice)), ToPeer, ""},
		{"delivering, last hop", datagram(from2, to(alice)).hops(1), ToPeer, ""},
		{"from an endpoint", datagram(fromEndpoint, to(alice)), ToPeer, ""},
		{"from an endpoint to another network", datagram(fromEndpoint, to(mallet)), ToPeer, ""},
		{"to this host's endpoint", datagram(from2, routing(endpoint(1, 1), 1)), IntoStack, ""},
		{"endpoint to endpoint", datagram(fromEndpoint, routing(endpoint(1, 1), 1)), IntoStack, ""},
		{"forwarded by host 3", datagram(routing(remote, 3), to(alice)), ToPeer, ""},
		{"first fragment", datagram(from2, to(alice)).behind([]byte{44}, firstFragment), ToPeer, ""},
		{"later fragment", datagram(from2, to(alice)).behind([]byte{44}, secondFragment), ToPeer, ""},

		{"incoming, from the owner", datagram(from2, to(arriving)), ToPeer, ""},
		{"incoming, from another", datagram(routing(mover, 3), to(arriving)), ToDevice, ""},
		{"away", datagram(from2, to(gone)), ToNeighbour, ""},
		{"away, back to where it came from", datagram(routing(mover, 3), to(gone)), ToNeighbour, ""},
		{"none: by its own entry", datagram(from2, to(mover)), ToNeighbour, ""},
		{"none: to its home", datagram(routing(mover, 3), to(remote)), ToDevice, ""},
		{"forwarding, last hop", datagram(from2, to(gone)).hops(1), ToStack, "hop_limit"},
		{"forwarding, too large", frame{source: from2, destination: to(gone), payload: jumbo}, ToStack, "too_big"},
		{"delivering, too large for the port", frame{source: from2, destination: to(alice), payload: jumbo}, ToStack, "too_big"},

		{"an endpoint's, forwarded to what has left", datagram(fromEndpoint, to(gone)), ToNeighbour, ""},
		{"an endpoint's, forwarded by host 3", datagram(relayed, to(alice)), ToPeer, ""},
		{"an endpoint's, forwarded by host 3, to another network", datagram(relayed, to(mallet)), ToPeer, ""},
		{"error about what this host forwarded for an endpoint", message(control(3), ofEndpoint, 2, embedded(ofEndpoint, routing(gone, 3))...), ToDevice, ""},
		{"error to this host's endpoint about what it sent", message(from2, routing(endpoint(1, 1), 1), 1, embedded(endpoint(1, 1).Addr(), remote.Addr())...), IntoStack, ""},
		{"error to this host's endpoint about what it sent to another", message(from2, routing(endpoint(1, 1), 1), 2, embedded(endpoint(1, 1).Addr(), alice.Addr())...), Refuse, "foreign_error"},
		{"error of another endpoint about what it forwarded", message(fromEndpoint, routing(endpoint(1, 1), 1), 2, embedded(routing(endpoint(1, 1), 1), routing(remote, 2))...), IntoStack, ""},
		{"tunnelled to this host's endpoint", frame{source: from2, destination: routing(endpoint(1, 1), 1), next: 41, payload: embedded(internet, internet)}, Refuse, "tunnelled"},

		{"error of a machine", message(from2, to(alice), 1, embedded(alice.Addr(), remote.Addr())...), ToPeer, ""},
		{"error of a router", message(underlayRouter, to(alice), 2, about(alice)...), ToPeer, ""},
		{"error of a host", message(control(2), to(alice), 3, about(alice)...), ToPeer, ""},
		{"error about a forwarded packet", message(control(2), to(alice), 3, embedded(routing(alice, 3), routing(remote, 2))...), ToPeer, ""},
		{"error behind options", message(control(2), to(alice), 4, about(alice)...).behind([]byte{60}, padding), ToPeer, ""},
		{"error to an endpoint", message(underlayRouter, routing(endpoint(1, 1), 1), 1, about(endpoint(1, 1))...), IntoStack, ""},
		{"error to what is away", message(underlayRouter, to(gone), 2, about(gone)...), ToNeighbour, ""},
		{"error to what has its home elsewhere", message(control(3), to(remote), 2, about(remote)...), ToDevice, ""},
		{"error of the owner to what is incoming", message(control(2), to(arriving), 2, about(arriving)...), ToPeer, ""},
		{"error of another to what is incoming", message(underlayRouter, to(arriving), 2, about(arriving)...), ToDevice, ""},
		{"error that quotes a control address", message(from2, to(alice), 1, embedded(to(alice), control(2))...), ToPeer, ""},
		{"error that quotes too little", message(from2, to(alice), 1, 0x60, 1, 2, 3), ToPeer, ""},
		{"error that quotes IPv4", message(from2, to(alice), 1, append([]byte{0x45}, make([]byte, 50)...)...), ToPeer, ""},

		{"this host itself", datagram(control(2), control(1)), Next, ""},
		{"this host's underlay address", datagram(underlayRouter, internet), Next, ""},
		{"another host's /48", datagram(from2, routing(remote, 2)), Next, ""},
		{"IPv4", datagram(from2, to(alice)).typed(0x0800), Next, ""},
		{"VLAN tag", datagram(from2, to(alice)).typed(0x8100), Next, ""},
		{"malformed", datagram(from2, to(alice)).edited(func(b []byte) []byte { return b[:len(b)-1] }), Next, ""},

		{"stable source", datagram(remote.Addr(), to(alice)), Refuse, "stable_source"},
		{"stable source to the host", datagram(remote.Addr(), internet), Refuse, "stable_source"},
		{"stable destination", datagram(from2, alice.Addr()), Refuse, "stable_destination"},
		{"own source", datagram(routing(remote, 1), to(alice)), Refuse, "own_source"},
		{"own control source", message(control(1), to(alice), 3, about(alice)...), Refuse, "own_source"},
		{"from a dead host", datagram(routing(remote, 0x77), to(alice)), Refuse, "dead_host"},
		{"error of a dead host", message(control(0x77), to(alice), 3, about(alice)...), Refuse, "dead_host"},
		{"source of host 0", datagram(netip.MustParseAddr("fdab::5:0:201:1"), to(alice)), Refuse, "invalid_source"},
		{"source with the word 0xffff", datagram(netip.MustParseAddr("fdab:0:2:0:5:0:201:ffff"), to(alice)), Refuse, "invalid_source"},
		{"destination with the word 0xffff", datagram(from2, netip.MustParseAddr("fdab:0:1:0:5:0:101:ffff")), Refuse, "invalid_destination"},
		{"destination of cell 0", datagram(from2, netip.MustParseAddr("fdab:0:1:0:5:0:101:0")), Refuse, "invalid_destination"},
		{"control form with the word 0xffff as source", datagram(netip.MustParseAddr("fdab:0:2::ffff"), to(alice)), Refuse, "invalid_source"},
		{"control form with the word 0xffff", datagram(from2, netip.MustParseAddr("fdab:0:1::ffff")), Refuse, "invalid_destination"},
		{"from outside", datagram(internet, to(alice)), Refuse, "outside_source"},
		{"from a host", datagram(control(2), to(alice)), Refuse, "outside_source"},
		{"echo from outside", message(internet, to(alice), 128, about(alice)...), Refuse, "outside_source"},
		{"error about another's packet", message(internet, to(alice), 1, about(bob)...), Refuse, "outside_source"},
		{"error about the other network's", message(internet, to(alice), 1, about(stable(6, 1, 0x101))...), Refuse, "outside_source"},
		{"error about a stable address", message(internet, to(alice), 1, embedded(alice.Addr(), remote.Addr())...), Refuse, "outside_source"},
		{"error that quotes nothing", message(internet, to(alice), 1), Refuse, "outside_source"},
		{"error in a fragment", message(internet, to(alice), 1, about(alice)...).behind([]byte{44}, firstFragment), Refuse, "outside_source"},
		{"neighbour advertisement", message(from2, to(alice), 136).hops(255), Refuse, "neighbour_discovery"},
		{"redirect from outside", message(internet, to(alice), 137, about(alice)...), Refuse, "neighbour_discovery"},
		{"routing header", datagram(from2, to(alice)).behind([]byte{43}, padding), Refuse, "routing_header"},
		{"another network", datagram(routing(stranger, 2), to(alice)), Refuse, "other_network"},
		{"number of another network's machine", datagram(from2, routing(stable(5, 1, 0x103), 1)), Refuse, "network_mismatch"},
		{"without a port", datagram(from2, to(bare)), Refuse, "no_port"},
		{"not here, though moved here", datagram(from2, to(lost)), Refuse, "not_here"},
		{"believed where it came from", datagram(from2, to(remote)), Refuse, "loop"},
		{"error believed where it came from", message(control(2), to(remote), 3, about(remote)...), Refuse, "loop"},
		{"host that is unknown", datagram(from2, to(onFive)), Refuse, "unknown_host"},
	}
}

func stackCases() []packetCase {
	self := endpoint(1, 1)
	E := self.Addr()
	about := func(s addr.Stable) []byte { return embedded(routing(s, 1), routing(remote, 2)) }
	to := func(s addr.Stable) netip.Addr { return routing(s, 1) }
	return []packetCase{
		{"error of the underlay's address", message(underlayRouter, to(alice), 2, about(alice)...), ToPeer, ""},
		{"error of the control address", message(control(1), to(alice), 3, about(alice)...), ToPeer, ""},
		{"error of the endpoint", message(E, to(alice), 2, about(alice)...), ToPeer, ""},
		{"error to what is away", message(underlayRouter, to(gone), 2, about(gone)...), ToNeighbour, ""},
		{"error to what is incoming", message(underlayRouter, to(arriving), 2, about(arriving)...), ToDevice, ""},
		{"error to what is not here", message(control(1), to(remote), 2, about(remote)...), ToDevice, ""},
		{"error to the endpoint", message(underlayRouter, to(self), 2, about(self)...), IntoStack, ""},
		{"endpoint to a machine here", datagram(E, alice.Addr()), ToPeer, ""},
		{"endpoint to a machine of another network", datagram(E, mallet.Addr()), ToPeer, ""},
		{"endpoint to a machine there", datagram(E, remote.Addr()), ToDevice, ""},
		{"endpoint to a machine there, last hop", datagram(E, remote.Addr()).hops(1), ToDevice, ""},
		{"endpoint to an endpoint", datagram(E, endpoint(1, 2).Addr()), ToDevice, ""},

		{"larger than the underlay's MTU", frame{source: E, destination: remote.Addr(), payload: make([]byte, underlayMTU)}, Refuse, "too_big"},
		{"router solicitation", message(linkLocal, allRouters, 133).hops(255), Refuse, "multicast"},
		{"IPv4", datagram(E, alice.Addr()).typed(0x0800), Refuse, "ipv4"},
		{"malformed", datagram(E, alice.Addr()).edited(func(b []byte) []byte { return b[:len(b)-1] }), Refuse, "malformed"},
		{"another source to a machine", datagram(underlayRouter, alice.Addr()), Refuse, "foreign_source"},
		{"a machine's source", datagram(bob.Addr(), alice.Addr()), Refuse, "foreign_source"},
		{"a machine's routing form", datagram(routing(bob, 1), to(alice)), Refuse, "foreign_source"},
		{"another host's control address", message(control(2), to(alice), 3, about(alice)...), Refuse, "foreign_source"},
		{"a stable source that is not the endpoint", message(bob.Addr(), to(alice), 3, about(alice)...), Refuse, "foreign_source"},
		{"not an error", datagram(underlayRouter, to(alice)), Refuse, "outside_source"},
		{"advertisement of the endpoint", message(E, to(alice), 136), Refuse, "neighbour_discovery"},
		{"control destination", datagram(underlayRouter, netip.MustParseAddr("fdab:0:1::77")), Refuse, "control_destination"},
		{"invalid destination", datagram(underlayRouter, netip.MustParseAddr("fdab:0:1:0:5:0:101:ffff")), Refuse, "invalid_destination"},
		{"another host's /48", datagram(underlayRouter, routing(remote, 2)), Refuse, "stack_destination"},
		{"internet", datagram(E, internet), Refuse, "stack_destination"},
		{"back to this host by belief", message(control(1), to(lost), 2, about(lost)...), Refuse, "not_here"},
	}
}

func TestProgramsDoWhatTheTableSays(t *testing.T) {
	b := newBench(t, 1, true)
	b.settle()
	seen := make(map[string]bool)
	for _, program := range []struct {
		name  string
		on    device
		cases []packetCase
	}{
		{fromMachine, b.port, machineCases()},
		{fromUnderlay, b.underlay, underlayCases()},
		{fromStack, b.stack, stackCases()},
	} {
		for _, c := range program.cases {
			t.Run(program.name+"/"+c.name, func(t *testing.T) {
				c.frame.to, c.frame.from = program.on.mac, mac(0xaa)
				b.expect(t, program.name, program.on.index, c)
				seen[c.reason] = true
			})
		}
	}
	t.Run("from_machine/device without identity", func(t *testing.T) {
		b.expect(t, fromMachine, b.stack.index, packetCase{"", datagram(alice.Addr(), bob.Addr()), Refuse, "unknown_port"})
		seen["unknown_port"] = true
	})
	t.Run("from_underlay/in the name of another host than its MAC's", func(t *testing.T) {
		b := newBench(t, 1, true)
		b.settle()
		b.reopen(func(o *Options) { o.VerifyMAC = true })
		b.reference.VerifyMAC = true
		f := datagram(routing(remote, 2), routing(alice, 1))
		f.to, f.from = b.underlay.mac, mac(0xaa)
		b.expect(t, fromUnderlay, b.underlay.index, packetCase{"", f, Refuse, "forged_host"})
		seen["forged_host"] = true
		f.from = mac(2)
		b.expect(t, fromUnderlay, b.underlay.index, packetCase{"", f, ToPeer, ""})
		f.source, f.from = routing(mover, 3), mac(0xaa) // whose MAC is not known
		b.expect(t, fromUnderlay, b.underlay.index, packetCase{"", f, ToPeer, ""})
	})
	t.Run("on a host that was declared dead", func(t *testing.T) {
		b := newBench(t, 1, true)
		b.reference.Fenced = true
		b.settle()
		for _, c := range []struct {
			program string
			on      device
			frame   frame
			want    Action
		}{
			{fromMachine, b.port, datagram(alice.Addr(), bob.Addr()), Refuse},
			{fromMachine, b.port, datagram(alice.Addr(), remote.Addr()), Refuse},
			{fromMachine, b.port, solicitation(linkLocal, solicitedNode, gatewayAddress), Refuse},
			{fromUnderlay, b.underlay, datagram(routing(remote, 2), routing(alice, 1)), Refuse},
			{fromUnderlay, b.underlay, datagram(routing(remote, 2), routing(gone, 1)), Refuse},
			{fromUnderlay, b.underlay, datagram(control(2), control(1)), Next},
			{fromUnderlay, b.underlay, datagram(underlayRouter, internet), Next},
			{fromStack, b.stack, datagram(endpoint(1, 1).Addr(), alice.Addr()), Refuse},
			{fromStack, b.stack, message(control(1), routing(alice, 1), 2, embedded(routing(alice, 1), routing(remote, 2))...), Refuse},
		} {
			reason := ""
			if c.want == Refuse {
				reason = "fenced"
			}
			c.frame.to, c.frame.from = c.on.mac, mac(0xaa)
			b.expect(t, c.program, c.on.index, packetCase{"", c.frame, c.want, reason})
		}
		seen["fenced"] = true
	})
	t.Run("without ip6d0", func(t *testing.T) {
		b := newBench(t, 1, false)
		b.settle()
		f := datagram(alice.Addr(), endpoint(1, 1).Addr())
		b.expect(t, fromMachine, b.port.index, packetCase{"", f, Refuse, "no_stack"})
		seen["no_stack"] = true
	})
	seen["forwarded"] = true // see TestNobodyElseSpeaksAsTheEndpoint
	for _, name := range b.names[1:] {
		if !seen[name] {
			t.Errorf("no case above is refused as %s", name)
		}
	}
}

// expect checks the case against what it says, and the program against the reference.
func (b *bench) expect(t *testing.T, program string, ifindex int, c packetCase) {
	t.Helper()
	frame := c.frame.bytes()
	b.namespace.do(func() error {
		got, err := b.compare(program, ifindex, frame)
		if err != nil {
			t.Error(err)
		}
		if got.Action != c.want || got.Reason != c.reason {
			t.Errorf("%v %s, want %v %s", got.Action, got.Reason, c.want, c.reason)
		}
		switch got.Action {
		case Refuse:
		case Answer: // another message, whose sum is its own
			ip := got.Frame[etherLength:]
			if sum := transportSum(protocolICMPv6, addressAt(ip, 8), addressAt(ip, 24), ip[ipv6Length:]); sum != 0xffff {
				t.Errorf("the checksum of the answer is wrong: %#x\n%s", sum, hexDiff(got.Frame, got.Frame))
			}
		default:
			checkSum(t, frame, got.Frame)
		}
		return nil
	})
}

// checkSum compares the transport checksum's sum before and after, which is what neutral addresses are for.
func checkSum(t *testing.T, before, after []byte) {
	t.Helper()
	sum := func(b []byte) uint32 {
		ip := slices.Concat(b[etherLength:etherLength+6], []byte{0, 0}, b[etherLength+8:]) // but for the hop limit
		return transportSum(0, addressAt(ip, 8), addressAt(ip, 24), ip[ipv6Length:])
	}
	if len(before) > etherLength+ipv6Length && sum(before) != sum(after) {
		t.Errorf("the checksum would be wrong:\n%s", hexDiff(after, before))
	}
}

func TestPacketToAnotherMACIsLeftAlone(t *testing.T) {
	b := newBench(t, 1, true)
	b.settle()
	f := datagram(routing(remote, 2), routing(alice, 1))
	f.to = mac(0xbb)
	b.namespace.do(func() error {
		code, out, err := b.run(fromUnderlay, b.underlay.index, f.bytes())
		if code != -1 || !bytes.Equal(out, f.bytes()) {
			t.Errorf("returned %d, want -1 and the frame unchanged", code)
		}
		return err
	})
}
