package host

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// Peer is another host.
type Peer struct {
	Host     addr.Host
	Underlay netip.Addr // its address on the underlay: IPv6, in neither of the fleet's prefixes

	// In a WireGuard mesh only, where Underlay is the host's control address:
	Key      string         // its public key, in base64
	Endpoint netip.AddrPort // where it listens
}

// SetHosts keeps a route and a next hop to each of these hosts, and to no others. All that can be done now is done
// before it returns. The rest is told in the error: a host that is wrong in itself is left out, and what fails for
// another reason Run tries again until it succeeds. Nothing that is wrong with one host concerns the others.
// Errors: ErrInvalid, ErrNoUnderlay, ErrUnreachable.
func (a *Agent) SetHosts(all []Peer) error {
	peers := make(map[addr.Host]Peer, len(all))
	var errs []error
	for _, p := range all {
		if err := a.checkPeer(p); err != nil {
			errs = append(errs, err)
			continue
		}
		if before, twice := peers[p.Host]; twice {
			errs = append(errs, fmt.Errorf("%w: host %d is listed twice, with underlay addresses %s and %s", ErrInvalid, p.Host, before.Underlay, p.Underlay))
			continue
		}
		peers[p.Host] = p
	}
	if a.WireGuard != nil {
		errs = append(errs, dropTwins(peers))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.NextHops == nil {
		return fmt.Errorf("%w: the agent has no next hops yet", ErrInvalid)
	}
	a.peers = peers
	err := a.seeUnderlay()
	if err == nil {
		err = a.ensureHosts()
	}
	return errors.Join(append(errs, err)...)
}

func (a *Agent) checkPeer(p Peer) error {
	switch {
	case a.Underlay == "":
		return fmt.Errorf("%w: host %d cannot be reached; set underlay.device", ErrNoUnderlay, p.Host)
	case p.Host == 0 || p.Host == a.Host:
		return fmt.Errorf("%w: host %d is no other host", ErrInvalid, p.Host)
	case a.WireGuard != nil:
		return a.checkMeshPeer(p)
	case !p.Underlay.Is6() || p.Underlay.Is4In6() || p.Underlay.Zone() != "" || p.Underlay.IsMulticast() || p.Underlay.IsUnspecified():
		return fmt.Errorf("%w: host %d: underlay address %q: must be the IPv6 address of one host", ErrInvalid, p.Host, p.Underlay)
	case a.Plan.Form(p.Underlay) != addr.FormInvalid:
		return fmt.Errorf("%w: host %d: underlay address %s is a %s address, which is itself carried by the underlay", ErrInvalid, p.Host, p.Underlay, a.Plan.Form(p.Underlay))
	}
	return nil
}

// ensureHosts brings routes, neighbours and next hops to what SetHosts asked for. What fails for one host keeps
// none of the others from theirs. The caller holds mu.
func (a *Agent) ensureHosts() error {
	if a.peers == nil { // whose routes are superfluous is not known yet
		return nil
	}
	if err := a.forgetHosts(); err != nil {
		return err
	}
	if !a.underlay.up { // the kernel refuses routes then, and has removed those that were there
		if len(a.peers) > 0 {
			return fmt.Errorf("%w: %s is missing or down", ErrNoUnderlay, a.Underlay)
		}
		return nil
	}
	if a.WireGuard != nil {
		if err := a.ensureMesh(); err != nil {
			return err
		}
	}
	now, err := a.kernel.routes()
	if err != nil {
		return err
	}
	gateways := make(map[addr.Host]netip.Addr, len(a.peers))
	var errs []error
	for _, h := range slices.Sorted(maps.Keys(a.peers)) { // so that the same trouble reads the same each time
		gateway, err := a.gateway(a.peers[h].Underlay)
		if err != nil {
			errs = append(errs, fmt.Errorf("host %d: %w", h, err))
			if old, ok := a.gateways[h]; ok {
				gateways[h] = old // as good as any
			}
			continue
		}
		gateways[h] = gateway
		want := route{ifindex: a.underlay.ifindex, gateway: gateway}
		if to := a.Plan.HostPrefix(h); now[to] != want {
			if err := a.kernel.putRoute(to, want); err != nil {
				errs = append(errs, fmt.Errorf("host %d: %w", h, err))
			}
		}
	}
	a.gateways = gateways
	if err := a.ensureNeighbours(); err != nil {
		errs = append(errs, err)
	}
	for _, h := range slices.Sorted(maps.Keys(a.gateways)) {
		if err := a.NextHops.PutHost(a.nextHop(h)); err != nil {
			errs = append(errs, fmt.Errorf("host %d: %w", h, err))
		}
	}
	return errors.Join(errs...)
}

// forgetHosts removes the routes and next hops of hosts that are not peers, also those of an earlier process.
func (a *Agent) forgetHosts() error {
	wanted := make(map[netip.Prefix]bool)
	for _, to := range a.stackRoutes() {
		wanted[to] = true
	}
	for h := range a.peers {
		wanted[a.Plan.HostPrefix(h)] = true
	}
	routes, err := a.kernel.routes()
	if err != nil {
		return err
	}
	var errs []error
	for to := range routes {
		if !wanted[to] && !a.isPortRoute(to) {
			errs = append(errs, a.kernel.deleteRoute(to))
		}
	}
	hops, err := a.NextHops.Hosts()
	errs = append(errs, err)
	for _, hop := range hops {
		if _, ok := a.peers[hop.Host]; !ok {
			errs = append(errs, a.NextHops.DeleteHost(hop.Host))
		}
	}
	return errors.Join(errs...)
}

// gateway is the address that packets for another host's underlay address are handed to: none where the underlay has no
// link layer. The caller holds mu.
func (a *Agent) gateway(address netip.Addr) (netip.Addr, error) {
	if a.underlay.l3 {
		return netip.Addr{}, nil
	}
	return a.kernel.gateway(a.underlay.ifindex, address)
}

// gateway is the address on the device's link that packets for an underlay address are handed to: the address itself
// where it is on that link.
func (k *kernel) gateway(ifindex int, address netip.Addr) (netip.Addr, error) {
	routes, err := k.RouteGetWithOptions(address.AsSlice(), &netlink.RouteGetOptions{OifIndex: ifindex})
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("%w: %s: %w", ErrUnreachable, address, err)
	case len(routes) != 1 || routes[0].LinkIndex != ifindex:
		return netip.Addr{}, fmt.Errorf("%w: the way to %s is not by the underlay", ErrUnreachable, address)
	case routes[0].Type == unix.RTN_LOCAL:
		return netip.Addr{}, fmt.Errorf("%w: %s is this host's own address", ErrUnreachable, address)
	case routes[0].Gw != nil:
		return addressOf(routes[0].Gw), nil
	}
	return address, nil
}
