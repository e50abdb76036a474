package nat

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// newL3Host is a host whose underlay is a TUN device of the test's, by which it reaches hosts 2 and 3. wire returns the next
// packet that leaves by it; nil: there is none yet.
func newL3Host(t *testing.T) (h *fleetHost, send func(packet []byte), wire func() []byte) {
	t.Helper()
	h = &fleetHost{namespace: newNamespace(t), id: 1, address: netip.MustParseAddr("2001:db8::1")}
	tun, file := h.tunDevice("underlay", unix.IFF_TUN, 0, tunMTU)
	h.underlay = tun
	h.start(nil, pinDir(t), tunMTU)
	for _, host := range []addr.Host{2, 3} {
		h.reaches(NextHop{Host: host, Ifindex: tun.index, Kind: HopL3})
	}
	send = func(packet []byte) {
		t.Helper()
		if _, err := file.Write(packet); err != nil {
			t.Fatal(err)
		}
	}
	return h, send, unicast(reader(file), 0, noLink)
}

// arrives waits for the next packet on the wire.
func arrives(t *testing.T, wire func() []byte) *packet {
	t.Helper()
	var p *packet
	eventually(t, "a packet leaves by the underlay", func() error {
		frame := wire()
		if frame == nil {
			return errors.New("there is none")
		}
		var ok bool
		if p, ok = readPacket(frame); !ok {
			t.Fatalf("what left is not IPv6:\n%s", hexDiff(frame, frame))
		}
		return nil
	})
	return p
}

func TestMachineLearnsTheMTUOfAnL3Underlay(t *testing.T) {
	one, _, wire := newL3Host(t)
	a := one.run(alice, false)
	var c net.Conn
	a.do(func() (err error) {
		c, err = net.Dial("udp6", netip.AddrPortFrom(remote.Addr(), 9).String())
		return err
	})
	defer c.Close()
	control := func(f func(fd int) error) {
		t.Helper()
		ok(t, must(c.(*net.UDPConn).SyscallConn()).Control(func(fd uintptr) { ok(t, f(int(fd))) }))
	}
	control(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	})
	eventually(t, "a datagram larger than the underlay's MTU is refused", func() error {
		_, err := c.Write(make([]byte, tunMTU-ipv6Length-8+1))
		if errors.Is(err, unix.EMSGSIZE) {
			return nil
		}
		return fmt.Errorf("write: %v", err)
	})
	control(func(fd int) error {
		mtu, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU)
		if mtu != tunMTU {
			t.Errorf("the machine learned %d, want %d", mtu, tunMTU)
		}
		return err
	})
	data := randomBytes(tunMTU - ipv6Length - 8)
	eventually(t, "a datagram as large as the MTU is sent, once the errors about the larger ones are read", func() error {
		_, err := c.Write(data)
		return err
	})
	p := arrives(t, wire)
	if p.source != routing(alice, 1) || p.destination != routing(remote, 2) || p.hopLimit() != 63 || p.length() != tunMTU || !bytes.HasSuffix(p.frame, data) {
		t.Errorf("on the wire is\n%s", hexDiff(p.frame, p.frame))
	}
}

func TestEndpointTalksOverAnL3Underlay(t *testing.T) {
	one, send, wire := newL3Host(t)
	self := endpoint(1, 1)
	c := one.listenUDP(self.Addr(), 7)
	must(c.WriteToUDPAddrPort([]byte("there"), netip.AddrPortFrom(remote.Addr(), 9)))
	p := arrives(t, wire)
	if p.source != routing(self, 1) || p.destination != routing(remote, 2) || p.hopLimit() != 64 || !bytes.HasSuffix(p.frame, []byte("there")) {
		t.Fatalf("on the wire is\n%s", hexDiff(p.frame, p.frame))
	}
	answer := datagram(routing(remote, 2), routing(self, 1))
	answer.payload = udp(answer.source, answer.destination, []byte("back")...)
	be16(answer.payload[2:], 7) // the port, and the sum that goes with it
	be16(answer.payload[6:], 0)
	checksummed(unix.IPPROTO_UDP, answer.source, answer.destination, 6, answer.payload)
	send(answer.bytes()[etherLength:])
	got := make([]byte, 100)
	c.SetReadDeadline(time.Now().Add(patience))
	n, from, err := c.ReadFromUDPAddrPort(got)
	if err != nil || string(got[:n]) != "back" || from.Addr() != remote.Addr() {
		t.Errorf("came back %q from %s, %v; drops %v", got[:n], from, err, dropsOf(t, one.Datapath))
	}
}

// What the host forwards for others into an L3 underlay goes out, but in nobody's name.
func TestNobodyElseSpeaksAsAMachineIntoAnL3Underlay(t *testing.T) {
	one, _, wire := newL3Host(t)
	lan, outsider := vethPair(one.namespace, newNamespace(t), "lan", "eth0", 1500)
	send := outsider.rawSocket()
	for _, forged := range []netip.Addr{routing(alice, 1), routing(endpoint(1, 1), 1), control(1), alice.Addr()} {
		before := dropsOf(t, one.Datapath)["forwarded"]
		f := datagram(forged, routing(remote, 2))
		f.to, f.from = lan.mac, outsider.mac
		eventually(t, fmt.Sprintf("what says it is from %s is refused", forged), func() error {
			if dropsOf(t, one.Datapath)["forwarded"] > before {
				return nil
			}
			return errors.Join(errors.New("nothing was refused"), send(f.bytes()))
		})
	}
	honest := datagram(internet, routing(remote, 2))
	honest.to, honest.from = lan.mac, outsider.mac
	ok(t, send(honest.bytes()))
	if p := arrives(t, wire); p.source != internet {
		t.Errorf("a forged packet left:\n%s", hexDiff(p.frame, p.frame))
	}
}

// The device of WireGuard has no link layer, and neither has a TUN device; all others here have.
func TestWhichDevicesHaveNoLinkLayer(t *testing.T) {
	n := newNamespace(t)
	n.tunDevice("tun", unix.IFF_TUN, 0, tunMTU)
	n.tunDevice("tap", unix.IFF_TAP, 0, 1500)
	vethPair(n, n, "veth", "peer", 1500)
	n.do(func() error {
		for name, want := range map[string]bool{"tun": true, "tap": false, "veth": false, "lo": false} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if IsL3(l) != want {
				t.Errorf("%s: IsL3 is %v", name, !want)
			}
		}
		return nil
	})
}
