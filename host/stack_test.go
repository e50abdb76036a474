package host_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host"
)

func prepare(t *testing.T, a *host.Agent) host.Stack {
	t.Helper()
	s, err := a.Prepare()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestPrepareMakesTheHostReady(t *testing.T) {
	b := newFleet(t).host(7)
	a := b.newAgent(host.Options{Host: 7, Underlay: "eth0"})
	s := prepare(t, a)

	if got := b.sysctl("conf/all/forwarding"); got != "1" {
		t.Errorf("forwarding is %s", got)
	}
	device, peer := b.mustLink("ip6d0"), b.mustLink("ip6d0p")
	if device.Attrs().Index != s.Ifindex || peer.Attrs().Index != s.Peer || device.Attrs().HardwareAddr.String() != s.MAC.String() {
		t.Errorf("Prepare returned %+v for ip6d0 %d %s and ip6d0p %d", s, device.Attrs().Index, device.Attrs().HardwareAddr, peer.Attrs().Index)
	}
	for _, l := range []netlink.Link{device, peer} {
		if l.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("%s is down", l.Attrs().Name)
		}
		if as := b.addresses(l.Attrs().Name); len(as) != 0 {
			t.Errorf("%s has the addresses %v", l.Attrs().Name, as)
		}
	}
	for _, want := range []string{"fdab:0:7::/48 dev ip6d0", "fdaa::/16 dev ip6d0"} {
		if !b.hasRoute(want) {
			t.Errorf("route %q is missing in %q", want, b.routes())
		}
	}
	before := b.picture()
	if again := prepare(t, a); again.Ifindex != s.Ifindex || again.Peer != s.Peer {
		t.Errorf("a second Prepare returned %+v, the first %+v", again, s)
	}
	if after := b.picture(); after != before {
		t.Errorf("a second Prepare changed\n%s\nto\n%s", before, after)
	}
}

func TestWhatTheStackSendsComesOutOfThePeer(t *testing.T) {
	b := newBox(t)
	s := prepare(t, b.newAgent(host.Options{Host: 7}))
	b.do(func() error { return give("lo", "fd00::1/128") }) // a source
	frames := b.capture(s.Peer)
	for _, to := range []string{"fdaa:0:2a:1:0:0:105:2", "fdab:0:7:0:2a:0:105:1"} {
		b.do(func() error {
			c, err := net.Dial("udp", net.JoinHostPort(to, "9"))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("hello"))
			return err
		})
		eventually(t, "the packet to "+to+" comes out of ip6d0p", func() bool {
			frame := frames()
			return len(frame) > 14+40 && bytes.Equal(frame[14+24:14+40], net.ParseIP(to))
		})
	}
}

// capture returns a function that returns the next frame that a device has received, or nil.
func (b *box) capture(ifindex int) (next func() []byte) {
	b.t.Helper()
	const everyIPv6 = unix.ETH_P_IPV6>>8 | unix.ETH_P_IPV6&0xff<<8 // in network byte order
	var fd int
	b.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, everyIPv6)
		if err != nil {
			return err
		}
		b.t.Cleanup(func() { unix.Close(fd) })
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everyIPv6, Ifindex: ifindex})
	})
	return func() []byte {
		frame := make([]byte, 2000)
		n, err := unix.Read(fd, frame)
		if err != nil {
			return nil
		}
		return frame[:n]
	}
}

func TestStackHasTheHostsEndpoint(t *testing.T) {
	b := newBox(t)
	endpoint, err := addr.DefaultPlan.Endpoint(1, 7)
	if err != nil {
		t.Fatal(err)
	}
	prepare(t, b.newAgent(host.Options{Host: 7, Endpoint: endpoint}))
	want := []netip.Prefix{netip.PrefixFrom(endpoint.Addr(), 128)}
	if got := b.addresses("ip6d0"); !slices.Equal(got, want) {
		t.Errorf("ip6d0 has %v, want %v", got, want)
	}
}

func TestPrepareRefusesAnIP6d0OfSomebodyElse(t *testing.T) {
	b := newBox(t)
	b.addVeth("ip6d0", nil, "other")
	before := b.mustLink("ip6d0").Attrs()
	_, err := b.newAgent(host.Options{}).Prepare()
	if !errors.Is(err, host.ErrStackTaken) {
		t.Errorf("got %v, want ErrStackTaken", err)
	}
	if after := b.mustLink("ip6d0").Attrs(); after.Index != before.Index || after.Flags != before.Flags {
		t.Errorf("the device was changed: %+v", after)
	}
}

// told collects what OnStack is told.
type told struct {
	mu  sync.Mutex
	all []host.Stack
}

func (s *told) add(n host.Stack) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, n)
	return nil
}

func (s *told) last() (n host.Stack, times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return n, 0
	}
	return s.all[len(s.all)-1], len(s.all)
}

func TestDeletedStackIsMadeAnew(t *testing.T) {
	b := newBox(t)
	var stacks told
	a := b.newAgent(host.Options{Host: 7, OnStack: stacks.add})
	first := prepare(t, a)
	run(t, a)
	if got, times := stacks.last(); times != 1 || got.Peer != first.Peer {
		t.Fatalf("at the start OnStack was told %d times, of %+v; want once, of %+v", times, got, first)
	}
	b.delete("ip6d0")
	eventually(t, "OnStack is told of a new ip6d0", func() bool { _, times := stacks.last(); return times == 2 })
	now, _ := stacks.last()
	if now.Ifindex != first.Ifindex || now.MAC.String() != first.MAC.String() {
		t.Errorf("ip6d0 is %+v and was %+v: the datapath, which has its ifindex and MAC, would miss it", now, first)
	}
	eventually(t, "its routes are back", func() bool {
		return b.hasRoute("fdab:0:7::/48 dev ip6d0") && b.hasRoute("fdaa::/16 dev ip6d0")
	})
}

func TestStackThatWasTakenDownIsBroughtUp(t *testing.T) {
	b := newBox(t)
	a := b.newAgent(host.Options{})
	prepare(t, a)
	run(t, a)
	for _, name := range []string{"ip6d0", "ip6d0p"} {
		b.do(func() error { return down(name) })
		eventually(t, name+" is up, with its route", func() bool {
			return b.mustLink(name).Attrs().Flags&net.FlagUp != 0 && b.hasRoute("fdaa::/16 dev ip6d0")
		})
	}
}
