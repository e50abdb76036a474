package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"ip6d/addr"
)

const tunMTU = 1420 // of WireGuard over Ethernet

// tunDevice makes a TUN or TAP device (IFF_TUN, IFF_TAP) whose other end is the test. offloads are what its reader can do,
// with IFF_VNET_HDR.
func (n namespace) tunDevice(name string, flags uint16, offloads, mtu int) (device, *os.File) {
	n.t.Helper()
	var file *os.File
	n.do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		request := must(unix.NewIfreq(name))
		request.SetUint16(flags | unix.IFF_NO_PI)
		err = errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, request), unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offloads))
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		file = os.NewFile(uintptr(fd), name)
		return nil
	})
	n.t.Cleanup(func() { file.Close() })
	return n.up(name, mtu), file
}

// tunBench is a bench whose underlay is a TUN device, and whose packets really arrive. bob's port is a TAP.
type tunBench struct {
	*bench
	tun      *os.File
	captured map[string]func() []byte // the next IPv6 frame that arrived somewhere; nil: there is none yet
	send     func([]byte) error       // as alice
}

func newTunBench(t *testing.T, flags uint16) *tunBench {
	t.Helper()
	b := &tunBench{bench: newBench(t, 1, true)}
	skip, offloads := 0, 0
	if flags&unix.IFF_VNET_HDR != 0 {
		skip, offloads = vnetHeader, everyOffload
	}
	b.underlay, b.tun = b.tunDevice("tun", unix.IFF_TUN|flags, offloads, tunMTU)
	tap, hypervisor := b.tunDevice("tap", unix.IFF_TAP, 0, 1500)
	delete(b.reference.MTU, b.underlay.index)
	b.reference.MTU[b.underlay.index], b.reference.MTU[tap.index] = tunMTU, 1500
	b.settle()
	b.machine(bob, Delivering, 0, Port{Ifindex: tap.index, Enter: EnterDevice, MAC: mac(2)})
	for host, hop := range b.reference.Hosts {
		b.reference.Hosts[host] = NextHop{Host: host, Ifindex: hop.Ifindex, Kind: HopL3}
	}
	b.load()
	b.namespace.do(func() error { return b.AttachUnderlay(b.underlay.index) })

	guest, other := b.peers["port"], b.peers["other"]
	b.send = guest.rawSocket()
	b.captured = map[string]func() []byte{
		"underlay": unicast(reader(b.tun), skip, noLink),
		"tap":      unicast(reader(hypervisor), 0, nil),
		"port":     unicast(guest.capture().next, 0, nil),
		"other":    unicast(other.capture().next, 0, nil),
		"ip6d0":    unicast(b.stack.capture().next, 0, nil),
	}
	return b
}

// reader returns the next packet that the test's end of a device has; nil: there is none.
func reader(f *os.File) func() []byte {
	raw, b := must(f.SyscallConn()), make([]byte, 1<<17)
	return func() (packet []byte) {
		raw.Read(func(fd uintptr) bool {
			if n, err := unix.Read(int(fd), b); err == nil {
				packet = bytes.Clone(b[:n])
			}
			return true
		})
		return packet
	}
}

// unicast passes over what the kernel itself sends to multicast addresses. The first bytes of each are cut off, and link
// is put there.
func unicast(next func() []byte, cut int, link []byte) func() []byte {
	return func() []byte {
		for b := next(); b != nil; b = next() {
			f := append(bytes.Clone(link), b[cut:]...)
			if len(f) >= etherLength+ipv6Length && f[etherLength+24] != 0xff {
				return f
			}
		}
		return nil
	}
}

// noLink is what the reference has in the place of the header of a device that has none.
var noLink = []byte{12: 0x86, 13: 0xdd}

// place is where a frame arrives after a verdict.
func (b *tunBench) place(v Verdict) string {
	switch v.Action {
	case Answer, ToPeer, ToDevice:
		for name, d := range map[string]device{"port": b.port, "other": b.other, "underlay": b.underlay} {
			if d.index == v.Ifindex {
				return name
			}
		}
		return "tap"
	case ToStack, IntoStack:
		return "ip6d0"
	}
	return ""
}

