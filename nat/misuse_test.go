package nat

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// misuse is a packet that somebody sends who should not, and what it is refused as.
type misuse struct {
	name   string
	reason string
	frame  frame
}

// watch looks at the places where what is refused must not arrive.
type watch []*capture

func watching(places ...device) (w watch) {
	for _, d := range places {
		w = append(w, d.capture())
	}
	return w
}

// refused sends frames to a host, and checks that each is counted under the reason, and arrives nowhere.
func (w watch) refused(h *fleetHost, name, reason string, send func([]byte) error, frames ...[]byte) {
	h.t.Helper()
	before := dropsOf(h.t, h.Datapath)[reason]
	for _, f := range frames {
		ok(h.t, send(f))
	}
	eventually(h.t, name+" is refused as "+reason, func() error {
		got := int(dropsOf(h.t, h.Datapath)[reason] - before)
		if got == len(frames) || got > len(frames) && reason == "multicast" { // guests chatter, too
			return nil
		}
		return fmt.Errorf("%d are counted, of %d sent; all drops: %v", got, len(frames), dropsOf(h.t, h.Datapath))
	})
	for _, c := range w {
		if frame := c.has(isMarked); frame != nil {
			h.t.Errorf("%s came in at %s:\n%s", name, c.what, hexDiff(frame, frame))
		}
	}
}

// between gives a frame its MACs.
func (f frame) between(from, to net.HardwareAddr) frame {
	f.from, f.to = from, to
	return f
}

// routingHeader is one of a type that RFC 5095, RFC 6275 or RFC 8754 is about, with one address to go on to.
func routingHeader(kind byte, next netip.Addr) []byte {
	return append([]byte{2, kind, 1, 0, 0, 0, 0}, next.AsSlice()...)
}

// segment asks for a TCP connection.
func segment(source, destination netip.Addr, port uint16) frame {
	b := make([]byte, 20)
	be16(b, 4000)
	be16(b[2:], port)
	b[12], b[13] = 5<<4, 2 // SYN
	return frame{source: source, destination: destination, next: unix.IPPROTO_TCP, payload: checksummed(unix.IPPROTO_TCP, source, destination, 16, b)}
}

// abused is a fleet in which alice's guest does what it likes: here are bob and, of another network, mallet; on the other
// host remote and, of that network, stranger.
type abused struct {
	one, two                          *fleetHost
	alice, bob, mallet, far, stranger *guest
	send                              func([]byte) error // as alice's guest
}

func newAbused(t *testing.T) abused {
	t.Helper()
	one, two := newFleet(t, 1500, true)
	f := abused{one, two, one.run(alice, false), one.run(bob, false), one.run(mallet, false), two.run(remote, false), two.run(stranger, false), nil}
	warm(f.alice, f.bob)
	warm(f.alice, f.far)
	warm(f.mallet, f.stranger)
	f.send = f.alice.eth0.rawSocket()
	return f
}

// elsewhere is where nothing of what alice's guest sends may arrive.
func (f abused) elsewhere() []device {
	return []device{f.bob.eth0, f.mallet.eth0, f.far.eth0, f.stranger.eth0, f.two.underlay, f.two.stack}
}

