package host

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// AdoptPort makes a port of a device that exists on this host, such as the TAP of a virtual machine or the host's
// end of a veth pair. mac is the machine's; nil stands for MachineMAC. The same again returns the same port. When it
// fails, the device is as it was.
//
// Errors: ErrInvalid, ErrNoDevice, ErrNotPort, ErrPortExists for a device that is a port already.
func (a *Agent) AdoptPort(device string, s addr.Stable, mac net.HardwareAddr) (Port, error) {
	mac, err := machineMAC(mac, s)
	if err := errors.Join(err, checkMachine(s), checkDeviceName("device", device)); err != nil {
		return Port{}, err
	}
	a.portsMu.Lock()
	defer a.portsMu.Unlock()
	l, err := a.kernel.link(device)
	if err != nil {
		return Port{}, err
	}
	if l == nil {
		return Port{}, fmt.Errorf("%w: %q; `ip link` shows those of this host", ErrNoDevice, device)
	}
	p, _, ok := a.portAt(l)
	if ok && (p.Created || p.Address != s || p.MAC.String() != mac.String()) {
		return Port{}, fmt.Errorf("%w: %q is the port of %s with MAC %s; detach that first", ErrPortExists, device, p.Address, p.MAC)
	}
	if !ok {
		if err := a.checkAdoptable(l); err != nil {
			return Port{}, err
		}
		mark := label{address: s, mac: mac, adopted: &adopted{mac: l.Attrs().HardwareAddr, alias: l.Attrs().Alias}}
		// First of all, so that after a crash it is known how the device was.
		if err := a.kernel.LinkSetAlias(l, mark.String()); err != nil {
			return Port{}, fmt.Errorf("label %s: %w", device, err)
		}
		l.Attrs().Alias = mark.String()
		p, _, _ = a.portAt(l)
	}
	if err := a.mendPort(l, p); err != nil {
		if !ok {
			err = errors.Join(err, a.giveBack(l, l.Attrs().Flags&net.FlagUp != 0))
		}
		return Port{}, fmt.Errorf("adopt %s: %w", device, err)
	}
	a.ports[p.Ifindex] = p
	a.look() // for its route
	return p, nil
}

// checkAdoptable refuses devices that have another purpose: as a port, that would end.
func (a *Agent) checkAdoptable(l netlink.Link) error {
	at := l.Attrs()
	refuse := func(why string, args ...any) error {
		return fmt.Errorf("%w: %s %s", ErrNotPort, at.Name, fmt.Sprintf(why, args...))
	}
	a.mu.Lock()
	stack := a.stack
	a.mu.Unlock()
	switch {
	case at.EncapType != "ether" || at.Flags&net.FlagLoopback != 0:
		return refuse("is not Ethernet but %s; a TAP or veth is needed", at.EncapType)
	case at.Name == a.Underlay:
		return refuse("is the underlay")
	case at.Index == stack.Ifindex || at.Index == stack.Peer:
		return refuse("is ip6d's own")
	case at.MasterIndex != 0:
		return refuse("is part of a bridge or bond; take it out: ip link set %s nomaster", at.Name)
	case at.MTU < minMTU:
		return refuse("has MTU %d; IPv6 needs at least %d", at.MTU, minMTU)
	case l.Type() == "bridge":
		return refuse("is a bridge; adopt the machine's own device")
	}
	addresses, err := dump("addresses of "+at.Name, func() ([]netlink.Addr, error) { return a.kernel.AddrList(l, unix.AF_UNSPEC) })
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if p := prefixOf(address.IPNet); !p.Addr().IsLinkLocalUnicast() {
			return refuse("has the address %s, and so another purpose; delete that first", p)
		}
	}
	return nil
}

// RemovePort takes a port away: one that CreatePort made is deleted, an adopted one is given back, down, as its
// machine would otherwise reach the host's stack unchecked. It succeeds when the port is gone, also when its name
// has gone to another.
func (a *Agent) RemovePort(p Port) error {
	a.portsMu.Lock()
	defer a.portsMu.Unlock()
	l, err := a.kernel.link(p.Name)
	if err != nil {
		return fmt.Errorf("remove port: %w", err)
	}
	if l == nil {
		return nil
	}
	now, _, ok := a.portAt(l)
	if !ok || now.Address != p.Address {
		return nil
	}
	delete(a.ports, now.Ifindex) // so that its end is not told as a loss
	if now.Created {
		err = a.kernel.delete(l)
	} else {
		err = a.giveBack(l, false)
	}
	if err != nil {
		a.ports[now.Ifindex] = now
		return fmt.Errorf("remove port %s: %w", p.Name, err)
	}
	a.look()
	return nil
}

// giveBack makes an adopted device what it was. The label goes last, so that it can be repeated.
func (a *Agent) giveBack(l netlink.Link, up bool) error {
	k := a.kernel
	_, mark, ok := a.portAt(l)
	if !ok || mark.adopted == nil {
		return nil
	}
	if !up {
		if err := k.LinkSetDown(l); err != nil {
			return fmt.Errorf("take down: %w", err)
		}
	}
	err := k.AddrDel(l, &netlink.Addr{IPNet: netipx.PrefixIPNet(gatewayPrefix)})
	if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("delete %s: %w", gatewayPrefix, err)
	}
	if err := k.LinkSetHardwareAddr(l, mark.adopted.mac); err != nil {
		return fmt.Errorf("set MAC %s: %w", mark.adopted.mac, err)
	}
	// Not by sysctl: that would give it a link-local address at once.
	if err := k.LinkSetIP6AddrGenMode(l, addrGenEUI64); err != nil {
		return fmt.Errorf("set addrgenmode: %w", err)
	}
	if err := k.LinkSetAlias(l, mark.adopted.alias); err != nil {
		return fmt.Errorf("set alias: %w", err)
	}
	return nil
}
