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

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/addr"
	"ip6d/host"
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

// rawProtocol is a protocol that nothing else speaks (RFC 3692 section 2.1).
const rawProtocol = 253

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
