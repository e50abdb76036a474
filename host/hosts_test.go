package host_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/nat"
)

var _ host.NextHops = (*nat.Datapath)(nil)

func peer(h addr.Host) host.Peer { return host.Peer{Host: h, Underlay: underlayAddress(h)} }

func setHosts(t *testing.T, a *host.Agent, all ...host.Peer) {
	t.Helper()
	if err := a.SetHosts(all); err != nil {
		t.Fatal(err)
	}
}

// routeTo is the route to a host on the same link, as routes lists it.
func routeTo(h addr.Host) string {
	return fmt.Sprintf("fdab:0:%x::/48 dev eth0 via %s", uint32(h), underlayAddress(h))
}

func (b *box) mac(device string) string {
	b.t.Helper()
	return b.mustLink(device).Attrs().HardwareAddr.String()
}

// managed reports whether the kernel is told to keep a neighbour on eth0 fresh.
func (b *box) managed(a netip.Addr) (managed bool) {
	b.t.Helper()
	l := b.mustLink("eth0")
	b.do(func() error {
		all, err := netlink.NeighList(l.Attrs().Index, unix.AF_INET6)
		for _, n := range all {
			if n.IP.Equal(a.AsSlice()) && n.FlagsExt&netlink.NTF_EXT_MANAGED != 0 {
				managed = true
			}
		}
		return err
	})
	return managed
}

// pair is two hosts, with a running agent on the first that knows the second.
type pair struct {
	*fleet
	one, two *box
	agent    *host.Agent
	hops     *hops
}

func newPair(t *testing.T, o host.Options) *pair {
	t.Helper()
	f := newFleet(t)
	p := &pair{fleet: f, one: f.host(1), two: f.host(2), hops: newHops()}
	o.Underlay, o.NextHops = "eth0", p.hops
	p.agent = p.one.newAgent(o)
	prepare(t, p.agent)
	setHosts(t, p.agent, peer(2))
	run(t, p.agent)
	return p
}

// resolved waits until the datapath has the MAC that host 2 has now.
func (p *pair) resolved() way {
	p.t.Helper()
	want := p.two.mac("eth0")
	eventually(p.t, "the next hop to host 2 has its MAC "+want, func() bool {
		n, ok := p.hops.get(2)
		return ok && n.MAC.String() == want && n.Trusted > 0
	})
	n, _ := p.hops.get(2)
	return way{n.Ifindex, n.Gateway, n.Source.String()}
}

// way is a next hop without its MAC.
type way struct {
	ifindex int
	gateway netip.Addr
	source  string
}

func TestHostsAreReachedByRouteAndNextHop(t *testing.T) {
	p := newPair(t, host.Options{})
	if !p.one.hasRoute(routeTo(2)) {
		t.Errorf("route %q is missing in %q", routeTo(2), p.one.routes())
	}
	want := way{p.one.mustLink("eth0").Attrs().Index, underlayAddress(2), p.one.mac("eth0")}
	if got := p.resolved(); got != want {
		t.Errorf("the next hop is %+v, want %+v", got, want)
	}
	if !p.one.managed(underlayAddress(2)) {
		t.Error("the kernel was not told to keep the neighbour fresh")
	}
}

func TestAHostThatDoesNotAnswerHasNoTrustedMAC(t *testing.T) {
	p := newPair(t, host.Options{})
	setHosts(t, p.agent, peer(2), peer(99))
	p.resolved()
	if n, ok := p.hops.get(99); !ok || n.MAC != nil || n.Trusted != 0 || n.Gateway != underlayAddress(99) {
		t.Errorf("the next hop to a host that is not there is %+v, %t", n, ok)
	}
}

func TestRemovedHostLeavesNothing(t *testing.T) {
	p := newPair(t, host.Options{})
	p.resolved()
	setHosts(t, p.agent)
	if p.one.hasRoute(routeTo(2)) {
		t.Error("its route is still there")
	}
	if p.one.managed(underlayAddress(2)) {
		t.Error("its neighbour is still managed")
	}
	if n, ok := p.hops.get(2); ok {
		t.Errorf("its next hop is still there: %+v", n)
	}
}

func TestDeletedRouteIsBack(t *testing.T) {
	p := newPair(t, host.Options{})
	for _, prefix := range []string{"fdab:0:2::/48", "fdab:0:1::/48", "fdaa::/16"} {
		before := p.one.routes()
		_, to, _ := net.ParseCIDR(prefix)
		p.one.do(func() error { return netlink.RouteDel(&netlink.Route{Dst: to}) })
		eventually(t, "the route to "+prefix+" is back", func() bool {
			now := p.one.routes()
			slices.Sort(now)
			slices.Sort(before)
			return slices.Equal(now, before)
		})
	}
}

