package nat

import (
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// traceroute sends one packet with each hop limit, until the destination answers, and returns who did.
func traceroute(t *testing.T, from *guest, to addr.Stable, probe func(number byte) frame) (path []netip.Addr) {
	t.Helper()
	in, send := from.eth0.capture(), from.eth0.rawSocket()
	for hop := byte(1); hop < 10; hop++ {
		f := probe(hop).hops(hop)
		f.to, f.from = GatewayMAC(), from.eth0.mac
		ok(t, send(f.bytes()))
		reply := in.await("answer to a traceroute", func(b []byte) bool {
			p, isIPv6 := readPacket(b)
			return isIPv6 && p.readUpper() == "" && (p.isError() || p.icmpv6Type() == echoReply)
		})
		p, _ := readPacket(reply)
		path = append(path, p.source)
		if p.source == to.Addr() {
			return path
		}
	}
	return path
}

const (
	echoRequest = 128
	echoReply   = 129
)

// A traceroute shows the sender's host, the routers of the underlay if there are any, then the machine.
func TestTracerouteShowsTheWay(t *testing.T) {
	direct, other := newFleet(t, 1500, true)
	r := newRouter(t, 1500, 1500)
	for _, c := range []struct {
		name     string
		one, two *fleetHost
		routers  []netip.Addr
	}{
		{"hosts on one link", direct, other, nil},
		{"hosts with a router between them", r.hosts[0], r.hosts[1], []netip.Addr{onLink(1, 1)}},
	} {
		a, near, far := c.one.run(alice, false), c.one.run(bob, false), c.two.run(remote, false)
		for to, routers := range map[*guest][]netip.Addr{near: nil, far: c.routers} {
			warm(a, to)
			want := slices.Concat([]netip.Addr{endpoint(1, 1).Addr()}, routers, []netip.Addr{to.Addr()})
			for kind, probe := range map[string]func(byte) frame{
				"UDP": func(n byte) frame {
					f := datagram(alice.Addr(), to.Addr())
					be16(f.payload[2:], 33434+uint16(n))
					be16(f.payload[6:], 0)
					checksummed(unix.IPPROTO_UDP, f.source, f.destination, 6, f.payload)
					return f
				},
				"ICMPv6 echo": func(n byte) frame { return message(alice.Addr(), to.Addr(), echoRequest, n) },
			} {
				if got := traceroute(t, a, to.Stable, probe); !slices.Equal(got, want) {
					t.Errorf("%s, to %s by %s: shows %s, want %s", c.name, to, kind, got, want)
				}
			}
		}
	}
}
