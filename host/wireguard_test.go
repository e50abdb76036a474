package host_test

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/nat"
)

// The mesh of the tests: hosts on a switch, on whose eth0 WireGuard's UDP goes.
//
//	host 1: wg1 fdab:0:1::1/128        host 2: wg2 fdab:0:2::1/128
//	  eth0 fd00:6d::1/64, 192.0.2.1/24   eth0 fd00:6d::2/64, 192.0.2.2/24

// wireGuardPort is where all listen.
const wireGuardPort = 51820

// devices counts WireGuard devices, as their names must be unique on a computer.
var meshDevices atomic.Uint32

// meshHost is a host of the mesh.
type meshHost struct {
	mtu int // 0: the default
	*box
	id     addr.Host
	device string
	key    host.PrivateKey
	hops   *hops
	agent  *host.Agent

	lifeline *os.File // of its WireGuard process, where the kernel has no WireGuard
}

// newMeshHost makes a host with an agent that runs, and knows no other host.
func (f *fleet) newMeshHost(id addr.Host) *meshHost {
	f.t.Helper()
	key, err := host.LoadPrivateKey(filepath.Join(f.t.TempDir(), "wireguard.key"))
	if err != nil {
		f.t.Fatal(err)
	}
	h := &meshHost{box: f.host(id), id: id, device: fmt.Sprintf("wg%d", meshDevices.Add(1)), key: key, hops: newHops()}
	h.do(func() error { return give("eth0", fmt.Sprintf("192.0.2.%d/24", id)) })
	lifeline, ours, err := os.Pipe()
	if err != nil {
		f.t.Fatal(err)
	}
	h.lifeline = lifeline
	f.t.Cleanup(func() { lifeline.Close(); ours.Close() })
	h.agent = h.newAgent(h.options())
	prepare(f.t, h.agent)
	eventually(f.t, "it has its control address", h.hasControl)
	return h
}

// hasControl reports whether the host takes packets for its control address: the kernel does so some time after it was
// given the address.
func (h *meshHost) hasControl() (has bool) {
	h.t.Helper()
	h.do(func() error {
		routes, err := netlink.RouteGet(net.ParseIP(control(h.id)))
		has = len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL
		return err
	})
	return has
}

func (h *meshHost) options() host.Options {
	return host.Options{
		Host: h.id, Underlay: h.device, NextHops: h.hops,
		WireGuard: &host.WireGuard{Key: h.key, Port: wireGuardPort, MTU: cmp.Or(h.mtu, host.DefaultWireGuardMTU), Userspace: h.userspace},
	}
}

// userspace is this test binary as a WireGuard process, which ends with the test.
func (h *meshHost) userspace(device string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asWireGuard+"="+device)
	cmd.ExtraFiles = []*os.File{h.lifeline}
	return cmd
}

func control(h addr.Host) string { return fmt.Sprintf("fdab:0:%x::1", uint32(h)) }

// peer is the host as its record tells of it.
func (h *meshHost) peer() host.Peer {
	return host.Peer{
		Host: h.id, Underlay: netip.MustParseAddr(control(h.id)),
		Key: h.key.Public(), Endpoint: netip.AddrPortFrom(underlayAddress(h.id), wireGuardPort),
	}
}

// newMesh makes hosts that know each other.
func newMesh(t *testing.T, hosts int) []*meshHost {
	t.Helper()
	f := newFleet(t)
	var all []*meshHost
	for id := range hosts {
		h := f.newMeshHost(addr.Host(id + 1))
		run(t, h.agent)
		all = append(all, h)
	}
	for _, h := range all {
		setHosts(t, h.agent, others(all, h)...)
	}
	return all
}

// others are the hosts that h is to know.
func others(all []*meshHost, h *meshHost) (peers []host.Peer) {
	for _, o := range all {
		if o != h {
			peers = append(peers, o.peer())
		}
	}
	return peers
}

// reaches pings another host's control address through the mesh.
func (h *meshHost) reaches(o *meshHost) {
	h.t.Helper()
	// Where both begin a session at once, a packet that was waiting for one may be lost.
	eventually(h.t, fmt.Sprintf("host %d reaches host %d", h.id, o.id), func() bool { return h.ping(control(o.id)) == nil })
}

// wireGuard reads the host's device as wg(8) does.
func (h *meshHost) wireGuard() (d *wgtypes.Device) {
	h.t.Helper()
	h.do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		defer c.Close()
		d, err = c.Device(h.device)
		return err
	})
	return d
}

