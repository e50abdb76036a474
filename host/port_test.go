package host_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/nat"
)

var gateway = netip.MustParsePrefix("fe80::1/64")

// machine is the stable address of a machine of network 42, cell 1.
func machine(t *testing.T, m addr.Machine) addr.Stable {
	t.Helper()
	s, err := addr.DefaultPlan.Stable(42, 1, m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newPorts is a host without an underlay, whose agent makes ports.
func newPorts(t *testing.T, o host.Options) (*box, *host.Agent) {
	t.Helper()
	b := newBox(t)
	a := b.newAgent(o)
	prepare(t, a)
	return b, a
}

func create(t *testing.T, a *host.Agent, s host.PortSpec) host.Port {
	t.Helper()
	p, err := a.CreatePort(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func samePort(a, b host.Port) bool { return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b) }

func TestAMachineAndItsGatewayReachEachOther(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	guest := newBox(t)
	s := machine(t, 0x105)
	p := create(t, a, host.PortSpec{Address: s, Netns: guest.path(), Configure: true})

	l := b.mustLink("ip6d00000105")
	want := host.Port{
		Name:    "ip6d00000105",
		Ifindex: l.Attrs().Index,
		Address: s,
		Enter:   nat.EnterPeer,
		MAC:     net.HardwareAddr{0x12, 1, 0, 0, 1, 5},
		MTU:     1500,
		Created: true,
	}
	if !samePort(p, want) {
		t.Errorf("the port is %+v, want %+v", p, want)
	}
	if got := l.Attrs().HardwareAddr.String(); got != nat.GatewayMAC().String() {
		t.Errorf("the host's end has MAC %s, want the gateway's", got)
	}
	if got := b.addresses(p.Name); !slices.Equal(got, []netip.Prefix{gateway}) {
		t.Errorf("the host's end has %v, want %v alone", got, gateway)
	}
	if got := guest.mac("eth0"); got != want.MAC.String() {
		t.Errorf("the machine's end has MAC %s, want %s", got, want.MAC)
	}
	if got := guest.addresses("eth0"); !slices.Contains(got, netip.PrefixFrom(s.Addr(), 128)) {
		t.Errorf("the machine's end has %v, want also %v/128", got, s)
	}
	if want := "::/0 dev eth0 via fe80::1"; !guest.hasRoute(want) {
		t.Errorf("route %q is missing in %q", want, guest.routes())
	}

	if err := guest.ping("fe80::1%eth0"); err != nil {
		t.Errorf("from the machine: %v", err)
	}
	for _, at := range guest.addresses("eth0") {
		if at.Addr().IsLinkLocalUnicast() {
			if err := b.ping(at.Addr().String() + "%" + p.Name); err != nil {
				t.Errorf("from the host: %v", err)
			}
		}
	}
}

func TestTheSamePortAgainIsTheSamePort(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	guest := newBox(t)
	spec := host.PortSpec{Address: machine(t, 1), Netns: guest.path(), Configure: true}
	first := create(t, a, spec)
	hostBefore, guestBefore := b.picture(), guest.picture()
	if second := create(t, a, spec); !samePort(first, second) {
		t.Errorf("the second call returned %+v, the first %+v", second, first)
	}
	if after := b.picture(); after != hostBefore {
		t.Errorf("the host changed from\n%s\nto\n%s", hostBefore, after)
	}
	if after := guest.picture(); after != guestBefore {
		t.Errorf("the machine changed from\n%s\nto\n%s", guestBefore, after)
	}
}

func TestAPortIsWhatItsSpecSays(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	guest := newBox(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	p := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: guest.path(), Name: "web", GuestName: "net7", GuestMAC: mac, MTU: 9000})
	if p.Name != "web" || p.MTU != 9000 || p.MAC.String() != mac.String() {
		t.Errorf("the port is %+v", p)
	}
	if got := b.mustLink("web").Attrs().MTU; got != 9000 {
		t.Errorf("the host's end has MTU %d", got)
	}
	if at := guest.mustLink("net7").Attrs(); at.MTU != 9000 || at.HardwareAddr.String() != mac.String() || at.Flags&net.FlagUp == 0 {
		t.Errorf("the machine's end is %+v", at)
	}
	for _, got := range guest.addresses("net7") {
		if !got.Addr().IsLinkLocalUnicast() {
			t.Errorf("without Configure the machine's end has %v", got)
		}
	}
	if slices.ContainsFunc(guest.routes(), func(r string) bool { return strings.HasPrefix(r, "::/0") }) {
		t.Error("without Configure the machine has a default route")
	}
}

func TestAPortHasTheUnderlaysMTU(t *testing.T) {
	b := newFleet(t).host(1)
	b.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetMTU(l, 1420)
	})
	a := b.newAgent(host.Options{Underlay: "eth0"})
	prepare(t, a)
	if p := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: newBox(t).path()}); p.MTU != 1420 {
		t.Errorf("the port has MTU %d, the underlay 1420", p.MTU)
	}
	for _, name := range []string{"ip6d0", "ip6d0p"} {
		if got := b.mustLink(name).Attrs().MTU; got != 1420 {
			t.Errorf("%s has MTU %d, the underlay 1420", name, got)
		}
	}
}