func TestWhatAMachineMustNotSendGoesNowhere(t *testing.T) {
	f := newAbused(t)
	A, B, there := alice.Addr(), bob.Addr(), remote.Addr()
	self, other := endpoint(1, 1).Addr(), endpoint(1, 2).Addr()
	all := []misuse{
		{"IPv4", "ipv4", datagram(A, B).typed(0x0800)},
		{"ARP", "arp", datagram(A, B).typed(0x0806)},
		{"MPLS", "ether_type", datagram(A, B).typed(0x8847)},
		{"PPP", "ether_type", datagram(A, B).typed(0x8864)},

		{"own machine in another network", "foreign_source", datagram(stable(6, 1, 0x101).Addr(), mallet.Addr())},
		{"hidden source", "foreign_source", datagram(netip.IPv6Unspecified(), B)},
		{"source of a group", "foreign_source", datagram(netip.MustParseAddr("ff02::1"), B)},
		{"own routing form as source", "foreign_source", datagram(routing(alice, 1), there)},
		{"source of the underlay", "foreign_source", datagram(f.one.address, there)},
		{"own source with another last hextet", "foreign_source", datagram(netip.MustParseAddr("fdaa:0:5:1::101:3"), B)},

		{"network, here", "other_network", datagram(A, mallet.Addr())},
		{"network, there", "other_network", datagram(A, stranger.Addr())},
		{"network of a machine here", "network_mismatch", datagram(A, stable(5, 1, 0x103).Addr())},

		{"gateway", "link_local", segment(A, gatewayAddress, 22)},
		{"gateway, from a link-local address", "link_local", segment(f.alice.linkLocal(), gatewayAddress, 22)},
		{"link-local address of a neighbour", "link_local", datagram(A, f.bob.linkLocal())},
		{"link-local address of a neighbour, from another", "link_local", datagram(f.alice.linkLocal(), f.bob.linkLocal())},
		{"from a link-local address", "link_local", datagram(f.alice.linkLocal(), B)},
		{"group", "multicast", datagram(A, netip.MustParseAddr("ff02::1"))},
		{"group of a site", "multicast", datagram(A, netip.MustParseAddr("ff05::1:3"))},

		{"IPv4 in IPv6, to the host", "tunnelled", frame{source: A, destination: self, next: 4, payload: make([]byte, 40)}},
		{"IPv6 in IPv6, to the host", "tunnelled", frame{source: A, destination: self, next: 41, payload: embedded(B, mallet.Addr())}},
		{"GRE to the host", "tunnelled", frame{source: A, destination: self, next: 47, payload: embedded(B, mallet.Addr())}},
		{"Ethernet to the host", "tunnelled", frame{source: A, destination: self, next: 143, payload: datagram(B, A).bytes()}},
		{"IPv6 in IPv6 behind options, to the host", "tunnelled", frame{source: A, destination: self, next: 41, payload: embedded(B, A)}.behind([]byte{0, 60}, padding, padding)},
		{"IPv6 in IPv6 in a fragment, to the host", "tunnelled", frame{source: A, destination: self, next: 41, payload: embedded(B, A)}.behind([]byte{44}, secondFragment)},

		{"machine with a fifth hextet", "invalid_destination", datagram(A, netip.MustParseAddr("fdaa:0:5:1:1:0:102:2"))},
		{"machine with another last hextet", "invalid_destination", datagram(A, netip.MustParseAddr("fdaa:0:5:1::102:0"))},
		{"cell 0", "invalid_destination", datagram(A, netip.MustParseAddr("fdaa:0:5:0::102:2"))},
		{"cell 0xffff", "invalid_destination", datagram(A, netip.MustParseAddr("fdaa:0:5:ffff::102:2"))},
		{"endpoint of no host", "invalid_destination", datagram(A, netip.MustParseAddr("fdaa:0:0:1::2"))},
		{"endpoint of another cell", "not_here", datagram(A, endpoint(2, 1).Addr())},

		{"seven extension headers", "extension_headers", datagram(A, B).behind([]byte{60, 60, 60, 60, 60, 60, 60}, append([][]byte{padding}, sixOptions...)...)},
	}
	for _, source := range []netip.Addr{B, there, mallet.Addr(), self, other, nobody.Addr()} {
		all = append(all, misuse{"source " + source.String(), "foreign_source", datagram(source, B)},
			misuse{"source " + source.String() + ", to another host", "foreign_source", datagram(source, there)})
	}
	for _, to := range []netip.Addr{routing(bob, 1), routing(mallet, 1), routing(remote, 2), routing(endpoint(1, 1), 1), control(1), control(2), netip.MustParseAddr("fdab:1::1")} {
		all = append(all, misuse{"routing address " + to.String(), "routing_destination", datagram(A, to)})
	}
	for _, kind := range []byte{0, 2, 4} {
		for _, to := range []netip.Addr{B, there, self} {
			f := datagram(A, to).behind([]byte{43}, routingHeader(kind, mallet.Addr()))
			all = append(all, misuse{fmt.Sprintf("routing header of type %d to %s", kind, to), "routing_header", f})
			f = datagram(A, to).behind([]byte{60, 43}, padding, routingHeader(kind, mallet.Addr()))
			all = append(all, misuse{fmt.Sprintf("routing header of type %d behind options to %s", kind, to), "routing_header", f})
		}
	}
	w := watching(append(f.elsewhere(), f.one.stack)...)
	for _, m := range all {
		w.refused(f.one, m.name, m.reason, f.send, m.frame.between(f.alice.eth0.mac, GatewayMAC()).marked().bytes())
	}
}

