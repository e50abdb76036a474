package host_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/host"
	"ip6d/nat"
)

func TestHostsReachEachOtherThroughTheMesh(t *testing.T) {
	all := newMesh(t, 3)
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			from.reaches(to)
			prefix := fmt.Sprintf("fdab:0:%x::/48", uint32(to.id))
			if route := prefix + " dev " + from.device; !from.hasRoute(route) {
				t.Errorf("host %d lacks the route %q: %q", from.id, route, from.routes())
			}
			want := nat.NextHop{Host: to.id, Ifindex: from.mustLink(from.device).Attrs().Index, Kind: nat.HopL3}
			if got, _ := from.hops.get(to.id); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("host %d reaches host %d by %+v, want %+v", from.id, to.id, got, want)
			}
			if p, _ := from.seen(to); len(p.AllowedIPs) != 1 || p.AllowedIPs[0].String() != prefix {
				t.Errorf("host %d may send from %v to host %d, want %s alone", to.id, p.AllowedIPs, from.id, prefix)
			}
		}
	}
}

func TestTheMeshGoesOverIPv4Too(t *testing.T) {
	f := newFleet(t)
	one, two := f.newMeshHost(1), f.newMeshHost(2)
	over4 := two.peer()
	over4.Endpoint = netip.MustParseAddrPort("192.0.2.2:51820")
	setHosts(t, one.agent, over4)
	setHosts(t, two.agent, one.peer())
	one.reaches(two)
}

func TestAChangeOfTheFleetLeavesOtherSessionsAlone(t *testing.T) {
	f := newFleet(t)
	one, two, three := f.newMeshHost(1), f.newMeshHost(2), f.newMeshHost(3)
	setHosts(t, two.agent, one.peer())
	setHosts(t, three.agent, one.peer())
	setHosts(t, one.agent, two.peer())
	one.reaches(two)
	before, _ := one.seen(two)
	setHosts(t, one.agent, two.peer(), three.peer())
	one.reaches(three)
	setHosts(t, one.agent, two.peer())
	if _, ok := one.seen(three); ok {
		t.Error("a host that is no more is still a peer")
	}
	one.reaches(two)
	after, _ := one.seen(two)
	if before.LastHandshakeTime.IsZero() || !after.LastHandshakeTime.Equal(before.LastHandshakeTime) || after.ReceiveBytes <= before.ReceiveBytes {
		t.Errorf("host 2's session was %+v, is %+v; want the same one, with more bytes", before, after)
	}
}

func TestARemovedHostIsShutOut(t *testing.T) {
	all := newMesh(t, 2)
	one, two := all[0], all[1]
	two.reaches(one)
	setHosts(t, one.agent)
	if peers := one.wireGuard().Peers; len(peers) != 0 {
		t.Errorf("it is still a peer: %+v", peers)
	}
	if _, ok := one.hops.get(2); ok || one.hasRoute("fdab:0:2::/48 dev "+one.device) {
		t.Error("it still has a route or a next hop")
	}
}

func TestAHostCannotSendInTheNameOfAnother(t *testing.T) {
	all := newMesh(t, 3)
	one, two, three := all[0], all[1], all[2]
	one.reaches(two)
	listener := two.listenRaw()
	one.sendRaw(control(three.id), control(two.id), "forged")
	one.sendRaw(control(one.id), control(two.id), "own") // behind it in the same session, which keeps their order
	for {
		source, text := two.receiveRaw(listener)
		if source == netip.MustParseAddr(control(three.id)) || text == "forged" {
			t.Fatalf("host 2 got %q from %s, which host 1 sent", text, source)
		}
		if text == "own" {
			return
		}
	}
}

// sendRaw sends a packet as if from source.
func (h *meshHost) sendRaw(source, destination, text string) {
	h.t.Helper()
	h.do(func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		packet := make([]byte, 40, 100)
		packet[0], packet[5], packet[6], packet[7] = 6<<4, byte(len(text)), rawProtocol, 64
		s, d := netip.MustParseAddr(source).As16(), netip.MustParseAddr(destination).As16()
		copy(packet[8:], s[:])
		copy(packet[24:], d[:])
		return unix.Sendto(fd, append(packet, text...), 0, &unix.SockaddrInet6{Addr: d})
	})
}

func (h *meshHost) listenRaw() *net.IPConn {
	h.t.Helper()
	var c *net.IPConn
	h.do(func() (err error) {
		c, err = net.ListenIP(fmt.Sprintf("ip6:%d", rawProtocol), nil)
		return err
	})
	h.t.Cleanup(func() { c.Close() })
	return c
}

