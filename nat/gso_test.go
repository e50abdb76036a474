package nat

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// segments sends one datagram socket's buffer as datagrams of a size, which the kernel is to cut it into.
func segments(from, to *guest, data []byte, size int) error {
	in := to.listenUDP(to.Addr(), 0)
	defer in.Close()
	out := from.listenUDP(from.Addr(), 0)
	defer out.Close()
	ok(from.t, must(out.SyscallConn()).Control(func(fd uintptr) {
		ok(from.t, unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, size))
	}))
	if _, err := out.WriteTo(data, in.LocalAddr().(*net.UDPAddr)); err != nil {
		return err
	}
	in.SetReadDeadline(time.Now().Add(patience))
	for left := data; len(left) > 0; left = left[size:] {
		got := make([]byte, size+1)
		n, err := in.Read(got)
		if err != nil || !bytes.Equal(got[:n], left[:size]) {
			return errors.Join(fmt.Errorf("the datagram with %d bytes to go is not right", len(left)), err)
		}
	}
	return nil
}

func TestDatagramsThatAreSentTogetherArriveApart(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	for _, offload := range []bool{false, true} {
		number := addr.Machine(0x10)
		if offload {
			number = 0x20
		}
		a, near, far := one.run(stable(5, 1, 0x100+number), offload), one.run(stable(5, 1, 0x101+number), offload), two.run(stable(5, 1, 0x200+number), offload)
		v := two.runVirtual(stable(5, 1, 0x201+number), offload).guest
		for _, pair := range [][2]*guest{{a, near}, {a, far}, {far, a}, {a, v}, {v, a}} {
			warm(pair[0], pair[1])
			err := segments(pair[0], pair[1], randomBytes(40*1200), 1200)
			if errors.Is(err, unix.EIO) && !offload {
				t.Log("the sender's kernel cuts nothing without its device's checksums, which it does from Linux 6.11 on")
				break
			}
			if err != nil {
				t.Errorf("offload %t: from %s to %s: %v; drops %v and %v", offload, pair[0], pair[1], err, dropsOf(t, one.Datapath), dropsOf(t, two.Datapath))
			}
		}
	}
}

// allow has a device take packets that large, which the kernel cuts or puts together (BIG TCP).
func (d device) allow(size int) {
	d.t.Helper()
	d.do(func() error {
		l, err := netlink.LinkByIndex(d.index)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetGSOMaxSize(l, size), netlink.LinkSetGROMaxSize(l, size))
	})
}

// The kernel's own packets of more than 64 KiB, which have a jumbo payload option (RFC 2675), pass as they are.
func TestJumbogramsPass(t *testing.T) {
	const jumbo = 185_000
	for _, offload := range []bool{false, true} {
		t.Run(fmt.Sprintf("offload %t", offload), func(t *testing.T) {
			one, two := newFleet(t, 1500, true)
			a, near, far := one.run(alice, offload), one.run(bob, offload), two.run(remote, offload)
			for _, d := range []device{one.underlay, two.underlay} {
				d.allow(jumbo)
			}
			for _, g := range []*guest{a, near, far} {
				g.eth0.allow(jumbo)
				device{g.port.namespace, g.port.name, g.port.index, nil}.allow(jumbo)
			}
			for _, to := range []*guest{near, far} {
				warm(a, to)
				in := to.eth0.capture().ofMoreThan(0xffff + etherLength + ipv6Length)
				data := randomBytes(6 << 20)
				if got := sendTCP(a.namespace, a.Addr(), to.namespace, to.Addr(), data); !bytes.Equal(got, data) {
					t.Errorf("to %s arrived %d of %d bytes right; drops %v and %v", to, len(got), len(data), dropsOf(t, one.Datapath), dropsOf(t, two.Datapath))
				}
				if got := in.next() != nil; got != offload { // without, the kernel cuts them before they leave
					t.Errorf("to %s: jumbograms came in: %t, want %t", to, got, offload)
				}
			}
		})
	}
}
