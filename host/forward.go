package host

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// allDevices stands for all devices of a namespace where a sysctl has one setting for each.
const allDevices = "all"

// forward switches forwarding on, for a device or for all. A router ignores router advertisements (RFC 4861 section
// 6.2.8 lets it do so; Linux does unless accept_ra is 2), and the kernel drops the default routes learned from them as
// soon as any device forwards. So first of all, devices that have listened until now are told to go on.
func (a *Agent) forward(device string) error {
	err := func() error {
		now, err := a.kernel.get(device, "forwarding")
		if err != nil || now != "0" {
			return err
		}
		listening, err := a.kernel.listeners()
		if err != nil {
			return err
		}
		if a.Underlay != "" {
			listening = append(listening, a.Underlay)
		}
		for _, l := range listening {
			if err := a.kernel.keepListening(l); err != nil {
				return err
			}
		}
		return a.kernel.set(sysctl{device, "forwarding", "1"})
	}()
	if err != nil {
		return fmt.Errorf("switch IPv6 forwarding of %s on: %w", device, err)
	}
	return nil
}

// listeners returns the devices that live by router advertisements: those that have a route from one, or an address
// for a time. An advertisement may give either alone. DHCPv6 gives such addresses too, and leaves the default route to
// advertisements.
func (k *kernel) listeners() ([]string, error) {
	routes, err := dump("routes", func() ([]netlink.Route, error) {
		return k.RouteListFiltered(unix.AF_INET6, &netlink.Route{Protocol: unix.RTPROT_RA}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, err
	}
	addresses, err := dump("addresses", func() ([]netlink.Addr, error) { return k.AddrList(nil, unix.AF_INET6) })
	if err != nil {
		return nil, err
	}
	var at []int
	for _, r := range routes {
		at = append(at, r.LinkIndex)
		for _, hop := range r.MultiPath {
			at = append(at, hop.LinkIndex)
		}
	}
	for _, address := range addresses {
		if address.Flags&unix.IFA_F_PERMANENT == 0 {
			at = append(at, address.LinkIndex)
		}
	}
	slices.Sort(at)
	var devices []string
	for _, ifindex := range slices.Compact(at) {
		l, err := k.linkAt(ifindex)
		if err != nil {
			return nil, err
		}
		if l != nil {
			devices = append(devices, l.Attrs().Name)
		}
	}
	return devices, nil
}

// keepListening has a device accept router advertisements although this host is a router, if it would otherwise. One
// that is gone needs nothing.
func (k *kernel) keepListening(device string) error {
	now, err := k.get(device, "accept_ra")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || now != "1" {
		return err
	}
	return k.set(sysctl{device, "accept_ra", "2"})
}