func (h *meshHost) receiveRaw(c *net.IPConn) (netip.Addr, string) {
	h.t.Helper()
	b := make([]byte, 100)
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		h.t.Fatal(err)
	}
	n, from, err := c.ReadFromIP(b)
	if err != nil {
		h.t.Fatal(err)
	}
	return addrOf(from.IP), string(b[:n])
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a
}

func TestAPeerRemovedByHandIsBack(t *testing.T) {
	f := newFleet(t)
	one, two := f.newMeshHost(1), f.newMeshHost(2)
	setHosts(t, two.agent, one.peer())
	setHosts(t, one.agent, two.peer())
	key, err := wgtypes.ParseKey(two.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	one.do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer c.Close()
		return c.ConfigureDevice(one.device, wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: key, Remove: true}}})
	})
	setHosts(t, one.agent, two.peer()) // as good as any other cause to look
	one.reaches(two)
}

func TestAHostWithANewKeyIsTheSameHost(t *testing.T) {
	f := newFleet(t)
	one, two := f.newMeshHost(1), f.newMeshHost(2)
	setHosts(t, two.agent, one.peer())
	setHosts(t, one.agent, two.peer())
	one.reaches(two)
	stale := two.key.Public()
	key, err := host.LoadPrivateKey(filepath.Join(t.TempDir(), "wireguard.key"))
	if err != nil {
		t.Fatal(err)
	}
	two.key = key
	next := two.newAgent(two.options())
	prepare(t, next)
	setHosts(t, one.agent, two.peer())
	one.reaches(two)
	if p, ok := one.seen(two); !ok || p.LastHandshakeTime.IsZero() {
		t.Errorf("the peer by the new key is %+v", p)
	}
	for _, p := range one.wireGuard().Peers {
		if p.PublicKey.String() == stale {
			t.Errorf("the old key is still a peer: %+v", p)
		}
	}
}

func TestAHostThatListensElsewhereIsFound(t *testing.T) {
	all := newMesh(t, 2)
	one, two := all[0], all[1]
	one.reaches(two)
	two.do(func() error { return give("eth0", "192.0.2.200/24") })
	moved := two.peer()
	moved.Endpoint = netip.MustParseAddrPort("192.0.2.200:51820")
	setHosts(t, one.agent, moved)
	if p, _ := one.seen(two); p.Endpoint.String() != moved.Endpoint.String() {
		t.Errorf("host 1 sends to %v, want %v", p.Endpoint, moved.Endpoint)
	}
	one.reaches(two)
}

func TestAHostThatCannotBeAPeerIsLeftOutAlone(t *testing.T) {
	f := newFleet(t)
	h, good := f.newMeshHost(1), f.newMeshHost(2)
	usable := host.Peer{Host: 3, Underlay: netip.MustParseAddr(control(3)), Key: wgtypes.Key{3}.String(), Endpoint: netip.MustParseAddrPort("192.0.2.3:51820")}
	for _, c := range []struct {
		name  string
		wrong func(*host.Peer)
		want  string
	}{
		{"its underlay is a device", func(p *host.Peer) { p.Underlay = netip.MustParseAddr("fd00:6d::3") }, "underlay.type"},
		{"another host's control address", func(p *host.Peer) { p.Underlay = netip.MustParseAddr(control(4)) }, "fdab:0:3::1"},
		{"no key: it runs an older ip6d", func(p *host.Peer) { p.Key = "" }, "WireGuard key"},
		{"no key in base64", func(p *host.Peer) { p.Key = "???" }, "WireGuard key"},
		{"this host's key", func(p *host.Peer) { p.Key = h.key.Public() }, "this host's WireGuard key"},
		{"another host's key", func(p *host.Peer) { p.Key = good.key.Public() }, "hosts 2 and 3 have the same WireGuard key"},
		{"no endpoint", func(p *host.Peer) { p.Endpoint = netip.AddrPort{} }, "endpoint"},
		{"an endpoint without a port", func(p *host.Peer) { p.Endpoint = netip.MustParseAddrPort("192.0.2.3:0") }, "endpoint"},
		{"an endpoint inside the mesh", func(p *host.Peer) { p.Endpoint = netip.MustParseAddrPort("[fdab:0:3::1]:51820") }, "routing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wrong := usable
			c.wrong(&wrong)
			err := h.agent.SetHosts([]host.Peer{wrong, good.peer()})
			if !errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrInvalid with %q", err, c.want)
			}
			if peers := h.wireGuard().Peers; len(peers) != 1 || peers[0].PublicKey.String() != good.key.Public() {
				t.Errorf("the peers are %+v, want host 2 alone", peers)
			}
		})
	}
	setHosts(t, h.agent, usable, good.peer())
}
