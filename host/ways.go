package host

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/nat"
)

// lookAtWays compares ip6d0, the underlay, routes, neighbours, next hops and the mesh with what they should be. It changes
// nothing.
func (a *Agent) lookAtWays() (all []audit.Difference, err error) {
	a.portsMu.Lock()
	ports := slices.Collect(maps.Values(a.ports))
	a.portsMu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	stack, err := a.lookAtStackDevice()
	all = append(all, stack...)
	if err != nil {
		return all, err
	}
	up, err := a.lookAtUnderlay(&all)
	if err != nil {
		return all, err
	}
	gateways := make(map[addr.Host]netip.Addr)
	if up {
		for h, p := range a.peers {
			if g, err := a.gateway(p.Underlay); err == nil { // else the Agent tells of it
				gateways[h] = g
			}
		}
	}
	routes, err := a.lookAtRoutes(ports, gateways)
	all = append(all, routes...)
	if a.peers == nil || !up {
		return all, err
	}
	neighbours, neighboursErr := a.lookAtNeighbours(gateways)
	hops, hopsErr := a.lookAtNextHops(gateways)
	mesh, meshErr := a.lookAtMesh()
	return slices.Concat(all, neighbours, hops, mesh), errors.Join(err, neighboursErr, hopsErr, meshErr)
}

// lookAtStackDevice looks at ip6d0. The caller holds mu.
func (a *Agent) lookAtStackDevice() (all []audit.Difference, err error) {
	add := func(have string) {
		all = append(all, audit.New(audit.StackMissing, audit.Device(StackDevice), "wanted", "up, its peer "+stackPeer, "device", have))
	}
	l, err := a.kernel.link(StackDevice)
	if err != nil {
		return nil, err
	}
	if l == nil {
		add(audit.None)
		return all, nil
	}
	peer, err := a.kernel.stackPeer(l)
	switch {
	case err != nil:
		add(err.Error())
	case l.Attrs().Flags&net.FlagUp == 0 || peer.Attrs().Flags&net.FlagUp == 0:
		add("down")
	case !a.Endpoint.IsZero():
		addresses, err := dump("addresses of "+StackDevice, func() ([]netlink.Addr, error) { return a.kernel.AddrList(l, netlink.FAMILY_V6) })
		if err != nil {
			return all, err
		}
		endpoint := netip.PrefixFrom(a.Endpoint.Addr(), 128)
		if !slices.ContainsFunc(addresses, func(at netlink.Addr) bool { return prefixOf(at.IPNet) == endpoint }) {
			add("without the address " + endpoint.String())
		}
	}
	return all, nil
}

// lookAtUnderlay reports whether the underlay's device is there and up. The caller holds mu.
func (a *Agent) lookAtUnderlay(all *[]audit.Difference) (up bool, err error) {
	if a.Underlay == "" {
		return false, nil
	}
	l, err := a.kernel.link(a.Underlay)
	if err != nil {
		return false, err
	}
	have := audit.None
	if l != nil {
		up, have = l.Attrs().Flags&net.FlagUp != 0, "down"
	}
	if !up {
		*all = append(*all, audit.New(audit.UnderlayMissing, audit.Device(a.Underlay), "wanted", "up", "device", have))
	}
	return up && l.Attrs().Index == a.underlay.ifindex, nil // another one is about to be taken
}

func (a *Agent) lookAtRoutes(ports []Port, gateways map[addr.Host]netip.Addr) (all []audit.Difference, err error) {
	want := make(map[netip.Prefix]route)
	for _, to := range a.stackRoutes() {
		want[to] = route{ifindex: a.stack.Ifindex}
	}
	for h, g := range gateways {
		want[a.Plan.HostPrefix(h)] = route{ifindex: a.underlay.ifindex, gateway: g}
	}
	own, err := a.portRoutes(ports)
	if err != nil {
		return nil, err
	}
	maps.Copy(want, own)
	have, err := a.kernel.routes()
	if err != nil {
		return nil, err
	}
	for to, w := range want {
		h, ok := have[to]
		switch {
		case !ok:
			all = append(all, audit.New(audit.RouteMissing, audit.Named(audit.RouteObject, to), "wanted", w.String(), "kernel", audit.None))
		case h != w:
			all = append(all, audit.New(audit.RouteDiffers, audit.Named(audit.RouteObject, to), "wanted", w.String(), "kernel", h.String()))
		}
	}
	unsure := make(map[netip.Prefix]bool) // of hosts to which there is no way just now
	for h := range a.peers {
		unsure[a.Plan.HostPrefix(h)] = true
	}
	for to, h := range have {
		if _, ok := want[to]; !ok && !unsure[to] && a.peers != nil {
			all = append(all, audit.New(audit.RouteStray, audit.Named(audit.RouteObject, to), "wanted", audit.None, "kernel", h.String()))
		}
	}
	return all, nil
}