// becomes checks that what was just sent becomes what the reference says: that its frame arrives where it is to, that its
// drop is counted, and that nothing else happens.
func (b *tunBench) becomes(t *testing.T, want Verdict, before []uint64) {
	t.Helper()
	at := b.place(want)
	frame := want.Frame
	if at == "underlay" {
		frame = append(bytes.Clone(noLink), frame[etherLength:]...)
	}
	var got []byte
	var counted map[string]uint64
	eventually(t, fmt.Sprintf("%v %s", want.Action, want.Reason), func() error {
		if got == nil && at != "" {
			got = b.captured[at]()
		}
		counted = make(map[string]uint64)
		for i, n := range must(b.counters()) {
			if i < len(b.names) && n != before[i] && b.names[i] != "multicast" { // the kernel's own chatter, too
				counted[b.names[i]] = n - before[i]
			}
		}
		wanted := want.Reason == "" || want.Reason == "multicast" || counted[want.Reason] == 1
		if !wanted || at != "" && got == nil {
			return fmt.Errorf("at %q arrived %d bytes, drops %v", at, len(got), counted)
		}
		return nil
	})
	if extra := len(counted); extra > 1 || extra == 1 && counted[want.Reason] != 1 {
		t.Errorf("drops %v, want one of %q", counted, want.Reason)
	}
	if !bytes.Equal(got, frame) && at != "" {
		t.Errorf("%v: at %s arrived (then the reference's):\n%s", want.Action, at, hexDiff(got, frame))
	}
	for name, next := range b.captured {
		if f := next(); f != nil {
			t.Errorf("%v %s: at %s arrived, too:\n%s", want.Action, want.Reason, name, hexDiff(f, f))
		}
	}
}

// What comes by a device without a link layer, and what leaves by it, is as the reference says.
func TestPacketsCrossAnL3UnderlayAsTheTableSays(t *testing.T) {
	b := newTunBench(t, 0)
	t.Run("which has the programs for it", func(t *testing.T) {
		programs := make(map[string]bool)
		for _, a := range must(b.Attachments()) {
			programs[a.Program] = a.Ifindex == b.underlay.index
		}
		if !programs[fromUnderlayL3] || !programs[toUnderlayL3] || programs[fromUnderlay] || programs[toUnderlay] {
			t.Errorf("attached: %v", must(b.Attachments()))
		}
	})
	for _, c := range underlayCases() {
		if c.frame.etherType != 0 {
			continue // there is none
		}
		passed := t.Run("from_underlay_l3/"+c.name, func(t *testing.T) {
			packet := c.frame.bytes()[etherLength:]
			want := b.reference.FromUnderlayL3(packet)
			b.check(t, c, want)
			if want.Action == Next {
				want.Frame = nil
			}
			before := must(b.counters())
			if _, err := b.tun.Write(packet); err != nil {
				t.Fatal(err)
			}
			b.becomes(t, want, before)
		})
		if !passed {
			return // what came too late for it would be taken for the next one's
		}
	}
	for _, c := range machineCases() {
		if c.frame.etherType != 0 || len(c.frame.bytes()) > etherLength+tunMTU {
			continue // the same by every underlay; and those are larger here than the table means, or than the port's MTU
		}
		passed := t.Run("from_machine/"+c.name, func(t *testing.T) {
			c.frame.to, c.frame.from = b.port.mac, mac(0xaa)
			frame := c.frame.bytes()
			want := b.reference.FromMachine(b.port.index, bytes.Clone(frame))
			b.check(t, c, want)
			before := must(b.counters())
			if err := b.send(frame); err != nil {
				t.Fatal(err)
			}
			b.becomes(t, want, before)
		})
		if !passed {
			return
		}
	}
	for _, c := range []packetCase{
		{"from_machine/as large as the underlay's MTU", sized(remote, tunMTU), ToDevice, ""},
		{"from_machine/a byte larger", sized(remote, tunMTU+1), ToStack, "too_big"},
		{"from_machine/a byte larger, to a machine here", sized(bob, tunMTU+1), ToDevice, ""},
		{"from_machine/as large as a port's MTU", sized(bob, 1500), ToDevice, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := b.reference.FromMachine(b.port.index, c.frame.bytes())
			b.check(t, c, want)
			before := must(b.counters())
			ok(t, b.send(c.frame.bytes()))
			b.becomes(t, want, before)
		})
	}
}

