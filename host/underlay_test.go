package host_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"ip6d/host"
	"ip6d/nat"
)

func TestADeviceWithoutLinkLayerNeedsNoNextHops(t *testing.T) {
	b, h := newBox(t), newHops()
	tun := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TUN}
	tun.Name = "tun0"
	b.do(func() error { return errors.Join(netlink.LinkAdd(tun), up("tun0"), give("tun0", "fd00:6d::1/64")) })
	a := b.newAgent(host.Options{Underlay: "tun0", NextHops: h})
	prepare(t, a)
	setHosts(t, a, peer(2))
	if route := "fdab:0:2::/48 dev tun0"; !b.hasRoute(route) {
		t.Errorf("the route %q is missing in %q", route, b.routes())
	}
	want := nat.NextHop{Host: 2, Ifindex: b.mustLink("tun0").Attrs().Index, Kind: nat.HopL3}
	if got, _ := h.get(2); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the next hop is %+v, want %+v", got, want)
	}
}
