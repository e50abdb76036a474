package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// vnetHeader is the length of struct virtio_net_hdr, which is before each frame; then, where its fields are.
const (
	vnetHeader       = 10
	vnetFlags        = 0
	vnetGSOType      = 1
	vnetHeaderLength = 2
)

// Offloads of a TAP's reader: what it can cut into segments, and write checksums into.
const everyOffload = unix.TUN_F_CSUM | unix.TUN_F_TSO6 | unix.TUN_F_TSO4

// tap is a TAP device whose other end is the test: what a hypervisor is.
func (n namespace) tap(name string, offloads int) (device, *os.File) {
	n.t.Helper()
	return n.tunDevice(name, unix.IFF_TAP|unix.IFF_VNET_HDR, offloads, 1500)
}

// wire is a hypervisor between a port and its guest, and what went over it.
type wire struct {
	frames, segmented, unsummed atomic.Int64
}

// copy carries frames from one TAP to another, with the header that says what is left to do with them.
func (w *wire) copy(to, from *os.File) {
	for b := make([]byte, vnetHeader+1<<16+etherLength); ; {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		w.frames.Add(1)
		if b[vnetGSOType] != unix.VIRTIO_NET_HDR_GSO_NONE {
			w.segmented.Add(1)
		}
		if b[vnetFlags]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
			w.unsummed.Add(1)
		}
		if _, err := to.Write(b[:n]); errors.Is(err, os.ErrClosed) {
			return
		}
	}
}

// virtual is a guest in a virtual machine: the hypervisor has a TAP on the host, and one in the guest in the place of
// its network card.
type virtual struct {
	*guest
	in, out *wire // to the guest, and from it
}

// runVirtual attaches a virtual machine that is here.
func (h *fleetHost) runVirtual(s addr.Stable, offload bool) *virtual {
	h.t.Helper()
	v := &virtual{&guest{namespace: newNamespace(h.t), Stable: s, enter: EnterDevice}, new(wire), new(wire)}
	offloads := 0
	if offload {
		offloads = everyOffload
	}
	port, host := h.tap(fmt.Sprintf("port%x", uint32(s.Machine())), offloads)
	_, card := v.tap("eth0", offloads)
	v.port = port
	h.do(func() error { return h.AttachPort(port.index, s) })
	go v.in.copy(card, host)
	go v.out.copy(host, card)
	v.configure()
	ok(h.t, h.PutMachine(v.entry(Delivering, 0, 1)))
	return v
}

// A TAP hands over frames whose headers are in pages, beyond what a program sees at first.
func TestTAPIsAPortToo(t *testing.T) {
	one, _ := newFleet(t, 1500, true)
	a := one.run(alice, false)
	warm(a, one.run(stable(5, 1, 0x107), false))
	in := a.listenUDP(alice.Addr(), 2)
	port, hypervisor := one.tap("tap0", 0)
	h := here(bob, 1)
	h.Port = Port{Ifindex: port.index, Enter: EnterDevice, MAC: mac(9)}
	one.do(func() error { return errors.Join(one.AttachPort(port.index, bob), one.PutMachine(h)) })

	f := datagram(bob.Addr(), alice.Addr())
	f.to, f.from = GatewayMAC(), mac(9)
	f.payload = udp(bob.Addr(), alice.Addr(), []byte("from the tap")...)
	header := make([]byte, vnetHeader)
	binary.NativeEndian.PutUint16(header[vnetHeaderLength:], etherLength) // all else goes to pages
	if _, err := hypervisor.Write(append(header, f.bytes()...)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	in.SetReadDeadline(time.Now().Add(patience))
	n, from, err := in.ReadFromUDPAddrPort(got)
	if err != nil || string(got[:n]) != "from the tap" || from.Addr() != bob.Addr() {
		t.Fatalf("arrived %q from %s: %v; drops %v", got[:n], from, err, dropsOf(t, one.Datapath))
	}

	if _, err := in.WriteToUDPAddrPort([]byte("back"), from); err != nil {
		t.Fatal(err)
	}
	hypervisor.SetReadDeadline(time.Now().Add(patience))
	for frame := make([]byte, 2000); ; {
		n, err := hypervisor.Read(frame)
		if err != nil {
			t.Fatalf("nothing came back: %v; drops %v", err, dropsOf(t, one.Datapath))
		}
		p, isIPv6 := readPacket(frame[vnetHeader:n])
		if !isIPv6 || p.source != alice.Addr() {
			continue // the host's own chatter on its device
		}
		if !bytes.Equal(p.frame[:6], mac(9)) || p.destination != bob.Addr() || !bytes.HasSuffix(p.frame, []byte("back")) {
			t.Errorf("came back:\n%s", hexDiff(p.frame, p.frame))
		}
		break
	}
}

// A virtual machine leaves to the host what its card can do: it sends segments together, and without their checksums;
// and it takes them so.
func TestVirtualMachinesLeaveSegmentsAndChecksumsToOthers(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	for _, offload := range []bool{false, true} {
		number := addr.Machine(0x10)
		if offload {
			number = 0x20
		}
		v, far := one.runVirtual(stable(5, 1, 0x100+number), offload), two.runVirtual(stable(5, 1, 0x200+number), offload)
		near, b := one.run(stable(5, 1, 0x101+number), offload), two.run(stable(5, 1, 0x201+number), offload)
		for _, pair := range [][2]*guest{{v.guest, near}, {near, v.guest}, {v.guest, b}, {b, v.guest}, {v.guest, far.guest}} {
			from, to := pair[0], pair[1]
			warm(from, to)
			data := randomBytes(1 << 20)
			got := sendTCP(from.namespace, from.Addr(), to.namespace, to.Addr(), data)
			if !bytes.Equal(got, data) {
				t.Errorf("offload %t: from %s to %s arrived %d of %d bytes right", offload, from, to, len(got), len(data))
			}
		}
		for name, w := range map[string]*wire{"to": v.in, "from": v.out, "between hosts, to": far.in} {
			if got := w.segmented.Load() > 0 && w.unsummed.Load() > 0; got != offload {
				t.Errorf("offload %t: %s the virtual machine went %d frames, %d of several segments, %d without their checksum",
					offload, name, w.frames.Load(), w.segmented.Load(), w.unsummed.Load())
			}
		}
	}
}