// seen is what the host's WireGuard has of another one; false: it is no peer.
func (h *meshHost) seen(o *meshHost) (wgtypes.Peer, bool) {
	h.t.Helper()
	peers := h.wireGuard().Peers
	i := slices.IndexFunc(peers, func(p wgtypes.Peer) bool { return p.PublicKey.String() == o.key.Public() })
	if i < 0 {
		return wgtypes.Peer{}, false
	}
	return peers[i], true
}

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

func TestPortsAndTheStackHaveTheMTUOfTheMesh(t *testing.T) {
	f := newFleet(t)
	h := f.newMeshHost(1)
	run(t, h.agent)
	p := create(t, h.agent, host.PortSpec{Address: machine(t, 0x105), Netns: newBox(t).path(), Configure: true})
	for _, device := range []string{h.device, host.StackDevice, p.Name} {
		if mtu := h.mustLink(device).Attrs().MTU; mtu != 1420 {
			t.Errorf("%s has MTU %d, want 1420", device, mtu)
		}
	}
}

func TestTheMeshTakesAnotherMTUWhenItIsSet(t *testing.T) {
	f := newFleet(t)
	h := f.newMeshHost(1)
	before := h.mustLink(h.device).Attrs().Index
	h.mtu = 1380
	prepare(t, h.newAgent(h.options()))
	for _, device := range []string{h.device, host.StackDevice} {
		if mtu := h.mustLink(device).Attrs().MTU; mtu != 1380 {
			t.Errorf("%s has MTU %d, want 1380", device, mtu)
		}
	}
	if now := h.mustLink(h.device).Attrs().Index; now != before {
		t.Errorf("the device was made anew: %d, was %d", now, before)
	}
	h.mtu = 1279
	if _, err := h.tryAgent(h.options()); !errors.Is(err, host.ErrInvalid) {
		t.Errorf("MTU 1279: error %v, want ErrInvalid", err)
	}
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

// rawProtocol is a protocol that nothing else speaks (RFC 3692 section 2.1).
const rawProtocol = 253

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

func TestTheMeshOutlivesItsAgentAndTheNextTakesItOver(t *testing.T) {
	f := newFleet(t)
	one, two := f.newMeshHost(1), f.newMeshHost(2)
	setHosts(t, two.agent, one.peer())
	setHosts(t, one.agent, two.peer())
	stop := run(t, one.agent)
	one.reaches(two)
	before, _ := one.seen(two)
	stop()
	one.reaches(two)

	next := one.newAgent(one.options())
	prepare(t, next)
	setHosts(t, next, two.peer())
	run(t, next)
	one.reaches(two)
	after, _ := one.seen(two)
	if !after.LastHandshakeTime.Equal(before.LastHandshakeTime) {
		t.Errorf("the next agent made a new session: handshakes at %v and %v", before.LastHandshakeTime, after.LastHandshakeTime)
	}
}

func TestADeletedDeviceIsBackWithItsPeers(t *testing.T) {
	all := newMesh(t, 2)
	one, two := all[0], all[1]
	one.reaches(two)
	one.delete(one.device)
	eventually(t, "the device is back, and its peer", func() bool {
		l := one.link(one.device)
		hop, ok := one.hops.get(2)
		return l != nil && ok && hop.Ifindex == l.Attrs().Index && one.hasRoute("fdab:0:2::/48 dev "+one.device) && one.hasControl()
	})
	one.reaches(two)
}

// Else what the others send into their sessions of before would be lost, for as long as nothing is sent to them.
func TestANewDeviceMakesNewSessionsBeforeAnybodySends(t *testing.T) {
	all := newMesh(t, 2)
	one, two := all[0], all[1]
	one.reaches(two)
	before, _ := one.seen(two)
	two.delete(two.device)
	eventually(t, "host 1 has another session with host 2", func() bool {
		now, _ := one.seen(two)
		return now.LastHandshakeTime.After(before.LastHandshakeTime)
	})
	one.reaches(two)
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

func TestADeviceThatIp6dDidNotMakeIsLeftAlone(t *testing.T) {
	for _, kind := range []netlink.Link{&netlink.Veth{PeerName: "peer"}, &netlink.Tuntap{Mode: netlink.TUNTAP_MODE_TUN}} {
		t.Run(kind.Type(), func(t *testing.T) {
			h := &meshHost{box: newBox(t), id: 1, device: "taken", hops: newHops()}
			key, err := host.LoadPrivateKey(filepath.Join(t.TempDir(), "wireguard.key"))
			if err != nil {
				t.Fatal(err)
			}
			h.key = key
			*kind.Attrs() = netlink.NewLinkAttrs()
			kind.Attrs().Name = h.device
			h.do(func() error { return netlink.LinkAdd(kind) })
			before := h.picture()
			if _, err := h.newAgent(h.options()).Prepare(); !errors.Is(err, host.ErrNotUnderlay) || !strings.Contains(err.Error(), "underlay.device") {
				t.Errorf("error %v, want ErrNotUnderlay with what to do", err)
			}
			if after := h.picture(); after != before {
				t.Errorf("it was changed from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// Also where the kernel has WireGuard, which needs no such process.
func TestAWireGuardProcessRefusesTheNameOfAnother(t *testing.T) {
	lifeline, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lifeline.Close(); ours.Close() })
	device := fmt.Sprintf("wg%d", meshDevices.Add(1))
	serve := func() (*box, *exec.Cmd, *bufio.Reader, *bytes.Buffer) {
		b, said := newBox(t), &bytes.Buffer{}
		cmd := (&meshHost{box: b, lifeline: lifeline}).userspace(device)
		answer, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = said
		if err := b.Start(cmd); err != nil {
			t.Fatal(err)
		}
		return b, cmd, bufio.NewReader(answer), said
	}
	one, first, answer, _ := serve()
	if line, err := answer.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the first says %q (%v)", line, err)
	}
	two, second, answer, said := serve()
	if line, err := answer.ReadString('\n'); line != "" || !errors.Is(err, io.EOF) {
		t.Errorf("the second says %q (%v)", line, err)
	}
	if err := second.Wait(); err == nil || !strings.Contains(said.String(), "another network namespace") {
		t.Errorf("the second ended with %v, and says %q", err, said)
	}
	if two.link(device) != nil {
		t.Error("it made the device nonetheless")
	}
	one.delete(device)
	if err := first.Wait(); err != nil {
		t.Errorf("when its device was deleted, the first ended with %v", err)
	}
}

// As one that was stopped, or is stuck: its socket takes connections, and nobody reads from them.
func TestAWireGuardProcessThatDoesNotAnswerIsNamedAndNotWaitedForForEver(t *testing.T) {
	h := &meshHost{box: newBox(t), id: 1, device: fmt.Sprintf("wg%d", meshDevices.Add(1)), hops: newHops()}
	key, err := host.LoadPrivateKey(filepath.Join(t.TempDir(), "wireguard.key"))
	if err != nil {
		t.Fatal(err)
	}
	h.key = key
	h.do(func() error {
		tun := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TUN}
		tun.Name = h.device
		return errors.Join(netlink.LinkAdd(tun), netlink.LinkSetAlias(tun, "ip6d underlay"))
	})
	if err := os.MkdirAll("/var/run/wireguard", 0o700); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("unix", "/var/run/wireguard/"+h.device+".sock")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, err = h.newAgent(h.options()).Prepare()
	if way := fmt.Sprintf("kill -9 %d", os.Getpid()); !errors.Is(err, host.ErrNoUnderlay) || !strings.Contains(err.Error(), way) {
		t.Errorf("error %v, want ErrNoUnderlay and %q", err, way)
	}
}

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

func TestRemoveWireGuardLeavesNothing(t *testing.T) {
	f := newFleet(t)
	h := f.newMeshHost(1)
	for range 2 {
		if err := h.agent.RemoveWireGuard(); err != nil {
			t.Fatal(err)
		}
		h.hasNoMesh(h.device)
	}
}

// hasNoMesh checks that neither a device of that name is left, nor its process.
func (h *meshHost) hasNoMesh(device string) {
	h.t.Helper()
	if h.link(device) != nil {
		h.t.Errorf("device %s is still there", device)
	}
	if _, err := os.Stat("/var/run/wireguard/" + device + ".sock"); !errors.Is(err, os.ErrNotExist) {
		h.t.Errorf("the process of %s is still there (%v)", device, err)
	}
}

func TestAMeshThatIsNotWantedAnyMoreIsRemoved(t *testing.T) {
	f := newFleet(t)
	h := f.newMeshHost(1)
	before := h.device
	h.device = fmt.Sprintf("wg%d", meshDevices.Add(1))
	prepare(t, h.newAgent(h.options())) // on the same UDP port
	h.hasNoMesh(before)
	if port := h.wireGuard().ListenPort; port != wireGuardPort {
		t.Errorf("under its new name it listens at %d, want %d", port, wireGuardPort)
	}
	prepare(t, h.newAgent(host.Options{Underlay: "eth0"}))
	h.hasNoMesh(h.device)
}