func TestAHostHasPortsForManyMachines(t *testing.T) {
	_, a := newPorts(t, host.Options{})
	var guests []*box
	for i := range 8 {
		guests = append(guests, newBox(t))
		create(t, a, host.PortSpec{Address: machine(t, addr.Machine(i)), Netns: guests[i].path(), Configure: true})
	}
	for _, g := range guests {
		if err := g.ping("fe80::1%eth0"); err != nil {
			t.Error(err)
		}
	}
	all, err := a.Ports()
	if err != nil || len(all) != len(guests) {
		t.Errorf("Ports returned %d ports, %v", len(all), err)
	}
}

func TestAPortThatCannotBeMadeLeavesNothing(t *testing.T) {
	refused := errors.New("no room")
	b, a := newPorts(t, host.Options{OnPort: func(_ host.Port, s addr.Stable) error {
		if s.Machine() == 0x666 {
			return refused
		}
		return nil
	}})
	guest, other := newBox(t), newBox(t)
	guest.addVeth("taken", nil, "unused")
	b.addVeth("foreign", nil, "unused")
	busy := newBox(t)
	busy.addVeth("out", nil, "unused")
	busy.do(func() error {
		return errors.Join(up("out"), up("unused"), func() error {
			l, err := netlink.LinkByName("out")
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP("fe80::9"), Flags: int(netlink.FLAG_ONLINK)})
		}())
	})
	create(t, a, host.PortSpec{Address: machine(t, 1), Netns: other.path()})
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	endpoint, err := addr.DefaultPlan.Endpoint(1, 7)
	if err != nil {
		t.Fatal(err)
	}

	fine := host.PortSpec{Address: machine(t, 2), Netns: guest.path(), Configure: true}
	for _, c := range []struct {
		name string
		with func(*host.PortSpec)
		want error
	}{
		{"no namespace there", func(s *host.PortSpec) { s.Netns = "/run/netns/ip6d-no-such-namespace" }, host.ErrNoNamespace},
		{"no namespace given", func(s *host.PortSpec) { s.Netns = "" }, host.ErrNoNamespace},
		{"a file that is no namespace", func(s *host.PortSpec) { s.Netns = file }, host.ErrNoNamespace},
		{"the host's own namespace", func(s *host.PortSpec) { s.Netns = b.path() }, host.ErrOwnNamespace},
		{"the guest device exists", func(s *host.PortSpec) { s.GuestName = "taken" }, host.ErrPortExists},
		{"a foreign device is in the way", func(s *host.PortSpec) { s.Name = "foreign" }, host.ErrPortExists},
		{"another machine's port is in the way", func(s *host.PortSpec) { s.Name = host.PortName(1) }, host.ErrPortExists},
		{"the machine's port is in another namespace", func(s *host.PortSpec) { s.Address = machine(t, 1) }, host.ErrPortExists},
		{"the machine's port has another guest device", func(s *host.PortSpec) {
			s.Address, s.Netns, s.GuestName = machine(t, 1), other.path(), "eth1"
		}, host.ErrPortExists},
		{"the machine's port has another guest MAC", func(s *host.PortSpec) {
			s.Address, s.Netns, s.GuestMAC = machine(t, 1), other.path(), net.HardwareAddr{2, 0, 0, 0, 0, 9}
		}, host.ErrPortExists},
		{"the machine's port has another MTU", func(s *host.PortSpec) {
			s.Address, s.Netns, s.MTU = machine(t, 1), other.path(), 1400
		}, host.ErrPortExists},
		{"the namespace has a default route", func(s *host.PortSpec) { s.Netns = busy.path() }, host.ErrPortExists},
		{"the daemon cannot take the port", func(s *host.PortSpec) { s.Address = machine(t, 0x666) }, refused},
		{"no address", func(s *host.PortSpec) { s.Address = addr.Stable{} }, host.ErrInvalid},
		{"a host's endpoint", func(s *host.PortSpec) { s.Address = endpoint }, host.ErrInvalid},
		{"a device name that is too long", func(s *host.PortSpec) { s.Name = "a234567890123456" }, host.ErrInvalid},
		{"a device name with a slash", func(s *host.PortSpec) { s.Name = "a/b" }, host.ErrInvalid},
		{"a guest device name with a space", func(s *host.PortSpec) { s.GuestName = "a b" }, host.ErrInvalid},
		{"a guest device name that is a pattern", func(s *host.PortSpec) { s.GuestName = "eth%d" }, host.ErrInvalid},
		{"a multicast MAC", func(s *host.PortSpec) { s.GuestMAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }, host.ErrInvalid},
		{"a MAC of another length", func(s *host.PortSpec) { s.GuestMAC = net.HardwareAddr{2, 0, 0, 0} }, host.ErrInvalid},
		{"the MAC zero", func(s *host.PortSpec) { s.GuestMAC = make(net.HardwareAddr, 6) }, host.ErrInvalid},
		{"the gateway's MAC", func(s *host.PortSpec) { s.GuestMAC = nat.GatewayMAC() }, host.ErrInvalid},
		{"an MTU too small for IPv6", func(s *host.PortSpec) { s.MTU = 1279 }, host.ErrInvalid},
		{"an MTU too large", func(s *host.PortSpec) { s.MTU = 65536 }, host.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := fine
			c.with(&spec)
			boxes := []*box{b, guest, other, busy}
			var before []string
			for _, x := range boxes {
				before = append(before, x.picture())
			}
			p, err := a.CreatePort(spec)
			if !errors.Is(err, c.want) {
				t.Errorf("got %+v, %v; want %v", p, err, c.want)
			}
			for i, x := range boxes {
				if after := x.picture(); after != before[i] {
					t.Errorf("a namespace changed from\n%s\nto\n%s", before[i], after)
				}
			}
		})
	}
	create(t, a, fine) // there was nothing wrong with the rest of it
}

