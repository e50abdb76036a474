package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// Types and codes of ICMPv6 errors (RFC 4443 section 3).
const (
	unreachable, noRoute, noListener = 1, 0, 4
	packetTooBig                     = 2
	timeExceeded                     = 3
	parameterProblem, unknownHeader  = 4, 1
)

// complaint is an ICMPv6 error, as its receiver is to see it.
type complaint struct {
	name       string
	hopLimit   int // of the packet that it is about, and its size
	size       int
	to         addr.Stable
	kind, code byte
	errno      unix.Errno
	mtu        uint32
	by         netip.Prefix
}

func only(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 128) }

// isError tells an ICMPv6 error.
func isError(frame []byte) bool {
	p, isIPv6 := readPacket(frame)
	return isIPv6 && p.readUpper() == "" && p.isError()
}

// check looks at what came in: that all addresses are stable, and the checksums right. sent is the packet that it is
// about, from its IPv6 header on, or its beginning.
func (c complaint) check(t *testing.T, frame []byte, from talker, sent []byte) {
	t.Helper()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: %s\nit came in as\n%s", c.name, fmt.Sprintf(format, args...), hexDiff(frame, frame))
	}
	p, _ := readPacket(frame)
	p.readUpper()
	if p.icmpv6[0] != c.kind || p.icmpv6[1] != c.code {
		fail("type %d code %d, want %d and %d", p.icmpv6[0], p.icmpv6[1], c.kind, c.code)
	}
	if !c.by.Contains(p.source) || p.destination != from.Addr() {
		fail("from %s to %s, want from %s to %s", p.source, p.destination, c.by, from)
	}
	if sum := transportSum(protocolICMPv6, p.source, p.destination, p.icmpv6); sum != 0xffff {
		fail("the checksum is wrong")
	}
	if mtu := binary.BigEndian.Uint32(p.icmpv6[4:]); c.kind == packetTooBig && mtu != c.mtu {
		fail("MTU %d, want %d", mtu, c.mtu)
	}
	quoted := bytes.Clone(p.embedded())
	if quoted == nil {
		fail("it quotes nothing")
		return
	}
	quoted[7] = sent[7] // the hop limit has changed on the way
	if n := min(len(quoted), len(sent)); !bytes.Equal(quoted[:n], sent[:n]) {
		fail("it does not quote what was sent:\n%s", hexDiff(quoted[:n], sent[:n]))
	}
}

// provoke has a socket send what the error is about, and checks what comes in and what the socket is told.
func (c complaint) provoke(t *testing.T, p *prober, in *capture) {
	t.Helper()
	to := netip.AddrPortFrom(c.to.Addr(), 9)
	data := p.send(to, orDefault(c.hopLimit, 64), c.size)
	got := p.told(c.name)
	if got.errno != c.errno || got.kind != c.kind || got.code != c.code || got.to != to || !c.by.Contains(got.by) ||
		c.kind == packetTooBig && got.mtu != c.mtu {
		t.Errorf("%s: the socket is told %s; want %v (type %d code %d, MTU %d) by %s", c.name, got, c.errno, c.kind, c.code, c.mtu, c.by)
	}
	if len(got.data) == 0 || !bytes.HasPrefix(data, got.data) {
		t.Errorf("%s: the socket is told of %d bytes that it has not sent", c.name, len(got.data))
	}
	sent := frame{source: p.from.Addr(), destination: c.to.Addr()}.bytes()[etherLength:]
	frame := in.await(c.name, isError)
	quoted := frame[etherLength+ipv6Length+8:]
	copy(sent, quoted[:8]) // flow label, length: what the socket chose
	c.check(t, frame, p.from, sent)
	if whole := len(quoted) == ipv6Length+8+len(data); whole {
		sum := transportSum(unix.IPPROTO_UDP, addressAt(quoted, 8), addressAt(quoted, 24), quoted[ipv6Length:])
		if sum != 0xffff {
			t.Errorf("%s: the checksum of the quoted packet is wrong", c.name)
		}
	}
}

// shrink gives a machine's port a smaller MTU than the underlay has, as package host would: the route tells the host's
// stack of it, which is to tell senders.
func (h *fleetHost) shrink(g *guest, mtu int) {
	h.t.Helper()
	h.up(g.port.name, mtu)
	h.do(func() error {
		return netlink.RouteAdd(&netlink.Route{
			LinkIndex: h.stack.index, Dst: &net.IPNet{IP: routing(g.Stable, h.id).AsSlice(), Mask: net.CIDRMask(128, 128)},
			MTU: mtu, MTULock: true,
		})
	})
}

