package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host/netns"
	"ip6d/nat"
)

// PortSpec says which port CreatePort makes. Address and Netns are needed.
type PortSpec struct {
	Address addr.Stable // the machine's
	Netns   string      // path of the machine's namespace, such as /run/netns/web1 or /proc/PID/ns/net

	Name      string           // of the device on the host; empty: PortName
	GuestName string           // of the device in the namespace; empty: eth0
	GuestMAC  net.HardwareAddr // nil: MachineMAC
	MTU       int              // bytes, 1280 to 65535; 0: the underlay's

	// Configure gives the device in the namespace the address, and makes it the way of all else.
	Configure bool
}

// DefaultGuestName is the name of a machine's device in its namespace unless told otherwise.
const DefaultGuestName = "eth0"

// CreatePort makes a veth pair with one end in the machine's namespace. The same spec again returns the same port,
// and finishes what a crash left half made. When it fails, nothing of it is left.
//
// Errors: ErrInvalid, ErrNoNamespace, ErrOwnNamespace, ErrPortExists, ErrNotUnderlay for its MTU.
func (a *Agent) CreatePort(s PortSpec) (Port, error) {
	if err := a.complete(&s); err != nil {
		return Port{}, err
	}
	guest, err := a.openGuest(s.Netns)
	if err != nil {
		return Port{}, err
	}
	defer guest.ns.Close()
	defer guest.close()

	a.portsMu.Lock()
	defer a.portsMu.Unlock()
	l, err := a.usablePort(s, guest)
	if err != nil {
		return Port{}, fmt.Errorf("create port %s: %w", s.Name, err)
	}
	made := l == nil
	if made {
		if l, err = a.addVeth(s, guest); err != nil {
			return Port{}, fmt.Errorf("create port %s: %w", s.Name, err)
		}
	}
	p, err := a.finish(l, s, guest)
	if err != nil {
		if made {
			err = errors.Join(err, a.kernel.delete(l))
		}
		return Port{}, fmt.Errorf("create port %s: %w", s.Name, err)
	}
	a.ports[p.Ifindex] = p
	a.look() // for its route
	return p, nil
}

// complete checks a spec and fills in its defaults.
func (a *Agent) complete(s *PortSpec) (err error) {
	if err := checkMachine(s.Address); err != nil {
		return err
	}
	if s.Name == "" {
		s.Name = PortName(s.Address.Machine())
	}
	if s.GuestName == "" {
		s.GuestName = DefaultGuestName
	}
	if err := errors.Join(checkDeviceName("device", s.Name), checkDeviceName("guest device", s.GuestName)); err != nil {
		return err
	}
	if s.GuestMAC, err = machineMAC(s.GuestMAC, s.Address); err != nil {
		return err
	}
	if s.MTU != 0 && (s.MTU < minMTU || s.MTU > maxMTU) {
		return fmt.Errorf("%w: MTU %d: must be %d to %d", ErrInvalid, s.MTU, minMTU, maxMTU)
	}
	return nil
}

