package host

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"
)

// RouteProtocol marks routes and neighbours as ip6d's, so that nothing else is ever deleted; `ip -6 route show proto
// 105` lists the routes. It is in no list of the numbers in use (rtnetlink(7), /etc/iproute2/rt_protos).
const RouteProtocol = 105

// routeMetric is a metric that nothing else uses: a route of another with the same destination is left alone, and
// ours is preferred to it (the kernel's default is 1024).
const routeMetric = 105

// route is a route of ip6d's, in the main table.
type route struct {
	ifindex int
	gateway netip.Addr // the zero Addr: none, the destination is on the device
	mtu     int        // 0: the device's
}

// routes lists ip6d's routes by destination.
func (k *kernel) routes() (map[netip.Prefix]route, error) {
	all, err := dump("routes", func() ([]netlink.Route, error) {
		return k.RouteListFiltered(unix.AF_INET6, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
	if err != nil {
		return nil, err
	}
	routes := make(map[netip.Prefix]route)
	for _, r := range all {
		routes[prefixOf(r.Dst)] = route{ifindex: r.LinkIndex, gateway: addressOf(r.Gw), mtu: r.MTU}
	}
	return routes, nil
}

// putRoute adds the route, in place of one of ip6d's to the same destination.
func (k *kernel) putRoute(to netip.Prefix, r route) error {
	n := netlink.Route{Dst: netipx.PrefixIPNet(to), LinkIndex: r.ifindex, Protocol: RouteProtocol, Priority: routeMetric}
	if r.gateway.IsValid() {
		n.Gw = r.gateway.AsSlice()
	}
	if r.mtu != 0 {
		n.MTU, n.MTULock = r.mtu, true // a router heeds only a locked one
	}
	if err := k.RouteReplace(&n); err != nil {
		return fmt.Errorf("add route to %s: %w", to, err)
	}
	return nil
}

func (k *kernel) deleteRoute(to netip.Prefix) error {
	err := k.RouteDel(&netlink.Route{Dst: netipx.PrefixIPNet(to), Protocol: RouteProtocol, Priority: routeMetric})
	if err != nil && !errors.Is(err, unix.ESRCH) { // it has just gone
		return fmt.Errorf("delete route to %s: %w", to, err)
	}
	return nil
}

// stackRoutes are those into ip6d0: what this host owns of the routing prefix, and all stable addresses.
func (a *Agent) stackRoutes() []netip.Prefix {
	return []netip.Prefix{a.Plan.HostPrefix(a.Host), a.Plan.StablePrefix()}
}

// ensureStackRoutes adds those that are missing. The caller holds mu.
func (a *Agent) ensureStackRoutes() error {
	now, err := a.kernel.routes()
	if err != nil {
		return err
	}
	want := route{ifindex: a.stack.Ifindex}
	for _, to := range a.stackRoutes() {
		if now[to] == want {
			continue
		}
		if err := a.kernel.putRoute(to, want); err != nil {
			return err
		}
	}
	return nil
}

// ensurePortRoutes gives each port whose MTU is below that of ip6d0 routes of its own, into ip6d0 and with that MTU: to
// the routing address that its machine has on this host, by which the host's stack knows what to tell the sender of a
// packet that is too big for the port; and to the stable one, for what the host's services send. The caller holds
// portsMu, and not mu.
func (a *Agent) ensurePortRoutes() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stack.Ifindex == 0 { // not made yet
		return nil
	}
	want, err := a.portRoutes(slices.Collect(maps.Values(a.ports)))
	if err != nil {
		return err
	}
	now, err := a.kernel.routes()
	if err != nil {
		return err
	}
	var errs []error
	for to := range now {
		if _, ok := want[to]; !ok && a.isPortRoute(to) {
			errs = append(errs, a.kernel.deleteRoute(to))
		}
	}
	for to, r := range want {
		if now[to] != r {
			errs = append(errs, a.kernel.putRoute(to, r))
		}
	}
	return errors.Join(errs...)
}

// portRoutes are the routes that these ports should have.
func (a *Agent) portRoutes(ports []Port) (map[netip.Prefix]route, error) {
	most, err := a.stackMTU()
	if err != nil {
		return nil, err
	}
	want := make(map[netip.Prefix]route)
	for _, p := range ports {
		if p.MTU < most {
			to, err := a.Plan.Encode(p.Address, a.Host)
			if err != nil {
				return nil, err
			}
			r := route{ifindex: a.stack.Ifindex, mtu: p.MTU}
			want[netip.PrefixFrom(to.Addr(), 128)] = r
			want[netip.PrefixFrom(p.Address.Addr(), 128)] = r
		}
	}
	return want, nil
}

// isPortRoute reports whether a route of ip6d's is one that ensurePortRoutes makes.
func (a *Agent) isPortRoute(to netip.Prefix) bool {
	return to.Bits() == 128 && (a.Plan.HostPrefix(a.Host).Contains(to.Addr()) || a.Plan.StablePrefix().Contains(to.Addr()))
}
