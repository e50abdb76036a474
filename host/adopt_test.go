package host_test

import (
	"bytes"
	"errors"
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/nat"
)

// addTap makes a TAP that stays without a process at its other end.
func addTap(b *box, name string) {
	b.t.Helper()
	tap := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TAP}
	tap.Name = name
	b.do(func() error { return netlink.LinkAdd(tap) })
}

func TestAnAdoptedDeviceIsAPortAndIsGivenBack(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	addTap(b, "tap0")
	b.do(func() error {
		l, err := netlink.LinkByName("tap0")
		if err != nil {
			return err
		}
		return netlink.LinkSetAlias(l, "vm 7, was it?")
	})
	before := b.mustLink("tap0").Attrs()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	s := machine(t, 1)
	p, err := a.AdoptPort("tap0", s, mac)
	if err != nil {
		t.Fatal(err)
	}
	want := host.Port{Name: "tap0", Ifindex: before.Index, Address: s, Enter: nat.EnterDevice, MAC: mac, MTU: before.MTU}
	if !samePort(p, want) {
		t.Errorf("the port is %+v, want %+v", p, want)
	}
	if at := b.mustLink("tap0").Attrs(); at.Flags&net.FlagUp == 0 || at.HardwareAddr.String() != nat.GatewayMAC().String() {
		t.Errorf("the device is %+v; want it up, with the gateway's MAC", at)
	}
	if got := b.addresses("tap0"); !slices.Contains(got, gateway) {
		t.Errorf("the device has %v, want also %v", got, gateway)
	}
	if again, err := a.AdoptPort("tap0", s, mac); err != nil || !samePort(again, p) {
		t.Errorf("the same again returned %+v, %v", again, err)
	}

	for range 2 {
		if err := a.RemovePort(p); err != nil {
			t.Fatal(err)
		}
	}
	at := b.mustLink("tap0").Attrs()
	if at.Index != before.Index || at.HardwareAddr.String() != before.HardwareAddr.String() || at.Alias != before.Alias {
		t.Errorf("the device was given back as %+v, and was %+v", at, before)
	}
	if at.Flags&net.FlagUp != 0 {
		t.Error("it was given back up: its machine would reach the host's stack unchecked")
	}
	if got := b.addresses("tap0"); len(got) != 0 {
		t.Errorf("it still has %v", got)
	}
}

func TestHowAnAdoptedVethIsEnteredDependsOnItsPeer(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	b.addVeth("far", newBox(t), "eth0")
	b.addVeth("near", nil, "nearer")
	for i, c := range []struct {
		device string
		want   nat.Enter
	}{{"far", nat.EnterPeer}, {"near", nat.EnterDevice}} {
		p, err := a.AdoptPort(c.device, machine(t, addr.Machine(i)), nil)
		if err != nil || p.Enter != c.want {
			t.Errorf("%s is entered by %d, %v; want %d", c.device, p.Enter, err, c.want)
		}
	}
}

