package host_test

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host"
)

func TestForwardingKeepsRouterAdvertisementsOfTheUnderlay(t *testing.T) {
	for _, c := range []struct {
		name, accept, want string
	}{
		{"a device that listens goes on to", "1", "2"},
		{"a device that does not listen goes on not to", "0", "0"},
		{"a device that is told to listen stays as it is", "2", "2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newFleet(t).host(1)
			b.sysctl("conf/eth0/accept_ra", c.accept)
			prepare(t, b.newAgent(host.Options{Underlay: "eth0"}))
			if got := b.sysctl("conf/eth0/accept_ra"); got != c.want {
				t.Errorf("accept_ra went from %s to %s, want %s", c.accept, got, c.want)
			}
		})
	}
}

// uplink is a device of a host, and the router at its other end.
type uplink struct {
	*box    // the host's
	router  *box
	device  string // at both ends
	address string // the router's
}

func (b *box) uplink(device string) uplink {
	b.t.Helper()
	u := uplink{box: b, router: newBox(b.t), device: device, address: "fe80::9"}
	b.addVeth(device, u.router, device)
	for _, end := range []*box{u.router, b} {
		end.sysctl("conf/"+device+"/accept_dad", "0")
		end.do(func() error { return up(device) })
	}
	u.router.do(func() error { return give(device, u.address+"/64") })
	return u
}

// advertise sends a router advertisement (RFC 4861 sections 4.2 and 4.6.2). A router's lifetime of 0 says that it is no
// default router.
func (u uplink) advertise(lifetime time.Duration, prefix string) {
	u.t.Helper()
	p := netip.MustParsePrefix(prefix)
	m := []byte{134, 0, 0, 0, 64, 0}
	m = binary.BigEndian.AppendUint16(m, uint16(lifetime/time.Second))
	m = append(m, make([]byte, 8)...)          // reachable time, retransmission timer
	m = append(m, 3, 4, byte(p.Bits()), 0xc0)  // on the link, and for addresses
	m = binary.BigEndian.AppendUint32(m, 7200) // valid, s
	m = binary.BigEndian.AppendUint32(m, 3600) // preferred, s
	m = append(append(m, 0, 0, 0, 0), p.Addr().AsSlice()...)
	u.router.do(func() error {
		c, err := net.ListenPacket("ip6:ipv6-icmp", u.address+"%"+u.device)
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.IPConn).SyscallConn()
		if err != nil {
			return err
		}
		var hops error
		err = raw.Control(func(fd uintptr) {
			hops = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255)
		})
		if err := errors.Join(err, hops); err != nil {
			return err
		}
		_, err = c.WriteTo(m, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: u.device})
		return err
	})
}

func (u uplink) hasDefault() bool { return u.hasRoute("::/0 dev " + u.device + " via " + u.address) }

func (u uplink) hasAddressIn(prefix string) bool {
	p := netip.MustParsePrefix(prefix)
	return slices.ContainsFunc(u.addresses(u.device), func(a netip.Prefix) bool { return p.Contains(a.Addr()) })
}

// newUplinks is a host with three uplinks, which live by router advertisements: by the default route, by an address
// alone, and by nothing yet.
func newUplinks(t *testing.T) (routed, addressed, idle uplink) {
	t.Helper()
	b := newBox(t)
	routed, addressed, idle = b.uplink("wan0"), b.uplink("wan1"), b.uplink("wan2")
	eventually(t, "advertisements are taken", func() bool { // a device that is just up hears none
		routed.advertise(time.Hour, "2001:db8:0:1::/64")
		addressed.advertise(0, "2001:db8:0:2::/64")
		return routed.hasDefault() && addressed.hasAddressIn("2001:db8:0:2::/64")
	})
	return routed, addressed, idle
}

// What the other tests here are against.
func TestForwardingSwitchedOnByHandDropsAdvertisedRoutes(t *testing.T) {
	routed, _, _ := newUplinks(t)
	routed.sysctl("conf/all/forwarding", "1")
	if routed.hasDefault() {
		t.Error("the default route is there: this kernel needs no care, or the tests here see nothing")
	}
}

