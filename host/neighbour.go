package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/nat"
)

// neighbour is what the kernel knows of an address on the underlay.
type neighbour struct {
	mac     net.HardwareAddr
	state   int  // NUD_* of linux/neighbour.h
	ours    bool // it carries ip6d's protocol number
	managed bool // the kernel keeps it fresh by itself (NTF_EXT_MANAGED, since Linux 5.16)
}

// usable are the states in which the kernel itself sends to the MAC. A stale one is right until the kernel, which
// asks managed neighbours again and again, finds out that it is not.
const usable = netlink.NUD_PERMANENT | netlink.NUD_NOARP | netlink.NUD_REACHABLE |
	netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE

// fixed are the states that somebody set by hand: not ours to manage.
const fixed = netlink.NUD_PERMANENT | netlink.NUD_NOARP

func (n neighbour) known() bool { return n.state&usable != 0 && len(n.mac) == 6 }

// listNeighbours lists the neighbours on a device.
func (k *kernel) listNeighbours(ifindex int) (map[netip.Addr]neighbour, error) {
	type entry struct {
		address netip.Addr
		neighbour
	}
	all, err := dump("neighbours", func() ([]entry, error) {
		r := k.request(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
		r.AddData(&netlink.Ndmsg{Family: unix.AF_INET6, Index: uint32(ifindex)})
		messages, err := r.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
		if err != nil {
			return nil, err
		}
		var all []entry
		for _, m := range messages {
			at, address, n, err := parseNeighbour(m)
			if err != nil {
				return nil, err
			}
			if at == ifindex {
				all = append(all, entry{address, n})
			}
		}
		return all, nil
	})
	if err != nil {
		return nil, err
	}
	neighbours := make(map[netip.Addr]neighbour)
	for _, e := range all {
		neighbours[e.address] = e.neighbour
	}
	return neighbours, nil
}

// parseNeighbour reads an RTM_NEWNEIGH or RTM_DELNEIGH message; see rtnetlink(7). The netlink package's own reader
// leaves out the protocol.
func parseNeighbour(m []byte) (ifindex int, address netip.Addr, n neighbour, err error) {
	if len(m) < unix.SizeofNdMsg {
		return 0, address, n, fmt.Errorf("neighbour message of %d bytes", len(m))
	}
	header, err := netlink.NeighDeserialize(m)
	if err != nil {
		return 0, address, n, fmt.Errorf("neighbour message: %w", err)
	}
	attributes, err := nl.ParseRouteAttrAsMap(m[unix.SizeofNdMsg:])
	if err != nil {
		return 0, address, n, fmt.Errorf("neighbour message: %w", err)
	}
	protocol := attributes[netlink.NDA_PROTOCOL].Value
	n = neighbour{
		mac:     header.HardwareAddr,
		state:   header.State,
		ours:    len(protocol) == 1 && protocol[0] == RouteProtocol,
		managed: header.FlagsExt&netlink.NTF_EXT_MANAGED != 0,
	}
	return header.LinkIndex, addressOf(header.IP), n, nil
}

// manage has the kernel find a neighbour and keep it fresh, whether or not packets are sent to it. As learned
// from outside it is not counted against gc_thresh3, so that a fleet may be larger than that.
func (k *kernel) manage(ifindex int, address netip.Addr) error {
	r := k.request(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE|unix.NLM_F_ACK)
	r.AddData(&netlink.Ndmsg{
		Family: unix.AF_INET6,
		Index:  uint32(ifindex),
		State:  netlink.NUD_NONE, // as it is now
		Flags:  netlink.NTF_EXT_LEARNED,
	})
	r.AddData(nl.NewRtAttr(netlink.NDA_DST, address.AsSlice()))
	r.AddData(nl.NewRtAttr(netlink.NDA_FLAGS_EXT, nl.Uint32Attr(netlink.NTF_EXT_MANAGED)))
	r.AddData(nl.NewRtAttr(netlink.NDA_PROTOCOL, nl.Uint8Attr(RouteProtocol)))
	if _, err := r.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("watch neighbour %s: %w", address, err)
	}
	return nil
}

// unmanage ends what manage began.
func (k *kernel) unmanage(ifindex int, address netip.Addr) error {
	err := k.NeighDel(&netlink.Neigh{Family: unix.AF_INET6, LinkIndex: ifindex, IP: address.AsSlice()})
	if err != nil && !errors.Is(err, unix.ENOENT) { // it has just gone
		return fmt.Errorf("delete neighbour %s: %w", address, err)
	}
	return nil
}

// ensureNeighbours has the gateways in use watched, and those that are not used any more forgotten. It leaves in
// a.neighbours what the kernel knows. The caller holds mu.
func (a *Agent) ensureNeighbours() error {
	now, err := a.kernel.listNeighbours(a.underlay.ifindex)
	if err != nil {
		return err
	}
	a.neighbours = now
	used := make(map[netip.Addr]bool)
	for _, gateway := range a.gateways {
		if !gateway.IsValid() { // the underlay has no link layer
			continue
		}
		used[gateway] = true
		if n := now[gateway]; n.state&fixed != 0 || n.ours && n.managed {
			continue
		}
		if err := a.kernel.manage(a.underlay.ifindex, gateway); err != nil {
			return err
		}
	}
	for address, n := range now {
		if !n.ours || used[address] {
			continue
		}
		if err := a.kernel.unmanage(a.underlay.ifindex, address); err != nil {
			return err
		}
	}
	return nil
}

// seeNeighbour takes in what the kernel tells of a neighbour: the zero neighbour when it has forgotten it. It
// reports whether a gateway has to be watched again.
func (a *Agent) seeNeighbour(ifindex int, address netip.Addr, n neighbour) (forgotten bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.underlay.ifindex != ifindex {
		return false, nil
	}
	if a.neighbours == nil {
		a.neighbours = make(map[netip.Addr]neighbour)
	}
	a.neighbours[address] = n
	for h, gateway := range a.gateways {
		if gateway != address {
			continue
		}
		forgotten = forgotten || !n.managed && n.state&fixed == 0
		if err := a.NextHops.PutHost(a.nextHop(h)); err != nil {
			return forgotten, err
		}
	}
	return forgotten, nil
}

// nextHop is how the datapath reaches a host now. The caller holds mu.
func (a *Agent) nextHop(h addr.Host) nat.NextHop {
	if a.underlay.l3 {
		return nat.NextHop{Host: h, Ifindex: a.underlay.ifindex, Kind: nat.HopL3}
	}
	hop := nat.NextHop{
		Host:    h,
		Ifindex: a.underlay.ifindex,
		Gateway: a.gateways[h],
		Source:  a.underlay.mac,
		Kind:    nat.HopRouter,
	}
	if hop.Gateway == a.peers[h].Underlay {
		hop.Kind = nat.HopNeighbour
	}
	if n := a.neighbours[hop.Gateway]; n.known() {
		hop.MAC, hop.Trusted = n.mac, a.trust()
	}
	return hop
}

// trust is how long a MAC is used without hearing of it. Past it, as when this process is down, the kernel is asked
// with each packet, which is slower and as right.
func (a *Agent) trust() time.Duration { return 3 * a.Interval }