// errorsOnTheWay makes a machine of host 1, and says what errors there can be about its packets to a machine of host 2,
// by whom.
func errorsOnTheWay(t *testing.T) (*guest, []complaint) {
	r := newRouter(t, 1480, 1400)
	one, two := r.hosts[0], r.hosts[1]
	one.reaches(r.nextHop(one, 3)) // of which the router knows nothing
	a, b := one.run(alice, false), two.run(remote, false)
	near, small := one.run(bob, false), one.run(stable(5, 1, 0x107), false)
	for _, to := range []*guest{near, small, b} {
		warm(a, to)
	}
	one.shrink(small, 1300)
	two.shrink(b, 1300)
	beyond := stable(5, 1, 0x301)
	self := only(endpoint(1, 1).Addr())
	return a, []complaint{
		{"no listener there", 0, 0, remote, unreachable, noListener, unix.ECONNREFUSED, 0, only(remote.Addr())},
		{"no listener on the same host", 0, 0, bob, unreachable, noListener, unix.ECONNREFUSED, 0, only(bob.Addr())},
		{"no route", 0, 0, beyond, unreachable, noRoute, unix.ENETUNREACH, 0, only(onLink(1, 1))},
		{"last hop, by the sender's host", 1, 0, remote, timeExceeded, 0, unix.EHOSTUNREACH, 0, self},
		{"last hop on the same host", 1, 0, bob, timeExceeded, 0, unix.EHOSTUNREACH, 0, self},
		{"last hop, by the router", 2, 0, remote, timeExceeded, 0, unix.EHOSTUNREACH, 0, only(onLink(1, 1))},
		{"last hop, by the router, cut short", 2, 1390, remote, timeExceeded, 0, unix.EHOSTUNREACH, 0, only(onLink(1, 1))},
		{"too big for the sender's host", 0, 1490, remote, packetTooBig, 0, unix.EMSGSIZE, 1480, self},
		{"too big for the router's far side", 0, 1450, remote, packetTooBig, 0, unix.EMSGSIZE, 1400, only(onLink(1, 1))},
		{"too big for the other machine's port", 0, 1350, remote, packetTooBig, 0, unix.EMSGSIZE, 1300, only(endpoint(1, 2).Addr())},
		{"too big for a port on the same host", 0, 1350, small.Stable, packetTooBig, 0, unix.EMSGSIZE, 1300, self},
	}
}

func TestErrorsReachTheSocketOfTheSender(t *testing.T) {
	a, complaints := errorsOnTheWay(t)
	p, in := a.talker().prober(), a.eth0.capture()
	for _, c := range complaints {
		c.provoke(t, p, in)
	}
}

// Whatever the packet is, the error about it quotes it in stable form.
func TestErrorsQuoteEveryKindOfPacket(t *testing.T) {
	a, complaints := errorsOnTheWay(t)
	in, send := a.eth0.capture(), a.eth0.rawSocket()
	fill := bytes.Repeat([]byte{7}, 1500)
	for _, c := range complaints {
		A, to := alice.Addr(), c.to.Addr()
		room := max(c.size-ipv6Length, 64)
		datagram := frame{source: A, destination: to, payload: checksummed(unix.IPPROTO_UDP, A, to, 6,
			append([]byte{0, 1, 0, 9, byte(room >> 8), byte(room), 0, 0}, fill[:room-8]...))}
		echo := message(A, to, 128, fill[:room-8]...)
		kinds := map[string]frame{
			"a datagram":                datagram,
			"a datagram behind options": frame{source: A, destination: to, payload: datagram.payload[:room-8]}.behind([]byte{60}, padding),
			"an echo request":           echo,
			"a first fragment":          frame{source: A, destination: to, payload: datagram.payload[:(room-8)&^7]}.behind([]byte{44}, firstFragment),
			"a later fragment":          frame{source: A, destination: to, payload: fill[:room-8]}.behind([]byte{44}, secondFragment),
			"an unknown protocol":       {source: A, destination: to, next: 253, payload: fill[:room]},
		}
		if c.code == noListener { // that only a whole datagram can have
			kinds = map[string]frame{"a datagram": datagram}
		}
		for name, f := range kinds {
			c := c // with a name of its own
			c.name += ", of " + name
			f.to, f.from = GatewayMAC(), a.eth0.mac
			if c.hopLimit != 0 {
				f = f.hops(byte(c.hopLimit))
			}
			b := f.bytes()
			ok(t, send(b))
			c.check(t, in.await(c.name, isError), a.talker(), b[etherLength:])
		}
	}
	c := complaint{name: "unknown protocol, by the other machine", kind: parameterProblem, code: unknownHeader, by: only(remote.Addr())}
	f := frame{to: GatewayMAC(), from: a.eth0.mac, source: alice.Addr(), destination: remote.Addr(), next: 253, payload: fill[:20]}.bytes()
	ok(t, send(f))
	c.check(t, in.await(c.name, isError), a.talker(), f[etherLength:])
}

// A router may quote less than the whole header of what it is about behind the addresses, but not less than these.
func TestErrorsThatQuoteLittle(t *testing.T) {
	r := newRouter(t, 1500, 1500)
	one := r.hosts[0]
	a := one.run(alice, false)
	warm(a, r.hosts[1].run(remote, false))
	in, send := a.eth0.capture(), r.links[1].rawSocket()
	source, destination := routing(alice, 1), routing(remote, 2)
	whole := embedded(source, destination)
	sent := embedded(alice.Addr(), remote.Addr())
	for length := range len(whole) + 1 {
		f := message(onLink(1, 1), source, timeExceeded, whole[:length]...)
		f.to, f.from = one.underlay.mac, r.links[1].mac
		before := dropsOf(t, one.Datapath)["outside_source"]
		ok(t, send(f.bytes()))
		if length < ipv6Length {
			eventually(t, fmt.Sprintf("an error that quotes %d bytes is refused", length), func() error {
				if dropsOf(t, one.Datapath)["outside_source"] == before {
					return errors.New("nothing was refused")
				}
				return nil
			})
			continue
		}
		c := complaint{name: fmt.Sprintf("%d bytes quoted", length), kind: timeExceeded, by: only(onLink(1, 1))}
		frame := in.await(c.name, isError)
		c.check(t, frame, a.talker(), sent)
		if got := len(frame) - etherLength - ipv6Length - 8; got != length {
			t.Errorf("%d of %d quoted bytes came in", got, length)
		}
	}
}