// What has no hop left is nobody's but the host's stack's, which tells the sender.
func TestPacketsWithoutAHopLeftGoNowhere(t *testing.T) {
	f := newAbused(t)
	w, in := watching(f.elsewhere()...), f.alice.eth0.capture()
	for _, to := range []netip.Addr{bob.Addr(), remote.Addr()} {
		for hopLimit := range byte(2) {
			sent := datagram(alice.Addr(), to).hops(hopLimit).between(f.alice.eth0.mac, GatewayMAC()).marked().bytes()
			name := fmt.Sprintf("hop limit %d to %s", hopLimit, to)
			w.refused(f.one, name, "hop_limit", f.send, sent)
			c := complaint{name: name, kind: timeExceeded, by: only(endpoint(1, 1).Addr())}
			c.check(t, in.await(name, isError), f.alice.talker(), sent[etherLength:])
		}
	}
}

// linkLocalOf is the address that a kernel makes of a device's MAC (RFC 4291 appendix A).
func linkLocalOf(m net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}

func (g *guest) linkLocal() netip.Addr { return linkLocalOf(g.eth0.mac) }

// Tags that a frame has in it, and one that it has beside it, as a guest's VLAN device gives it.
func TestWhatAMachineTagsGoesNowhere(t *testing.T) {
	f := newAbused(t)
	w := watching(append(f.elsewhere(), f.one.stack)...)
	for _, to := range []netip.Addr{bob.Addr(), remote.Addr(), routing(remote, 2)} {
		whole := datagram(alice.Addr(), to).between(f.alice.eth0.mac, GatewayMAC()).marked().bytes()
		tagged := func(tags ...byte) []byte { return append(append(bytes.Clone(whole[:12]), tags...), whole[12:]...) }
		w.refused(f.one, "a tag", "vlan_tagged", f.send, tagged(0x81, 0, 0, 42))
		w.refused(f.one, "a priority", "vlan_tagged", f.send, tagged(0x81, 0, 0xe0, 0))
		w.refused(f.one, "a service's tag", "vlan_tagged", f.send, tagged(0x88, 0xa8, 0, 42))
		w.refused(f.one, "two tags", "vlan_tagged", f.send, tagged(0x88, 0xa8, 0, 42, 0x81, 0, 0, 43), tagged(0x81, 0, 0, 42, 0x81, 0, 0, 43))
	}
	f.alice.tagEverything(42)
	for _, to := range []netip.Addr{bob.Addr(), remote.Addr(), gatewayAddress} {
		whole := datagram(alice.Addr(), to).between(f.alice.eth0.mac, GatewayMAC()).marked().bytes()
		w.refused(f.one, "a tag beside the frame", "vlan_tagged", f.send, whole)
	}
}

// tagEverything has the guest's device give what it sends a VLAN's tag beside the frame.
func (g *guest) tagEverything(tag int32) {
	g.t.Helper()
	const next, inNetworkOrder = -1, unix.ETH_P_8021Q>>8 | unix.ETH_P_8021Q&0xff<<8
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, inNetworkOrder),
		asm.Mov.Imm(asm.R3, tag),
		asm.FnSkbVlanPush.Call(),
		asm.Mov.Imm(asm.R0, next),
		asm.Return(),
	}})
	ok(g.t, err)
	defer p.Close() // the device keeps it
	g.do(func() error {
		filters, err := newClsact("")
		if err != nil {
			return err
		}
		return errors.Join(filters.attach(Attachment{"tag_everything", g.eth0.index}, program{p, egress}), filters.close())
	})
}