func TestWhatHasAnotherPurposeIsNotAdopted(t *testing.T) {
	refused := errors.New("no room")
	b := newFleet(t).host(1)
	a := b.newAgent(host.Options{Underlay: "eth0", OnPort: func(_ host.Port, s addr.Stable) error {
		if s.Machine() == 0x666 {
			return refused
		}
		return nil
	}})
	prepare(t, a)
	for _, name := range []string{"numbered", "narrow", "enslaved", "fine"} {
		b.addVeth(name, nil, name+"p")
	}
	b.do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		bridge.Name = "br0"
		tun := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TUN}
		tun.Name = "tun0"
		err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkAdd(tun), give("numbered", "2001:db8::1/64"))
		narrow, e1 := netlink.LinkByName("narrow")
		enslaved, e2 := netlink.LinkByName("enslaved")
		if err := errors.Join(err, e1, e2); err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMTU(narrow, 1279), netlink.LinkSetMaster(enslaved, bridge))
	})
	guest := newBox(t)
	created := create(t, a, host.PortSpec{Address: machine(t, 8), Netns: guest.path()})
	addTap(b, "tap9")
	if _, err := a.AdoptPort("tap9", machine(t, 9), nil); err != nil {
		t.Fatal(err)
	}

	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, c := range []struct {
		name, device string
		address      addr.Stable
		mac          net.HardwareAddr
		want         error
	}{
		{"no such device", "tap7", machine(t, 1), mac, host.ErrNoDevice},
		{"no name", "", machine(t, 1), mac, host.ErrInvalid},
		{"no address", "fine", addr.Stable{}, mac, host.ErrInvalid},
		{"a multicast MAC", "fine", machine(t, 1), net.HardwareAddr{1, 0, 0, 0, 0, 1}, host.ErrInvalid},
		{"the loopback device", "lo", machine(t, 1), mac, host.ErrNotPort},
		{"the underlay", "eth0", machine(t, 1), mac, host.ErrNotPort},
		{"ip6d0", "ip6d0", machine(t, 1), mac, host.ErrNotPort},
		{"the peer of ip6d0", "ip6d0p", machine(t, 1), mac, host.ErrNotPort},
		{"a bridge", "br0", machine(t, 1), mac, host.ErrNotPort},
		{"a bridge's port", "enslaved", machine(t, 1), mac, host.ErrNotPort},
		{"a TUN, which is not Ethernet", "tun0", machine(t, 1), mac, host.ErrNotPort},
		{"a device with an address", "numbered", machine(t, 1), mac, host.ErrNotPort},
		{"a device too small for IPv6", "narrow", machine(t, 1), mac, host.ErrNotPort},
		{"a port that was made", created.Name, machine(t, 8), nil, host.ErrPortExists},
		{"another machine's port", "tap9", machine(t, 1), mac, host.ErrPortExists},
		{"the machine's port with another MAC", "tap9", machine(t, 9), mac, host.ErrPortExists},
		{"the daemon cannot take it", "fine", machine(t, 0x666), mac, refused},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := b.picture()
			if p, err := a.AdoptPort(c.device, c.address, c.mac); !errors.Is(err, c.want) {
				t.Errorf("got %+v, %v; want %v", p, err, c.want)
			}
			if after := b.picture(); after != before {
				t.Errorf("the host changed from\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestTheGatewayAnswersAMachineBehindATAP(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	// Like a hypervisor: the process holds the TAP open, and its frames are the machine's.
	tap := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI, Queues: 1, NonPersist: true}
	tap.Name = "tap0"
	b.do(func() error { return netlink.LinkAdd(tap) })
	fd := int(tap.Fds[0].Fd())
	t.Cleanup(func() { tap.Fds[0].Close() })
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	s := machine(t, 1)
	p, err := a.AdoptPort("tap0", s, nil)
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]byte, 2000)
	eventually(t, "the gateway advertises its MAC", func() bool {
		// Again and again, as a machine does: the kernel may not listen yet when the device has just come up.
		if _, err := unix.Write(fd, solicitation(t, p)); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := unix.Read(fd, frame)
			if err != nil {
				return false
			}
			const advertisement, optionAt = 136, 14 + 40 + 24 // RFC 4861 section 4.4
			if n >= optionAt+8 && frame[14+40] == advertisement &&
				bytes.Equal(frame[optionAt+2:optionAt+8], nat.GatewayMAC()) && bytes.Equal(frame[:6], p.MAC) {
				return true
			}
		}
	})
}

// solicitation is the frame by which the machine asks for the gateway's MAC (RFC 4861 section 4.3).
func solicitation(t *testing.T, p host.Port) []byte {
	t.Helper()
	from, to, target := net.ParseIP("fe80::9"), net.ParseIP("ff02::1:ff00:1"), net.ParseIP("fe80::1")
	body := bytes.Join([][]byte{make([]byte, 4), target, {1, 1}, p.MAC}, nil) // with the machine's own MAC
	message, err := (&icmp.Message{Type: ipv6.ICMPTypeNeighborSolicitation, Body: &icmp.RawBody{Data: body}}).
		Marshal(icmp.IPv6PseudoHeader(from, to))
	if err != nil {
		t.Fatal(err)
	}
	header := []byte{0x60, 0, 0, 0, 0, byte(len(message)), 58, 255}
	return bytes.Join([][]byte{{0x33, 0x33, 0xff, 0, 0, 1}, p.MAC, {0x86, 0xdd}, header, from, to, message}, nil)
}
