package nat

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// neighbours is the namespace's neighbour table, but for groups.
func (n namespace) neighbours() (all []netlink.Neigh) {
	n.t.Helper()
	n.do(func() (err error) {
		all, err = netlink.NeighList(0, unix.AF_INET6)
		return err
	})
	return slices.DeleteFunc(all, func(e netlink.Neigh) bool { return e.IP.IsMulticast() })
}

// gateway is what the guest knows of fe80::1.
func (g *guest) gateway() (netlink.Neigh, error) {
	for _, e := range g.neighbours() {
		if e.IP.Equal(gatewayAddress.AsSlice()) {
			return e, nil
		}
	}
	return netlink.Neigh{}, fmt.Errorf("%s has no neighbour %s", g, gatewayAddress)
}

// A guest has its address and a route by fe80::1, and finds that by itself, at first and again.
func TestGuestsFindTheirGateway(t *testing.T) {
	one, _ := newFleet(t, 1500, true)
	a, v := one.run(alice, false), one.runVirtual(bob, false).guest
	for _, g := range []*guest{a, v} {
		other := map[*guest]*guest{a: v, v: a}[g]
		warm(g, other)
		e, err := g.gateway()
		ok(t, err)
		if !bytes.Equal(e.HardwareAddr, GatewayMAC()) || e.Flags&netlink.NTF_ROUTER == 0 {
			t.Errorf("%s: its gateway is %s, state %#x, flags %#x", g, e.HardwareAddr, e.State, e.Flags)
		}
		// what is in doubt is asked for again, by a solicitation to the gateway itself
		for _, state := range []int{netlink.NUD_PROBE, netlink.NUD_DELAY} {
			e.State, e.Flags = state, 0
			g.do(func() error { return netlink.NeighSet(&e) })
			eventually(t, fmt.Sprintf("%s: its gateway is reachable", g), func() error {
				now, err := g.gateway()
				if err == nil && now.State != netlink.NUD_REACHABLE {
					err = fmt.Errorf("it is in state %#x", now.State)
				}
				return err
			})
		}
		g.do(func() error { return netlink.NeighDel(&e) })
		warm(g, other)
	}
}

// What a machine says about the link, nobody hears: another guest keeps its gateway, routes and addresses.
func TestMachinesCannotMisleadOthersAboutTheLink(t *testing.T) {
	f := newAbused(t)
	victims := []*guest{f.bob, f.far}
	warm(f.bob, f.far)
	warm(f.far, f.bob)
	view := func(g *guest) string {
		e, err := g.gateway()
		ok(t, err)
		var routes []netlink.Route
		var addresses []netlink.Addr
		g.do(func() (err error) {
			routes, err = netlink.RouteList(nil, unix.AF_INET6)
			if err == nil {
				addresses, err = netlink.AddrList(nil, unix.AF_INET6)
			}
			return err
		})
		return fmt.Sprint(e.HardwareAddr, routes, addresses)
	}
	var before []string
	for _, g := range victims {
		before = append(before, view(g))
	}

	mine := append([]byte{2, 1}, f.alice.eth0.mac...)
	advertisement := append(gatewayAddress.AsSlice(), mine...)
	router := append(make([]byte, 8), append([]byte{3, 4, 64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0}, internet.AsSlice()...)...)
	redirect := append(append(f.alice.linkLocal().AsSlice(), remote.Addr().AsSlice()...), mine...)
	w := watching(append(f.elsewhere(), f.one.stack)...)
	for kind, body := range map[byte][]byte{134: router, 135: gatewayAddress.AsSlice(), 136: advertisement, 137: redirect} {
		for _, to := range []struct {
			address netip.Addr
			reason  string
		}{
			{netip.MustParseAddr("ff02::1"), "multicast"},
			{netip.MustParseAddr("ff02::1:ff00:102"), "multicast"},
			{f.bob.linkLocal(), "link_local"},
			{f.far.linkLocal(), "link_local"},
			{bob.Addr(), "neighbour_discovery"},
			{remote.Addr(), "neighbour_discovery"},
			{endpoint(1, 1).Addr(), "neighbour_discovery"},
		} {
			for _, source := range []netip.Addr{gatewayAddress, f.alice.linkLocal(), alice.Addr()} {
				reason := to.reason
				if reason == "neighbour_discovery" && source != alice.Addr() {
					reason = "link_local"
				}
				m := message(source, to.address, kind, body...).hops(255)
				be16(m.payload[4:], 0xe000) // override, if it is an advertisement
				checksummed(protocolICMPv6, source, to.address, 2, zeroed(m.payload))
				for _, mac := range [][]byte{GatewayMAC(), f.bob.eth0.mac, {0x33, 0x33, 0, 0, 0, 1}} {
					name := fmt.Sprintf("type %d from %s to %s", kind, source, to.address)
					w.refused(f.one, name, reason, f.send, m.between(f.alice.eth0.mac, mac).marked().bytes())
				}
			}
		}
	}
	for i, g := range victims {
		if after := view(g); after != before[i] {
			t.Errorf("%s had\n%s, has\n%s", g, before[i], after)
		}
	}
	warm(f.bob, f.far)
}

// zeroed takes the checksum out of an ICMPv6 message.
func zeroed(message []byte) []byte {
	be16(message[2:], 0)
	return message
}

// Solicitations are answered without a memory of who asked: all namespaces of a computer share one neighbour table.
func TestAFloodOfSolicitationsLeavesTheNeighbourTable(t *testing.T) {
	f := newAbused(t)
	known := func() string {
		var all []string
		for _, e := range f.one.neighbours() {
			all = append(all, fmt.Sprint(e.LinkIndex, e.IP, e.HardwareAddr))
		}
		slices.Sort(all)
		return fmt.Sprint(all)
	}
	before := known()
	in := f.alice.eth0.capture()
	const solicitations = 2000
	for range solicitations {
		source := linkLocalOf(randomBytes(6))
		option := append([]byte{1, 1}, randomBytes(6)...)
		s := solicitation(source, solicitedNode, gatewayAddress, option...).between(f.alice.eth0.mac, GatewayMAC())
		ok(t, f.send(s.bytes()))
	}
	answered := 0
	eventually(t, "all are answered", func() error {
		for in.has(func(b []byte) bool { return len(b) > 54 && b[54] == 136 }) != nil {
			answered++
		}
		if answered < solicitations {
			return fmt.Errorf("%d of %d", answered, solicitations)
		}
		return nil
	})
	if after := known(); after != before {
		t.Errorf("the host's neighbours were %s, are %s", before, after)
	}
	warm(f.bob, f.far)
}