// openGuest opens a machine's namespace. The caller closes both the kernel and its ns.
func (a *Agent) openGuest(path string) (*kernel, error) {
	ns, err := netns.Open(path)
	if errors.Is(err, netns.ErrNotFound) || errors.Is(err, netns.ErrNotNamespace) {
		return nil, fmt.Errorf("%w: %w; `ip netns add NAME` makes one at %s", ErrNoNamespace, err, netns.Path("NAME"))
	}
	if err != nil {
		return nil, err
	}
	same, err := ns.Same(a.ns)
	if err == nil && same {
		err = fmt.Errorf("%w: %s; a machine needs one of its own", ErrOwnNamespace, path)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	k, err := openKernel(ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return k, nil
}

// usablePort returns the device that an earlier call made for the same spec, or nil when all names are free. A
// device of ours without a label was left by a crash, before anybody used it, and goes.
func (a *Agent) usablePort(s PortSpec, guest *kernel) (netlink.Link, error) {
	l, err := a.kernel.link(s.Name)
	if err != nil {
		return nil, err
	}
	if l != nil && l.Type() == "veth" && l.Attrs().Alias == "" && isGatewayMAC(l.Attrs().HardwareAddr) {
		if err := a.kernel.delete(l); err != nil {
			return nil, err
		}
		l = nil
	}
	if l == nil {
		other, err := guest.link(s.GuestName)
		if err == nil && other != nil {
			err = fmt.Errorf("%w: %q in %s; choose another name for the guest device", ErrPortExists, s.GuestName, s.Netns)
		}
		return nil, err
	}
	p, _, ok := a.portAt(l)
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: %q is no port of ip6d; delete or rename it", ErrPortExists, s.Name)
	case p.Address != s.Address || !p.Created:
		return nil, fmt.Errorf("%w: %q is the port of %s; detach that first", ErrPortExists, s.Name, p.Address)
	case s.MTU != 0 && s.MTU != p.MTU:
		return nil, fmt.Errorf("%w: %q has MTU %d, not %d; detach the machine first", ErrPortExists, s.Name, p.MTU, s.MTU)
	}
	peer, err := a.guestEnd(l, guest)
	if err != nil {
		return nil, err
	}
	if peer == nil || peer.Attrs().Name != s.GuestName || peer.Attrs().HardwareAddr.String() != s.GuestMAC.String() {
		return nil, fmt.Errorf("%w: the other end of %q is not %q with MAC %s in %s; detach the machine first", ErrPortExists, s.Name, s.GuestName, s.GuestMAC, s.Netns)
	}
	return l, nil
}

// guestEnd returns the other end of a veth, or nil when that is not in the guest's namespace.
func (a *Agent) guestEnd(l netlink.Link, guest *kernel) (netlink.Link, error) {
	id, err := a.kernel.GetNetNsIdByFd(guest.ns.FD())
	if err != nil {
		return nil, fmt.Errorf("identify network namespace %s: %w", guest.ns, err)
	}
	if id < 0 || id != l.Attrs().NetNsID {
		return nil, nil
	}
	return guest.linkAt(l.Attrs().ParentIndex)
}

// addVeth makes the pair in one step, down, with its ends where they belong.
func (a *Agent) addVeth(s PortSpec, guest *kernel) (netlink.Link, error) {
	mtu := s.MTU
	if mtu == 0 {
		var err error
		if mtu, err = a.portMTU(); err != nil {
			return nil, err
		}
	}
	base := netlink.NewLinkAttrs()
	base.Name, base.MTU, base.HardwareAddr = s.Name, mtu, nat.GatewayMAC()
	err := a.kernel.LinkAdd(&netlink.Veth{
		LinkAttrs:        base,
		PeerName:         s.GuestName,
		PeerHardwareAddr: s.GuestMAC,
		PeerNamespace:    netlink.NsFd(guest.ns.FD()),
	})
	if errors.Is(err, os.ErrExist) { // made by somebody since we looked
		return nil, fmt.Errorf("%w: %q, or %q in %s", ErrPortExists, s.Name, s.GuestName, s.Netns)
	}
	if err != nil {
		return nil, fmt.Errorf("add veth pair: %w", err)
	}
	l, err := a.kernel.link(s.Name)
	if err == nil && l == nil {
		err = fmt.Errorf("%w: %q was deleted just after it was made", ErrNoDevice, s.Name)
	}
	return l, err
}

// portMTU is the underlay's: translation adds nothing to a packet.
func (a *Agent) portMTU() (int, error) {
	if a.Underlay == "" {
		return defaultMTU, nil
	}
	l, err := a.kernel.link(a.Underlay)
	if err != nil {
		return 0, err
	}
	if l == nil {
		return 0, fmt.Errorf("%w: %q, whose MTU the port is to have; give an MTU", ErrNoUnderlay, a.Underlay)
	}
	return l.Attrs().MTU, underlayError(l)
}

// finish configures both ends. The label comes when all but the last step is done: who has it is complete.
func (a *Agent) finish(l netlink.Link, s PortSpec, guest *kernel) (Port, error) {
	peer, err := a.guestEnd(l, guest)
	if err != nil {
		return Port{}, err
	}
	if peer == nil {
		return Port{}, fmt.Errorf("%w: %q in %s", ErrNoDevice, s.GuestName, s.Netns)
	}
	if err := guest.configure(peer, s); err != nil {
		return Port{}, fmt.Errorf("configure %s in %s: %w", s.GuestName, s.Netns, err)
	}
	mark := label{address: s.Address, mac: s.GuestMAC}.String()
	if l.Attrs().Alias != mark {
		if err := a.kernel.LinkSetAlias(l, mark); err != nil {
			return Port{}, fmt.Errorf("label %s: %w", s.Name, err)
		}
	}
	l.Attrs().Alias = mark
	p, _, _ := a.portAt(l)
	if err := a.mendPort(l, p); err != nil {
		return Port{}, err
	}
	var own []netip.Prefix
	if s.Configure {
		own = s.guestAddresses()
	}
	return p, errors.Join(a.kernel.settle(p.Ifindex, gatewayPrefix), guest.settle(peer.Attrs().Index, own...))
}

// guestAddresses are those that a configured device has. The kernel gives it a link-local one too, but in its own
// time. A machine that has none yet speaks to the gateway from its stable address, and the answer does not come by
// this port.
func (s PortSpec) guestAddresses() []netip.Prefix {
	return []netip.Prefix{linkLocal(s.GuestMAC), netip.PrefixFrom(s.Address.Addr(), 128)}
}

// settle waits for the kernel to do in the background what makes a device ready: to notice that the other end is up,
// without which what is sent is dropped, and to deliver what comes for its addresses. That takes milliseconds; what
// takes longer than patience is somebody else's doing, and no reason to have no port.
func (k *kernel) settle(ifindex int, addresses ...netip.Prefix) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range int(patience / time.Millisecond) {
		if ready, err := k.ready(ifindex, addresses); ready || err != nil {
			return err
		}
		<-tick.C
	}
	return nil
}