func TestAForeignRouteIsLeftAlone(t *testing.T) {
	p := newPair(t, host.Options{})
	const foreign = "fdab:0:2::/48 dev lo"
	p.one.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		_, to, _ := net.ParseCIDR("fdab:0:2::/48")
		return netlink.RouteAdd(&netlink.Route{Dst: to, LinkIndex: lo.Attrs().Index})
	})
	setHosts(t, p.agent)
	if got := p.one.routes(); !slices.Contains(got, foreign) || slices.Contains(got, routeTo(2)) {
		t.Errorf("after host 2 was removed the routes are %q; want the foreign one, not ip6d's", got)
	}
	setHosts(t, p.agent, peer(2))
	if got := p.one.routes(); !slices.Contains(got, foreign) || !slices.Contains(got, routeTo(2)) {
		t.Errorf("after host 2 was added again the routes are %q; want both", got)
	}
}

func TestAForgottenNeighbourIsFoundAgain(t *testing.T) {
	p := newPair(t, host.Options{})
	p.resolved()
	l := p.one.mustLink("eth0")
	p.one.do(func() error {
		return netlink.NeighDel(&netlink.Neigh{Family: unix.AF_INET6, LinkIndex: l.Attrs().Index, IP: underlayAddress(2).AsSlice()})
	})
	eventually(t, "the neighbour is managed again", func() bool { return p.one.managed(underlayAddress(2)) })
	p.resolved()
}

func TestANeighbourSetByHandIsLeftAlone(t *testing.T) {
	p := newPair(t, host.Options{})
	setHosts(t, p.agent)
	l := p.one.mustLink("eth0")
	mac, _ := net.ParseMAC("02:00:00:00:00:42")
	p.one.do(func() error {
		return netlink.NeighSet(&netlink.Neigh{Family: unix.AF_INET6, LinkIndex: l.Attrs().Index, IP: underlayAddress(2).AsSlice(), HardwareAddr: mac, State: netlink.NUD_PERMANENT})
	})
	setHosts(t, p.agent, peer(2))
	eventually(t, "the next hop has that MAC", func() bool {
		n, _ := p.hops.get(2)
		return n.MAC.String() == mac.String() && n.Trusted > 0
	})
	if p.one.managed(underlayAddress(2)) {
		t.Error("the neighbour is managed, and so not permanent any more")
	}
}

func TestAnotherMACOfAHostIsFollowed(t *testing.T) {
	p := newPair(t, host.Options{})
	p.resolved()
	mac, _ := net.ParseMAC("02:00:00:00:00:22")
	p.two.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, mac)
	})
	if err := p.two.ping(underlayAddress(1).String()); err != nil { // its solicitation tells the new MAC
		t.Fatal(err)
	}
	p.resolved()
}

func TestAnotherMACOfThisHostIsFollowed(t *testing.T) {
	p := newPair(t, host.Options{})
	p.resolved()
	mac, _ := net.ParseMAC("02:00:00:00:00:11")
	p.one.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, mac)
	})
	eventually(t, "the next hop has this host's new MAC", func() bool {
		n, ok := p.hops.get(2)
		return ok && n.Source.String() == mac.String()
	})
	p.resolved()
}

func TestUnderlayThatWasDownIsUsedAgain(t *testing.T) {
	p := newPair(t, host.Options{})
	p.resolved()
	p.one.do(func() error { return down("eth0") })
	eventually(t, "the datapath does not trust the MAC of a host behind a device that is down", func() bool {
		n, ok := p.hops.get(2)
		return ok && n.MAC == nil
	})
	p.one.do(func() error {
		return errors.Join(up("eth0"), give("eth0", underlayAddress(1).String()+"/64"))
	})
	eventually(t, "the route is back", func() bool { return p.one.hasRoute(routeTo(2)) })
	p.resolved()
}

// devices collects what OnUnderlay is told.
type devices struct {
	mu   sync.Mutex
	all  []int
	fail error // what the next call returns
}

func (d *devices) add(ifindex int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.fail; err != nil {
		d.fail = nil
		return err
	}
	d.all = append(d.all, ifindex)
	return nil
}

func (d *devices) told() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.all)
}

