package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/host/netns"
	"ip6d/nat"
)

// The tests' fleet. Every box is a network namespace without a name, so that nothing outlives the tests:
//
//	host 1          host 2
//	  eth0 fd00:6d::1/64, fd00:6d::2/64
//	    \             /
//	     p1 --br0-- p2
//	       the switch

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root, and CI=true allows no skip")
	}
	t.Skip("needs root, to make network namespaces")
}

// box is a namespace with what tests do in it.
type box struct {
	t *testing.T
	*netns.Namespace
}

func newBox(t *testing.T) *box {
	t.Helper()
	needRoot(t)
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t, n}
	t.Cleanup(func() { n.Close() })
	b.do(func() error { return up("lo") })
	return b
}

// path is a path to the namespace, as a user would give one.
func (b *box) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), b.FD()) }

func (b *box) do(f func() error) {
	b.t.Helper()
	if err := b.Do(f); err != nil {
		b.t.Fatal(err)
	}
}

// link returns a device, or nil.
func (b *box) link(name string) (l netlink.Link) {
	b.t.Helper()
	b.do(func() (err error) {
		l, err = netlink.LinkByName(name)
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		return err
	})
	return l
}

// mustLink returns a device that is there.
func (b *box) mustLink(name string) netlink.Link {
	b.t.Helper()
	l := b.link(name)
	if l == nil {
		b.t.Fatalf("there is no device %q", name)
	}
	return l
}

func (b *box) delete(name string) {
	b.t.Helper()
	l := b.mustLink(name)
	b.do(func() error { return netlink.LinkDel(l) })
}

// addVeth makes a pair of which the peer goes to another box, or stays where to is nil.
func (b *box) addVeth(name string, to *box, peer string) {
	b.t.Helper()
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: peer}
	v.Name = name
	if to != nil {
		v.PeerNamespace = netlink.NsFd(to.FD())
	}
	b.do(func() error { return netlink.LinkAdd(v) })
}

// addresses lists those of a device.
func (b *box) addresses(name string) (all []netip.Prefix) {
	b.t.Helper()
	l := b.mustLink(name)
	b.do(func() error {
		as, err := netlink.AddrList(l, unix.AF_INET6)
		for errors.Is(err, netlink.ErrDumpInterrupted) { // the agent is at work
			as, err = netlink.AddrList(l, unix.AF_INET6)
		}
		for _, a := range as {
			all = append(all, netip.MustParsePrefix(a.IPNet.String()))
		}
		return err
	})
	return all
}

// routes lists the IPv6 routes, each as "DESTINATION dev DEVICE[ via GATEWAY]".
func (b *box) routes() (all []string) {
	b.t.Helper()
	b.do(func() error {
		routes, err := netlink.RouteList(nil, unix.AF_INET6)
		for _, r := range routes {
			name := fmt.Sprint(r.LinkIndex)
			if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
				name = l.Attrs().Name
			}
			s := fmt.Sprintf("%s dev %s", r.Dst, name)
			if r.Gw != nil {
				s += " via " + r.Gw.String()
			}
			all = append(all, s)
		}
		return err
	})
	return all
}

func (b *box) hasRoute(route string) bool {
	b.t.Helper()
	return slices.Contains(b.routes(), route)
}

// sysctl reads or, with a value, writes a setting below /proc/sys/net/ipv6.
func (b *box) sysctl(name string, value ...string) (now string) {
	b.t.Helper()
	path := filepath.Join("/proc/sys/net/ipv6", name)
	b.do(func() error {
		if value != nil {
			return os.WriteFile(path, []byte(value[0]), 0)
		}
		all, err := os.ReadFile(path)
		now = strings.TrimSpace(string(all))
		return err
	})
	return now
}

// picture is all of a box's devices and addresses, to compare before with after.
func (b *box) picture() string {
	b.t.Helper()
	var lines []string
	b.do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			at := l.Attrs()
			lines = append(lines, fmt.Sprintf("%d %s %s mtu %d up %t alias %q", at.Index, at.Name, at.HardwareAddr, at.MTU, at.Flags&net.FlagUp != 0, at.Alias))
		}
		return err
	})
	for _, l := range slices.Clone(lines) {
		name := strings.Fields(l)[1]
		lines = append(lines, fmt.Sprint(name, b.addresses(name)))
	}
	return strings.Join(append(lines, b.routes()...), "\n")
}