func (r route) String() string {
	text := fmt.Sprintf("device %d", r.ifindex)
	if r.gateway.IsValid() {
		text += ", via " + r.gateway.String()
	}
	if r.mtu != 0 {
		text += fmt.Sprintf(", MTU %d", r.mtu)
	}
	return text
}

func (a *Agent) lookAtNeighbours(gateways map[addr.Host]netip.Addr) (all []audit.Difference, err error) {
	now, err := a.kernel.listNeighbours(a.underlay.ifindex)
	if err != nil {
		return nil, err
	}
	used := make(map[netip.Addr]bool)
	for _, g := range gateways {
		if !g.IsValid() || used[g] {
			continue
		}
		used[g] = true
		n, ok := now[g]
		object := audit.Named(audit.NeighbourObject, g)
		switch {
		case !ok:
			all = append(all, audit.New(audit.NeighbourMissing, object, "wanted", "managed", "kernel", audit.None))
		case n.state&fixed == 0 && !(n.ours && n.managed):
			all = append(all, audit.New(audit.NeighbourMissing, object, "wanted", "managed", "kernel", "not managed"))
		case n.state&usable == 0:
			all = append(all, audit.New(audit.NeighbourUnreachable, object, "wanted", "a MAC", "kernel", "it does not answer"))
		}
	}
	for g, n := range now {
		if n.ours && !used[g] {
			all = append(all, audit.New(audit.NeighbourStray, audit.Named(audit.NeighbourObject, g), "wanted", audit.None, "kernel", "managed"))
		}
	}
	a.neighbours = now
	return all, nil
}

// lookAtNextHops compares the kernel's `hosts`. lookAtNeighbours comes before it.
func (a *Agent) lookAtNextHops(gateways map[addr.Host]netip.Addr) (all []audit.Difference, err error) {
	entries, err := a.NextHops.Hosts()
	if err != nil {
		return nil, err
	}
	have := make(map[addr.Host]nat.NextHop)
	for _, e := range entries {
		have[e.Host] = e
	}
	for h := range gateways {
		want, e := a.nextHop(h), have[h]
		want.Trusted, e.Trusted = 0, 0
		if want.MAC == nil || e.MAC == nil { // the one that is not known now is asked for
			want.MAC, e.MAC = nil, nil
		}
		switch _, ok := have[h]; {
		case !ok:
			all = append(all, audit.New(audit.NextHopMissing, audit.Host(h), "wanted", saidHop(want), "kernel's hosts", audit.None))
		case saidHop(want) != saidHop(e):
			all = append(all, audit.New(audit.NextHopDiffers, audit.Host(h), "wanted", saidHop(want), "kernel's hosts", saidHop(e)))
		}
	}
	for h, e := range have {
		if _, ok := a.peers[h]; !ok {
			e.Trusted, e.MAC = 0, nil
			all = append(all, audit.New(audit.NextHopStray, audit.Host(h), "wanted", audit.None, "kernel's hosts", saidHop(e)))
		}
	}
	return all, nil
}

func saidHop(h nat.NextHop) string {
	text := fmt.Sprintf("device %d, kind %d", h.Ifindex, h.Kind)
	if h.Gateway.IsValid() {
		text += fmt.Sprintf(", via %s, from %s", h.Gateway, h.Source)
	}
	if h.MAC != nil {
		text += ", MAC " + h.MAC.String()
	}
	return text
}

// lookAtMesh compares the peers of the WireGuard device, where the underlay is one.
func (a *Agent) lookAtMesh() (all []audit.Difference, err error) {
	if a.WireGuard == nil {
		return nil, nil
	}
	device, err := a.kernel.wireGuard(a.Underlay)
	if err != nil {
		return nil, err
	}
	have := make(map[wgtypes.Key]wgtypes.Peer)
	for _, p := range device.Peers {
		have[p.PublicKey] = p
	}
	for h, p := range a.peers {
		key, err := wgtypes.ParseKey(p.Key)
		if err != nil {
			continue // checkMeshPeer has refused it
		}
		now, ok := have[key]
		delete(have, key)
		want := netipx.PrefixIPNet(a.Plan.HostPrefix(h)).String()
		switch {
		case !ok:
			all = append(all, audit.New(audit.MeshPeerMissing, audit.Host(h), "wanted", p.Key, "WireGuard", audit.None))
		case len(now.AllowedIPs) != 1 || now.AllowedIPs[0].String() != want:
			all = append(all, audit.New(audit.MeshPeerDiffers, audit.Host(h), "wanted", "allowed "+want, "WireGuard", fmt.Sprintf("allowed %v", now.AllowedIPs)))
		}
	}
	for key := range have {
		all = append(all, audit.New(audit.MeshPeerStray, audit.Device(a.Underlay), "wanted", audit.None, "WireGuard", key.String()))
	}
	return all, nil
}