func TestForwardingKeepsWhatLivesByRouterAdvertisements(t *testing.T) {
	routed, addressed, idle := newUplinks(t)
	prepare(t, routed.newAgent(host.Options{}))
	if !routed.hasDefault() { // no router has advertised anything since
		t.Error("the default route is gone")
	}
	for u, want := range map[uplink]string{routed: "2", addressed: "2", idle: "1"} {
		if got := u.sysctl("conf/" + u.device + "/accept_ra"); got != want {
			t.Errorf("%s has accept_ra %s, want %s", u.device, got, want)
		}
	}
	routed.advertise(0, "2001:db8:0:3::/64")
	eventually(t, "a router that ends is forgotten", func() bool { return !routed.hasDefault() })
	routed.advertise(time.Hour, "2001:db8:0:3::/64")
	addressed.advertise(0, "2001:db8:0:4::/64")
	eventually(t, "later advertisements are taken", func() bool {
		return routed.hasDefault() && routed.hasAddressIn("2001:db8:0:3::/64") && addressed.hasAddressIn("2001:db8:0:4::/64")
	})
}

func TestForwardingSwitchedOffByHandIsSwitchedOnAgain(t *testing.T) {
	routed, _, _ := newUplinks(t)
	a := routed.newAgent(host.Options{})
	prepare(t, a)
	run(t, a)
	routed.sysctl("conf/wan0/accept_ra", "1")
	routed.sysctl("conf/all/forwarding", "0")
	routed.advertise(time.Hour, "2001:db8:0:1::/64")
	eventually(t, "this host forwards, and has a default route", func() bool {
		return routed.sysctl("conf/all/forwarding") == "1" && routed.hasDefault() && routed.sysctl("conf/wan0/accept_ra") == "2"
	})
}

func TestPortsAndStackHearNoRouters(t *testing.T) {
	b, a := newPorts(t, host.Options{Interval: 20 * time.Millisecond})
	guest := newBox(t)
	run(t, a)
	p := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: guest.path(), Configure: true})
	type setting struct {
		in               *box
		device, name, is string
	}
	settings := []setting{
		{b, p.Name, "accept_ra", "0"},
		{b, p.Name, "accept_redirects", "0"},
		{b, p.Name, "forwarding", "1"},
		{b, "ip6d0", "accept_ra", "0"},
		{b, "ip6d0", "accept_redirects", "0"},
		{b, "ip6d0", "forwarding", "1"},
		{guest, "eth0", "accept_ra", "0"},
		{guest, "eth0", "accept_redirects", "0"},
	}
	for _, s := range settings {
		if got := s.in.sysctl("conf/" + s.device + "/" + s.name); got != s.is {
			t.Errorf("%s has %s %s, want %s", s.device, s.name, got, s.is)
		}
		if s.in == guest { // the machine's own from now on
			continue
		}
		t.Run(s.device+" "+s.name+" changed by hand", func(t *testing.T) {
			s.in.sysctl("conf/"+s.device+"/"+s.name, map[string]string{"0": "1", "1": "0"}[s.is])
			eventually(t, "it is mended", func() bool { return s.in.sysctl("conf/"+s.device+"/"+s.name) == s.is })
		})
	}
}

// A kernel does not tell of programs that are taken from devices.
func TestTheDaemonIsToldOfItsDevicesEachInterval(t *testing.T) {
	var stacks told
	var underlays devices
	var ports atomic.Int64
	a := newFleet(t).host(1).newAgent(host.Options{
		Underlay: "eth0", Interval: 20 * time.Millisecond, OnStack: stacks.add, OnUnderlay: underlays.add,
		OnPort: func(host.Port, addr.Stable) error { ports.Add(1); return nil },
	})
	prepare(t, a)
	create(t, a, host.PortSpec{Address: machine(t, 1), Netns: newBox(t).path()})
	run(t, a)
	eventually(t, "it is told again and again", func() bool {
		_, times := stacks.last()
		return times >= 3 && len(underlays.told()) >= 3 && ports.Load() >= 3
	})
}