// ping sends one echo request and wants its reply.
func (b *box) ping(to string) error {
	var out bytes.Buffer
	cmd := exec.Command("ping", "-6", "-n", "-c", "1", "-W", "10", to)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := b.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("ping %s: %w\n%s", to, err, &out)
	}
	return nil
}

func up(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(l)
}

func down(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetDown(l)
}

// give adds an address without duplicate address detection.
func give(name, prefix string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	a.Flags = unix.IFA_F_NODAD
	return netlink.AddrReplace(l, a)
}

// fleet is a switch and the hosts on it.
type fleet struct {
	t    *testing.T
	wire *box // the switch
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	f := &fleet{t, newBox(t)}
	f.wire.do(func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
		bridge.Name = "br0"
		// Without IGMP snooping the switch never decides that a solicitation is for nobody.
		off := false
		bridge.MulticastSnooping = &off
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		return netlink.LinkSetUp(bridge)
	})
	return f
}

func underlayAddress(h addr.Host) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("fd00:6d::%x", uint32(h)))
}

// host adds a host with its underlay device.
func (f *fleet) host(h addr.Host) *box {
	f.t.Helper()
	b := newBox(f.t)
	f.plug(b, h)
	return b
}

// plug connects a host's eth0, which it makes, with the switch.
func (f *fleet) plug(b *box, h addr.Host) {
	f.t.Helper()
	port := fmt.Sprintf("p%d", h)
	b.addVeth("eth0", f.wire, port)
	f.wire.do(func() error {
		l, err := netlink.LinkByName(port)
		if err != nil {
			return err
		}
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetMaster(l, bridge), netlink.LinkSetUp(l))
	})
	b.do(func() error {
		// A link-local address that is still being checked for duplicates would delay what the kernel sends.
		err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0)
		return errors.Join(err, up("eth0"), give("eth0", underlayAddress(h).String()+"/64"))
	})
}

// hops is a NextHops that remembers.
type hops struct {
	mu   sync.Mutex
	all  map[addr.Host]nat.NextHop
	puts int
}

func newHops() *hops { return &hops{all: make(map[addr.Host]nat.NextHop)} }

func (h *hops) PutHost(n nat.NextHop) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all[n.Host] = n
	h.puts++
	return nil
}

func (h *hops) DeleteHost(id addr.Host) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, id)
	return nil
}

func (h *hops) Hosts() ([]nat.NextHop, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.all)), nil
}

func (h *hops) get(id addr.Host) (nat.NextHop, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, ok := h.all[id]
	return n, ok
}

func (h *hops) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.puts
}

// never is an interval that leaves all to the events.
const never = 24 * time.Hour

// newAgent makes an agent in the box; options that every test needs are filled in.
func (b *box) newAgent(o host.Options) *host.Agent {
	b.t.Helper()
	a, err := b.tryAgent(o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { a.Close() })
	return a
}

func (b *box) tryAgent(o host.Options) (a *host.Agent, err error) {
	if o.Plan == (addr.Plan{}) {
		o.Plan = addr.DefaultPlan
	}
	if o.Host == 0 {
		o.Host = 1
	}
	if o.Interval == 0 {
		o.Interval = never
	}
	if o.NextHops == nil {
		o.NextHops = newHops()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(b.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	err = b.Do(func() (err error) {
		a, err = host.New(o)
		return err
	})
	return a, err
}

// run runs the agent until the test ends, or the returned function is called.
func run(t *testing.T, a *host.Agent) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-a.Ready():
	case err := <-ended:
		ended <- nil
		t.Fatalf("Run ended before it was ready: %v", err)
	}
	return stop
}

// eventually waits until f holds.
func eventually(t *testing.T, claim string, f func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within 30 s: %s", claim)
		}
	}
}