// sized is a packet of alice's of so many bytes.
func sized(to addr.Stable, length int) frame {
	return frame{source: alice.Addr(), destination: to.Addr(), next: 59, payload: make([]byte, length-ipv6Length)}
}

// check compares the reference with the table, which is about an Ethernet underlay.
func (b *tunBench) check(t *testing.T, c packetCase, got Verdict) {
	t.Helper()
	want := c.want
	if want == ToNeighbour {
		want = ToDevice
	}
	if got.Action != want || got.Reason != c.reason {
		t.Errorf("reference says %v %s, the table %v %s", got.Action, got.Reason, want, c.reason)
	}
}

// uncut is a TCP packet of alice's that a device is to cut, as a virtual machine's device hands it over.
type uncut struct {
	source, destination netip.Addr
	size                uint16 // of the payload of each
	count               int
}

// header is a struct virtio_net_hdr for a frame whose IPv6 packet is at l3.
func (s uncut) header(l3 uint16) []byte {
	h := make([]byte, vnetHeader)
	h[0], h[1] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_TCPV6
	for at, v := range map[int]uint16{2: l3 + ipv6Length + 20, 4: s.size, 6: l3 + ipv6Length, 8: 16} {
		binary.NativeEndian.PutUint16(h[at:], v)
	}
	return h
}

func (s uncut) frame(to net.HardwareAddr) frame {
	tcp := make([]byte, 20+int(s.size)*s.count)
	tcp[12], tcp[13] = 5<<4, 0x10 // no options; an acknowledgement
	pseudo := append(s.source.AsSlice(), s.destination.AsSlice()...)
	sum := uint32(len(tcp)) + unix.IPPROTO_TCP
	for i := range pseudo {
		sum += uint32(pseudo[i]) << (8 * (1 - i&1))
	}
	be16(tcp[16:], uint16((sum-1)%0xffff+1)) // of the pseudo header alone: the device does the rest
	return frame{to: to, from: mac(0xaa), source: s.source, destination: s.destination, next: unix.IPPROTO_TCP, payload: tcp}
}

// A packet that is cut only by the last device passes whole where its segments fit, and is not carried where they do not.
func TestSegmentsToComeCrossAnL3Underlay(t *testing.T) {
	b := newTunBench(t, unix.IFF_VNET_HDR)
	const most = tunMTU - ipv6Length - 20
	into := uncut{routing(remote, 2), routing(alice, 1), most, 5}
	b.reference.MTU[b.port.index] = 1 << 16 // the reference knows of no segments
	b.reference.MTU[b.underlay.index] = 1 << 16
	t.Run("into a port", func(t *testing.T) {
		packet := into.frame(nil).bytes()[etherLength:]
		want, before := b.reference.FromUnderlayL3(packet), must(b.counters())
		must(b.tun.Write(append(into.header(0), packet...)))
		b.becomes(t, want, before)
	})

	var raw int
	guest := b.peers["port"]
	guest.do(func() (err error) {
		raw, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return errors.Join(err, unix.SetsockoptInt(raw, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	})
	defer unix.Close(raw)
	for _, c := range []struct {
		name string
		size uint16
		want Action
	}{
		{"out of a port, as large as fit", most, ToDevice},
		{"out of a port, a byte larger", most + 1, ToStack},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := uncut{alice.Addr(), remote.Addr(), c.size, 5}
			frame := out.frame(b.port.mac).bytes()
			b.reference.MTU[b.underlay.index] = 1 << 16
			if c.want == ToStack {
				b.reference.MTU[b.underlay.index] = tunMTU
			}
			want, before := b.reference.FromMachine(b.port.index, bytes.Clone(frame)), must(b.counters())
			if want.Action != c.want {
				t.Fatalf("reference says %v", want.Action)
			}
			ok(t, unix.Sendto(raw, append(out.header(etherLength), frame...), 0, &unix.SockaddrLinklayer{Ifindex: guest.index}))
			b.becomes(t, want, before)
		})
	}
}