func TestReplacedUnderlayIsTakenAgain(t *testing.T) {
	var underlays devices
	p := newPair(t, host.Options{OnUnderlay: underlays.add})
	p.resolved()
	first := p.one.mustLink("eth0").Attrs().Index
	if got := underlays.told(); !slices.Equal(got, []int{first}) {
		t.Fatalf("at the start OnUnderlay was told of %v, want %d once", got, first)
	}
	p.one.delete("eth0")
	p.plug(p.one, 1)
	second := p.one.mustLink("eth0").Attrs().Index
	eventually(t, "OnUnderlay is told of the new device", func() bool {
		return slices.Equal(underlays.told(), []int{first, second})
	})
	eventually(t, "the route is back", func() bool { return p.one.hasRoute(routeTo(2)) })
	eventually(t, "the next hop is by the new device", func() bool { n, _ := p.hops.get(2); return n.Ifindex == second })
	p.resolved()
}

func TestOnUnderlayIsCalledAgainAfterAnError(t *testing.T) {
	var underlays devices
	p := newPair(t, host.Options{OnUnderlay: underlays.add, Interval: 10 * time.Millisecond})
	underlays.mu.Lock()
	underlays.fail = errors.New("no room")
	underlays.mu.Unlock()
	p.one.delete("eth0")
	p.plug(p.one, 1)
	second := p.one.mustLink("eth0").Attrs().Index
	eventually(t, "OnUnderlay is told of the new device, once it can take it", func() bool {
		got := underlays.told()
		return got[len(got)-1] == second
	})
	p.resolved()
}

func TestRunFailsWhenTheUnderlayCannotBeTaken(t *testing.T) {
	want := errors.New("no room")
	b := newFleet(t).host(1)
	a := b.newAgent(host.Options{Underlay: "eth0", OnUnderlay: func(int) error { return want }})
	prepare(t, a)
	if err := a.Run(t.Context()); !errors.Is(err, want) {
		t.Errorf("Run returned %v, want %v", err, want)
	}
}

func TestARoutedUnderlayIsReachedByItsRouter(t *testing.T) {
	p := newPair(t, host.Options{})
	far := netip.MustParseAddr("fd00:beef::2")
	err := p.agent.SetHosts([]host.Peer{{Host: 3, Underlay: far}})
	if !errors.Is(err, host.ErrUnreachable) {
		t.Fatalf("without a route to it SetHosts returned %v, want ErrUnreachable", err)
	}
	router := underlayAddress(2)
	_, to, _ := net.ParseCIDR("fd00:beef::/64")
	p.one.do(func() error { return netlink.RouteAdd(&netlink.Route{Dst: to, Gw: router.AsSlice()}) })
	want := "fdab:0:3::/48 dev eth0 via " + router.String()
	eventually(t, "the new route on the underlay is used", func() bool { return p.one.hasRoute(want) })
	eventually(t, "the next hop is the router", func() bool {
		n, ok := p.hops.get(3)
		return ok && n.Gateway == router && n.MAC.String() == p.two.mac("eth0")
	})
}

func TestOneUnreachableHostKeepsNoOtherFromItsRoute(t *testing.T) {
	p := newPair(t, host.Options{})
	three := p.host(3)
	err := p.agent.SetHosts([]host.Peer{
		peer(2),
		{Host: 9, Underlay: netip.MustParseAddr("fd00:beef::9")},
		peer(3),
	})
	if !errors.Is(err, host.ErrUnreachable) {
		t.Errorf("got %v, want ErrUnreachable", err)
	}
	if got := p.one.routes(); !slices.Contains(got, routeTo(2)) || !slices.Contains(got, routeTo(3)) {
		t.Errorf("the routes are %q; want those to hosts 2 and 3", got)
	}
	eventually(t, "host 3 is resolved", func() bool { n, _ := p.hops.get(3); return n.MAC.String() == three.mac("eth0") })
}

// The kernel drops what it has to tell when nobody reads it, and says only that it did.
func TestAChangeThatWasMissedIsFound(t *testing.T) {
	blocked, release := make(chan bool), make(chan bool)
	p := newPair(t, host.Options{OnPortGone: func(host.Port) { close(blocked); <-release }})
	p.resolved()
	port := create(t, p.agent, host.PortSpec{Address: machine(t, 1), Netns: newBox(t).path()})
	p.one.delete(port.Name)
	<-blocked // and so reads nothing more

	p.one.do(func() error { // more than its socket holds, none of it ip6d's business
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		for i := range 3000 {
			_, to, _ := net.ParseCIDR(fmt.Sprintf("fd00:f:%x::/64", i))
			if err := netlink.RouteAdd(&netlink.Route{Dst: to, LinkIndex: lo.Attrs().Index}); err != nil {
				return err
			}
		}
		_, to, _ := net.ParseCIDR("fdab:0:2::/48")
		return netlink.RouteDel(&netlink.Route{Dst: to})
	})
	close(release)
	eventually(t, "the route that went meanwhile is back", func() bool { return p.one.hasRoute(routeTo(2)) })
}