// However much of a packet is missing, nobody takes it for one.
func TestTruncatedPacketsGoNowhere(t *testing.T) {
	f := newAbused(t)
	w := watching(append(f.elsewhere(), f.one.stack)...)
	whole := datagram(alice.Addr(), remote.Addr()).between(f.alice.eth0.mac, GatewayMAC()).marked().bytes()
	var cut [][]byte
	for n := range len(whole) {
		if n < etherLength {
			if err := f.send(whole[:n]); !errors.Is(err, unix.EINVAL) { // the kernel's packet sockets take none of these
				t.Errorf("sending %d bytes: %v", n, err)
			}
			continue
		}
		cut = append(cut, whole[:n])
	}
	w.refused(f.one, "a datagram cut short", "malformed", f.send, cut...)

	// what says of itself that it is no longer, and hides what it is
	cut = nil
	behind := message(alice.Addr(), remote.Addr(), 136).behind([]byte{0, 60, 44}, padding, padding, firstFragment).between(f.alice.eth0.mac, GatewayMAC()).marked().bytes()
	const headers = 3 * 8
	for n := range headers + 4 {
		b := bytes.Clone(behind[:etherLength+ipv6Length+n])
		be16(b[etherLength+4:], uint16(n))
		cut = append(cut, b)
	}
	cut = cut[1:] // the first one says that it is a jumbogram
	w.refused(f.one, "extension headers cut short", "malformed", f.send, cut...)
	w.refused(f.one, "what they hide", "neighbour_discovery", f.send, behind)
}

// Whatever the host listens to, a machine reaches nothing of it but by the endpoint.
func TestMachinesDoNotReachTheHost(t *testing.T) {
	f := newAbused(t)
	store, wireGuard := netip.MustParseAddr("fd00:5::1"), netip.MustParseAddr("fd00:77::1")
	f.one.do(func() error {
		var errs []error
		for _, a := range []netip.Addr{store, wireGuard, control(1)} {
			errs = append(errs, addAddress("lo", netip.PrefixFrom(a, 128)))
		}
		return errors.Join(errs...)
	})
	const port = 2379
	var streams *net.TCPListener
	f.one.do(func() (err error) {
		streams, err = net.ListenTCP("tcp", &net.TCPAddr{Port: port}) // IPv4, too
		return err
	})
	defer streams.Close()
	heard := count(f.one.listenUDP(netip.IPv6Unspecified(), port))
	accepted := make(chan net.Addr, 100)
	go func() {
		for {
			c, err := streams.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c.RemoteAddr()
			c.Close()
		}
	}()

	w := watching(append(f.elsewhere(), f.one.stack)...)
	ask := func(source, to netip.Addr, reason string) {
		data := datagram(source, to)
		be16(data.payload[2:], port)
		for _, asks := range []frame{segment(source, to, port), data, message(source, to, echoRequest)} {
			asks = asks.between(f.alice.eth0.mac, GatewayMAC()).marked()
			w.refused(f.one, fmt.Sprintf("from %s to the host at %s", source, to), reason, f.send, asks.bytes())
		}
	}
	for _, to := range []netip.Addr{
		f.one.address, f.two.address, store, wireGuard, netip.IPv6Loopback(),
		netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("64:ff9b::7f00:1"),
	} {
		ask(alice.Addr(), to, "no_egress")
		ask(f.two.address, to, "foreign_source")
	}
	for _, to := range []netip.Addr{control(1), control(2), routing(endpoint(1, 1), 1)} {
		ask(alice.Addr(), to, "routing_destination")
		ask(control(2), to, "foreign_source")
	}
	for _, to := range []netip.Addr{gatewayAddress, linkLocalOf(GatewayMAC())} { // both are the port's
		ask(alice.Addr(), to, "link_local")
		ask(f.alice.linkLocal(), to, "link_local")
	}
	if n := heard.Load(); n != 0 {
		t.Errorf("%d datagrams arrived", n)
	}
	ok(t, streams.Close())
	for from := range accepted {
		t.Errorf("a connection from %s was accepted", from)
	}
}