const patience = time.Second

func (k *kernel) ready(ifindex int, addresses []netip.Prefix) (bool, error) {
	l, err := k.linkAt(ifindex)
	if err != nil || l == nil {
		return l == nil, err
	}
	if l.Attrs().OperState != netlink.OperUp {
		return false, nil
	}
	for _, p := range addresses {
		routes, err := k.RouteGetWithOptions(p.Addr().AsSlice(), &netlink.RouteGetOptions{OifIndex: ifindex})
		if err != nil || len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL {
			return false, nil
		}
	}
	return true, nil
}

// configure brings up the machine's end and, where that is asked for, gives it the stable address and the default
// route. The gateway is on the link whatever its prefixes say.
func (k *kernel) configure(l netlink.Link, s PortSpec) error {
	if !s.Configure {
		return k.setUp(l)
	}
	name := l.Attrs().Name
	// Its addresses and its way are given: it neither asks for others nor whether anybody has them.
	err := k.set(
		sysctl{name, "disable_ipv6", "0"},
		sysctl{name, "accept_dad", "0"},
		sysctl{name, "accept_ra", "0"},
		sysctl{name, "accept_redirects", "0"},
	)
	if err != nil {
		return err
	}
	if err := k.setUp(l); err != nil {
		return err
	}
	for _, p := range s.guestAddresses() {
		if err := k.ensureAddress(l, p); err != nil {
			return err
		}
	}
	return k.ensureDefault(l)
}

// linkLocal is the address that a MAC stands for (RFC 4291 appendix A).
func linkLocal(m net.HardwareAddr) netip.Prefix {
	a := [16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// ensureDefault makes the gateway the way of all else.
func (k *kernel) ensureDefault(l netlink.Link) error {
	all, err := dump("routes", func() ([]netlink.Route, error) { return k.RouteList(nil, unix.AF_INET6) })
	if err != nil {
		return err
	}
	gateway := gatewayPrefix.Addr()
	for _, r := range all {
		if prefixOf(r.Dst).Bits() == 0 && r.LinkIndex == l.Attrs().Index && addressOf(r.Gw) == gateway {
			return nil
		}
	}
	err = k.RouteAdd(&netlink.Route{
		LinkIndex: l.Attrs().Index,
		Gw:        gateway.AsSlice(),
		Flags:     int(netlink.FLAG_ONLINK),
		Protocol:  RouteProtocol,
	})
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%w: there is another default route; delete it, or attach the machine unconfigured", ErrPortExists)
	}
	if err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

// delete deletes a device; that it is gone is no error.
func (k *kernel) delete(l netlink.Link) error {
	if err := k.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", l.Attrs().Name, err)
	}
	return nil
}