func TestTrustIsRenewedWithoutACause(t *testing.T) {
	p := newPair(t, host.Options{Interval: 10 * time.Millisecond})
	p.resolved()
	before := p.hops.count()
	eventually(t, "the next hop is put again", func() bool { return p.hops.count() > before+3 })
}

func TestARestartDropsOnlyWhatIsNotWantedAnyMore(t *testing.T) {
	f := newFleet(t)
	b, h := f.host(1), newHops()
	f.host(2)
	three := f.host(3)
	o := host.Options{Underlay: "eth0", NextHops: h}
	first := b.newAgent(o)
	prepare(t, first)
	stop := run(t, first)
	setHosts(t, first, peer(2), peer(3))
	stop()

	second := b.newAgent(o)
	prepare(t, second)
	run(t, second)
	if got := b.routes(); !slices.Contains(got, routeTo(2)) || !slices.Contains(got, routeTo(3)) {
		t.Fatalf("before SetHosts the routes are %q; want those of the first run", got)
	}
	setHosts(t, second, peer(3))
	if got := b.routes(); slices.Contains(got, routeTo(2)) || !slices.Contains(got, routeTo(3)) {
		t.Errorf("the routes are %q; want that to host 3 alone", got)
	}
	if _, ok := h.get(2); ok {
		t.Error("the next hop to host 2 is still there")
	}
	if b.managed(underlayAddress(2)) || !b.managed(underlayAddress(3)) {
		t.Error("the neighbours are not that of host 3 alone")
	}
	eventually(t, "host 3 is resolved", func() bool { n, _ := h.get(3); return n.MAC.String() == three.mac("eth0") })
}

func TestAWrongHostIsLeftOut(t *testing.T) {
	p := newPair(t, host.Options{})
	with := func(h addr.Host, a string) []host.Peer {
		address, _ := netip.ParseAddr(a)
		return []host.Peer{{Host: h, Underlay: address}}
	}
	for _, c := range []struct {
		name  string
		hosts []host.Peer
	}{
		{"host 0", with(0, "fd00:6d::3")},
		{"this host", with(1, "fd00:6d::3")},
		{"twice the same", append(with(3, "fd00:6d::3"), with(3, "fd00:6d::4")...)},
		{"no address", with(3, "")},
		{"an IPv4 address", with(3, "192.0.2.1")},
		{"an IPv4 address in IPv6", with(3, "::ffff:192.0.2.1")},
		{"a multicast address", with(3, "ff02::1")},
		{"the unspecified address", with(3, "::")},
		{"an address with a zone", with(3, "fe80::3%eth0")},
		{"a stable address", with(3, "fdaa:0:2a:1:0:0:105:2")},
		{"a routing address", with(3, "fdab:0:3::1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			setHosts(t, p.agent)
			if err := p.agent.SetHosts(append(c.hosts, peer(2))); !errors.Is(err, host.ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
			if !p.one.hasRoute(routeTo(2)) {
				t.Error("the route to host 2, with which nothing is wrong, is missing")
			}
		})
	}
}

func TestWithoutAnUnderlayThereAreNoOtherHosts(t *testing.T) {
	a := newBox(t).newAgent(host.Options{})
	prepare(t, a)
	run(t, a)
	if err := a.SetHosts(nil); err != nil {
		t.Errorf("no hosts: %v", err)
	}
	if err := a.SetHosts([]host.Peer{peer(2)}); !errors.Is(err, host.ErrNoUnderlay) {
		t.Errorf("got %v, want ErrNoUnderlay", err)
	}
}

func TestNewNamesWhatIsWrong(t *testing.T) {
	b := newBox(t)
	b.addVeth("narrow", nil, "peer")
	b.do(func() error {
		l, err := netlink.LinkByName("narrow")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1279)
	})
	for _, c := range []struct {
		name    string
		options host.Options
		want    error
	}{
		{"no such underlay", host.Options{Underlay: "eth7"}, host.ErrNoDevice},
		{"the loopback device", host.Options{Underlay: "lo"}, host.ErrNotUnderlay},
		{"an MTU too small for IPv6", host.Options{Underlay: "narrow"}, host.ErrNotUnderlay},
		{"a negative interval", host.Options{Interval: -1}, host.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := b.tryAgent(c.options); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	for _, o := range []host.Options{{Host: 1}, {Plan: addr.DefaultPlan}} {
		if _, err := host.New(o); !errors.Is(err, host.ErrInvalid) {
			t.Errorf("New(%+v) returned %v, want ErrInvalid", o, err)
		}
	}
}
