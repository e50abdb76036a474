package nat

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What is sent to a machine that moves is forwarded by its old host, under that host's id; what is then wrong with it
// its sender is to know all the same, be it a machine or a host's service.
//
//	host 1 -- router -- host 2 (old)
//	            |          |
//	          host 3 ------+
//	           (new)
func TestErrorsAboutWhatWasForwardedReachTheSender(t *testing.T) {
	r := newRouter(t, 1500, 1500, 1400)
	one, old, fresh := r.hosts[0], r.hosts[1], r.hosts[2]
	cross, there := vethPair(old.namespace, fresh.namespace, "cross", "cross", 1350)
	fresh.do(func() error { return fresh.AttachUnderlay(there.index) })
	byCross := NextHop{Host: 3, Ifindex: cross.index, Kind: HopRouter, Gateway: onLink(9, 1), Source: cross.mac, MAC: there.mac, Trusted: forAnHour}

	one.withoutOffload("ip6d0")
	a, b := one.run(alice, false), fresh.attach(remote, false)
	left := old.attach(remote, false).entry(Away, 3, 1)
	left.Port = Port{}
	ok(t, old.PutMachine(left))
	ok(t, fresh.PutMachine(b.entry(Delivering, 0, 2)))
	fresh.shrink(b, 1300)
	warm(a, b)

	byOld, byNew := only(endpoint(1, 2).Addr()), only(endpoint(1, 3).Addr())
	relayed := plan.HostPrefix(2) // who is outside of the fleet is shown as the host that forwarded the error
	talkers := []talker{a.talker(), one.talker()}
	for _, from := range talkers {
		own := 1 // a machine's host is a hop; for its own packets it is not
		if from.Network() == 0 {
			own = 0
		}
		p, in := from.prober(), from.capture()
		for _, c := range []complaint{
			{"no listener there", 0, 0, remote, unreachable, noListener, unix.ECONNREFUSED, 0, only(remote.Addr())},
			{"last hop, by the router before the old host", own + 1, 0, remote, timeExceeded, 0, unix.EHOSTUNREACH, 0, only(onLink(1, 1))},
			{"last hop, by the old host", own + 2, 0, remote, timeExceeded, 0, unix.EHOSTUNREACH, 0, byOld},
			{"last hop, by the router between old and new host", own + 3, 0, remote, timeExceeded, 0, unix.EHOSTUNREACH, 0, relayed},
			{"too big for the router between old and new host", 0, 1450, remote, packetTooBig, 0, unix.EMSGSIZE, 1400, relayed},
			{"too big for the machine's port on the new host", 0, 1320, remote, packetTooBig, 0, unix.EMSGSIZE, 1300, byNew},
		} {
			c.name += ", from " + from.String()
			c.provoke(t, p, in)
		}
	}
	// the old host's link to the new one is shorter now
	ok(t, old.PutHost(byCross))
	old.do(func() error {
		return errors.Join(deleteRoute(plan.HostPrefix(3)), addRoute("cross", plan.HostPrefix(3), netip.Addr{}))
	})
	for _, from := range talkers {
		c := complaint{"too big for the old host's way to the new", 0, 1380, remote, packetTooBig, 0, unix.EMSGSIZE, 1350, byOld}
		c.name += ", from " + from.String()
		c.provoke(t, from.prober(), from.capture())
	}
}

func deleteRoute(p netip.Prefix) error {
	return netlink.RouteDel(&netlink.Route{Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}})
}