func TestAPortHalfMadeByACrashIsMadeWhole(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	guest := newBox(t)
	spec := host.PortSpec{Address: machine(t, 0x105), Netns: guest.path(), Configure: true}
	v := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: "eth0", PeerNamespace: netlink.NsFd(guest.FD())}
	v.Name, v.HardwareAddr = host.PortName(0x105), nat.GatewayMAC()
	b.do(func() error { return netlink.LinkAdd(v) })
	create(t, a, spec)
	if err := guest.ping("fe80::1%eth0"); err != nil {
		t.Error(err)
	}
}

func TestThePortIsTakenBeforeItIsUp(t *testing.T) {
	guest := newBox(t)
	var b *box
	var wasUp []bool
	b, a := newPorts(t, host.Options{OnPort: func(p host.Port, s addr.Stable) error {
		wasUp = append(wasUp, b.mustLink(p.Name).Attrs().Flags&net.FlagUp != 0)
		return nil
	}})
	p := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: guest.path()})
	if !slices.Equal(wasUp, []bool{false}) {
		t.Errorf("OnPort was called with the device up: %v; want once, down", wasUp)
	}
	if b.mustLink(p.Name).Attrs().Flags&net.FlagUp == 0 {
		t.Error("the port is down in the end")
	}
}

func TestRemovedPortIsGoneAndMayBeRemovedAgain(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	guest := newBox(t)
	before, guestBefore := b.picture(), guest.picture()
	p := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: guest.path(), Configure: true})
	for range 2 {
		if err := a.RemovePort(p); err != nil {
			t.Fatal(err)
		}
	}
	if after := b.picture(); after != before {
		t.Errorf("the host changed from\n%s\nto\n%s", before, after)
	}
	if after := guest.picture(); after != guestBefore {
		t.Errorf("the machine changed from\n%s\nto\n%s", guestBefore, after)
	}
	if _, err := a.FindPort(p.Name); !errors.Is(err, host.ErrNoDevice) {
		t.Errorf("FindPort returned %v, want ErrNoDevice", err)
	}
}

// A late removal must not take what the name has come to stand for since.
func TestRemoveLeavesTheNextUserOfTheNameAlone(t *testing.T) {
	for _, c := range []struct {
		name string
		next func(t *testing.T, b *box, a *host.Agent, name string)
	}{
		{"another machine's port", func(t *testing.T, _ *box, a *host.Agent, name string) {
			create(t, a, host.PortSpec{Address: machine(t, 2), Netns: newBox(t).path(), Name: name})
		}},
		{"a foreign device", func(_ *testing.T, b *box, _ *host.Agent, name string) { b.addVeth(name, nil, "unused") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, a := newPorts(t, host.Options{})
			p := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: newBox(t).path(), Name: "web"})
			b.delete("web")
			c.next(t, b, a, "web")
			before := b.picture()
			if err := a.RemovePort(p); err != nil {
				t.Fatal(err)
			}
			if after := b.picture(); after != before {
				t.Errorf("the host changed from\n%s\nto\n%s", before, after)
			}
		})
	}
}

