package nat

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The underlay may be a VLAN's device; what leaves it has the tag on the wire. Where the kernel has no such devices
// (CONFIG_VLAN_8021Q), only the wire itself is tried; that of `make test-kernel` has them.
func TestWhatTheUnderlayCarriesHasItsTag(t *testing.T) {
	needsRoot(t)
	tags := []int{0}
	if hasVLAN(t) {
		tags = append(tags, 7)
	}
	for _, tag := range tags {
		t.Run(fmt.Sprintf("tag %d", tag), func(t *testing.T) {
			const mtu = 1400
			one, two := newFleet(t, mtu, true)
			if tag != 0 {
				one.overVLAN(two, tag)
			}
			tagOf := two.wire()
			a, b := one.run(alice, false), two.run(remote, false)
			warm(a, b)
			for _, pair := range [][2]*guest{{a, b}, {b, a}} {
				data := randomBytes(1 << 20)
				got := sendTCP(pair[0].namespace, pair[0].Addr(), pair[1].namespace, pair[1].Addr(), data)
				if !bytes.Equal(got, data) {
					t.Errorf("from %s: %d of %d bytes arrived right", pair[0], len(got), len(data))
				}
			}
			seen := 0
			for got, ok := tagOf(routing(remote, 2)); ok; got, ok = tagOf(routing(remote, 2)) {
				if seen++; got != tag {
					t.Fatalf("on the wire a packet has tag %d, want %d", got, tag)
				}
			}
			if seen == 0 {
				t.Error("no packet was seen on the wire")
			}
		})
	}
}

// hasVLAN reports whether the kernel has VLANs' devices.
func hasVLAN(t *testing.T) bool {
	t.Helper()
	var err error
	newNamespace(t).do(func() error {
		if err := addVeth("wire", "far", 77); err != nil {
			return err
		}
		err = netlink.LinkAdd(vlan(77, 7))
		return nil
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatalf("add a VLAN's device: %v", err)
	}
	return err == nil
}

func vlan(wire, tag int) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "vlan", wire
	return &netlink.Vlan{LinkAttrs: attrs, VlanId: tag}
}

// overVLAN has two hosts reach each other by a VLAN on the wire that was their underlay.
func (h *fleetHost) overVLAN(other *fleetHost, tag int) {
	h.t.Helper()
	devices := make(map[*fleetHost]device)
	for _, h := range []*fleetHost{h, other} {
		h.do(func() error { return netlink.LinkAdd(vlan(h.underlay.index, tag)) })
		d := h.up("vlan", 1400)
		devices[h] = d
		h.do(func() error {
			return errors.Join(
				addAddress("vlan", netip.PrefixFrom(h.onVLAN(), 64)),
				h.AttachUnderlay(d.index),
				h.DetachUnderlay(h.underlay.index),
			)
		})
	}
	for from, to := range map[*fleetHost]*fleetHost{h: other, other: h} {
		from.do(func() error {
			return from.PutHost(NextHop{
				Host: to.id, Ifindex: devices[from].index, Kind: HopNeighbour, Gateway: to.onVLAN(),
				Source: devices[from].mac, MAC: devices[to].mac, Trusted: forAnHour,
			})
		})
	}
}

func (h *fleetHost) onVLAN() netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:7::%x", uint32(h.id)))
}

// wire returns a function that returns the VLAN's tag, or 0, of the next packet to a destination that came in from the
// wire. false: there is none.
func (h *fleetHost) wire() (tagOf func(netip.Addr) (tag int, ok bool)) {
	h.t.Helper()
	const every = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network byte order
	var fd int
	h.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, every)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1), // the kernel takes the tag out of the frame
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: h.underlay.index}),
		)
	})
	h.t.Cleanup(func() { unix.Close(fd) })
	return func(destination netip.Addr) (int, bool) {
		frame, control := make([]byte, 2000), make([]byte, 100)
		for {
			n, size, _, _, err := unix.Recvmsg(fd, frame, control, 0)
			if err != nil {
				return 0, false
			}
			p, isIPv6 := readPacket(frame[:n])
			if !isIPv6 || p.destination != destination {
				continue
			}
			messages, err := unix.ParseSocketControlMessage(control[:size])
			if err != nil || len(messages) != 1 || len(messages[0].Data) < int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
				h.t.Fatalf("the packet's auxiliary data: %v, %v", messages, err)
			}
			aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&messages[0].Data[0]))
			if aux.Status&unix.TP_STATUS_VLAN_VALID == 0 {
				return 0, true
			}
			return int(aux.Vlan_tci & 0xfff), true
		}
	}
}
