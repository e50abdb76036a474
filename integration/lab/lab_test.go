package lab

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"ip6d/addr"
	"ip6d/host/netns"
	"ip6d/integration/lab/labtest"
)

// pair is two machines with nothing but a cable between them, and no ip6d: to test the tools that test it.
func pair(t *testing.T) (a, b *Machine) {
	t.Helper()
	labtest.RequireRoot(t)
	machine := func(number addr.Machine) *Machine {
		ns, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		m := &Machine{Name: fmt.Sprintf("m%d", number), Network: 42, space: &space{ns: ns}}
		t.Cleanup(func() {
			if err := m.space.close(); err != nil {
				t.Error(err)
			}
		})
		if m.Stable, err = addr.DefaultPlan.Stable(42, 1, number); err != nil {
			t.Fatal(err)
		}
		if err := m.space.open(); err != nil {
			t.Fatal(err)
		}
		if err := m.space.configure("lo", netip.PrefixFrom(m.Stable.Addr(), 128)); err != nil {
			t.Fatal(err)
		}
		return m
	}
	a, b = machine(1), machine(2)
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace = "eth0", "eth0", netlink.NsFd(b.space.ns.FD())
	if err := a.space.link.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	for i, m := range []*Machine{a, b} {
		if err := m.space.configure("eth0", netip.PrefixFrom(underlayAddress(1+i), 64)); err != nil {
			t.Fatal(err)
		}
		if err := m.space.computeChecksums("eth0"); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range []*Machine{a, b} {
		link, err := m.space.link.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		route := netlink.Route{LinkIndex: link.Attrs().Index, Gw: underlayAddress(2 - i).AsSlice(), Src: m.Stable.Addr().AsSlice(),
			Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
		if err := m.space.link.RouteReplace(&route); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}