func TestPortsAreFoundAfterARestart(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	guest := newBox(t)
	made := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: guest.path()})
	addTap(b, "tap0")
	adopted, err := a.AdoptPort("tap0", machine(t, 2), nil)
	if err != nil {
		t.Fatal(err)
	}

	again := b.newAgent(host.Options{})
	for _, want := range []host.Port{made, adopted} {
		got, err := again.FindPort(want.Name)
		if err != nil || !samePort(got, want) {
			t.Errorf("found %+v, %v; want %+v", got, err, want)
		}
		if err := again.RemovePort(got); err != nil {
			t.Error(err)
		}
	}
	if b.link(made.Name) != nil || b.link("tap0") == nil {
		t.Error("the restarted agent did not delete what was made, and give back what was adopted")
	}
	if _, err := again.FindPort("lo"); !errors.Is(err, host.ErrNoDevice) {
		t.Errorf("FindPort of a foreign device returned %v, want ErrNoDevice", err)
	}
}

// gone collects what OnPortGone is told.
type gone struct {
	mu  sync.Mutex
	all []string
}

func (g *gone) add(p host.Port) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, p.Name)
}

func (g *gone) told() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.all)
}

func TestAPortThatVanishesIsTold(t *testing.T) {
	var lost gone
	b, a := newPorts(t, host.Options{OnPortGone: lost.add})
	run(t, a)
	deleted := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: newBox(t).path()})
	ended := newBox(t)
	orphan := create(t, a, host.PortSpec{Address: machine(t, 2), Netns: ended.path()})
	removed := create(t, a, host.PortSpec{Address: machine(t, 3), Netns: newBox(t).path()})
	kept := create(t, a, host.PortSpec{Address: machine(t, 4), Netns: newBox(t).path()})

	if err := a.RemovePort(removed); err != nil {
		t.Fatal(err)
	}
	b.delete(deleted.Name)
	eventually(t, "the deleted port is told", func() bool { return slices.Contains(lost.told(), deleted.Name) })
	ended.Close()
	eventually(t, "the port of a namespace that ended is told", func() bool { return slices.Contains(lost.told(), orphan.Name) })
	if got := lost.told(); len(got) != 2 {
		t.Errorf("told were %v; want neither %s, which was removed, nor %s, which is there", got, removed.Name, kept.Name)
	}
}

func TestAPortThatVanishedBeforeRunIsTold(t *testing.T) {
	var lost gone
	b, a := newPorts(t, host.Options{OnPortGone: lost.add})
	p := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: newBox(t).path()})
	b.delete(p.Name)
	run(t, a)
	if got := lost.told(); !slices.Equal(got, []string{p.Name}) {
		t.Errorf("told were %v, want %s", got, p.Name)
	}
}

func TestAPortIsMended(t *testing.T) {
	b, a := newPorts(t, host.Options{})
	guest := newBox(t)
	run(t, a)
	p := create(t, a, host.PortSpec{Address: machine(t, 1), Netns: guest.path(), Configure: true})
	with := func(f func(netlink.Link) error) func() error {
		return func() error {
			l, err := netlink.LinkByName(p.Name)
			if err != nil {
				return err
			}
			return f(l)
		}
	}
	for _, c := range []struct {
		name  string
		spoil func() error
	}{
		{"taken down", with(netlink.LinkSetDown)},
		{"without the gateway's address", with(func(l netlink.Link) error {
			return netlink.AddrDel(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fe80::1"), Mask: net.CIDRMask(64, 128)}})
		})},
		{"with another MAC", with(func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 9})
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.do(c.spoil)
			eventually(t, "the port is as it was", func() bool {
				at := b.mustLink(p.Name).Attrs()
				return at.Flags&net.FlagUp != 0 && at.HardwareAddr.String() == nat.GatewayMAC().String() &&
					slices.Contains(b.addresses(p.Name), gateway)
			})
			eventually(t, "the machine reaches its gateway", func() bool { return guest.ping("fe80::1%eth0") == nil })
		})
	}
}

func TestMachineMACsAreUnicastLocalAndNotTheGateways(t *testing.T) {
	seen := make(map[string]addr.ID)
	for _, id := range []addr.ID{{Cell: 1, Machine: 0}, {Cell: 1, Machine: 0xffffffff}, {Cell: 2, Machine: 0}, {Cell: 0x69, Machine: 0x70366401}} {
		m := host.MachineMAC(id)
		if len(m) != 6 || m[0]&3 != 2 || m.String() == nat.GatewayMAC().String() {
			t.Errorf("machine %s has MAC %s", id, m)
		}
		if other, twice := seen[m.String()]; twice {
			t.Errorf("machines %s and %s both have MAC %s", id, other, m)
		}
		seen[m.String()] = id
	}
}
