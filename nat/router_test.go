package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"ip6d/addr"
)

// router is what a plain L3 underlay is made of: it has a link to each host, and a route to each host's /48.
//
//	host 1 -- router -- host 2
//	            |
//	          host 3
type router struct {
	namespace
	links map[addr.Host]device
	hosts []*fleetHost
}

// newRouter makes hosts around a router, with a link of an MTU each: the first is host 1, and home of block 1.
func newRouter(t testing.TB, mtus ...int) *router {
	t.Helper()
	r := &router{namespace: newNamespace(t), links: make(map[addr.Host]device)}
	pins := pinDir(t)
	for i, mtu := range mtus {
		h := &fleetHost{namespace: newNamespace(t), id: addr.Host(i + 1)}
		h.address = onLink(h.id, 2)
		name := fmt.Sprintf("host%d", h.id)
		r.links[h.id], h.underlay = vethPair(r.namespace, h.namespace, name, "underlay", mtu)
		h.start(nil, filepath.Join(pins, fmt.Sprint(h.id)), mtu)
		r.do(func() error {
			return errors.Join(
				addAddress(name, netip.PrefixFrom(onLink(h.id, 1), 64)),
				addRoute(name, plan.HostPrefix(h.id), h.address),
			)
		})
		r.hosts = append(r.hosts, h)
	}
	for _, h := range r.hosts {
		h.do(func() error { return addRoute("underlay", netip.MustParsePrefix("::/0"), onLink(h.id, 1)) })
		for _, other := range r.hosts {
			if h != other {
				h.reaches(r.nextHop(h, other.id))
			}
		}
	}
	for _, n := range append([]namespace{r.namespace}, r.namespaces()...) {
		n.do(func() error { return os.WriteFile("/proc/sys/net/ipv6/icmp/ratelimit", []byte("0"), 0) })
	}
	return r
}

// onLink is an address on the link of a host and the router.
func onLink(h addr.Host, last int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%x", uint32(h), last))
}

// nextHop is the router, as one of its hosts knows the way to another host.
func (r *router) nextHop(h *fleetHost, to addr.Host) NextHop {
	return NextHop{
		Host: to, Ifindex: h.underlay.index, Kind: HopRouter, Gateway: onLink(h.id, 1), Source: h.underlay.mac,
		MAC: r.links[h.id].mac, Trusted: forAnHour,
	}
}

func (r *router) namespaces() (all []namespace) {
	for _, h := range r.hosts {
		all = append(all, h.namespace)
	}
	return all
}
