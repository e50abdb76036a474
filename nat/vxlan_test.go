package nat

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// overVXLAN gives the hosts another underlay, a VXLAN over the one that they have. What comes out of it has the sum of
// the whole packet with it (CHECKSUM_COMPLETE), as from some network cards: who changes a packet has to keep the sum.
func (r *router) overVXLAN() {
	r.t.Helper()
	devices := make(map[addr.Host]device)
	for _, h := range r.hosts {
		h.withoutOffload("underlay") // else nobody looks at the outer checksum, and so has no sum
		h.do(func() error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "vxlan"
			return netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs, VxlanId: 7, SrcAddr: h.address.AsSlice(), Port: 4789, UDPCSum: true})
		})
		devices[h.id] = h.up("vxlan", 1400)
	}
	for _, h := range r.hosts {
		h.do(func() error { return h.AttachUnderlay(devices[h.id].index) })
		for _, other := range r.hosts {
			if h == other {
				continue
			}
			h.do(func() error {
				return netlink.NeighAppend(&netlink.Neigh{
					LinkIndex: devices[h.id].index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT,
					IP: other.address.AsSlice(), HardwareAddr: devices[other.id].mac,
				})
			})
			ok(r.t, h.PutHost(NextHop{
				Host: other.id, Ifindex: devices[h.id].index, Kind: HopNeighbour, Gateway: onLink(other.id, 9),
				Source: devices[h.id].mac, MAC: devices[other.id].mac, Trusted: forAnHour,
			}))
		}
	}
}

// The sum goes along as far as the packet stays in the kernel's hands: from the VXLAN into a machine's port, or by the
// host that forwards it to the next one, and there into the port.
func TestPacketsWithACompleteSumArrive(t *testing.T) {
	r := newRouter(t, 1500, 1500, 1500)
	r.overVXLAN()
	one, old, fresh := r.hosts[0], r.hosts[1], r.hosts[2]
	a, b := one.run(alice, false), old.run(stable(5, 1, 0x206), false)
	c := fresh.attach(remote, false) // which has moved, so that host 2 forwards
	ok(t, old.PutMachine(Machine{ID: remote.ID(), Network: remote.Network(), Epoch: 1, State: Away, Host: 3}))
	ok(t, fresh.PutMachine(c.entry(Delivering, 0, 2)))
	arrive(a, b)
	arrive(a, c)

	cross, there := vethPair(old.namespace, fresh.namespace, "cross", "cross", 1500)
	fresh.do(func() error { return fresh.AttachUnderlay(there.index) })
	ok(t, old.PutHost(NextHop{
		Host: 3, Ifindex: cross.index, Kind: HopNeighbour, Gateway: onLink(3, 9), Source: cross.mac, MAC: there.mac, Trusted: forAnHour,
	}))
	arrive(a, c)
}

// arrive checks that every one of some datagrams, of all sizes, does.
func arrive(from, to *guest) {
	from.t.Helper()
	warm(from, to)
	in := to.listenUDP(to.Addr(), 7)
	defer in.Close()
	arrived := count(in)
	out := from.listenUDP(from.Addr(), 0)
	defer out.Close()
	const datagrams = 60
	for i := range datagrams {
		_, err := out.WriteTo(randomBytes(20*i), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Addr(), 7)))
		ok(from.t, err)
	}
	eventually(from.t, fmt.Sprintf("all datagrams arrive at %s", to), func() error {
		if n := arrived.Load(); n != datagrams {
			return fmt.Errorf("%d of %d", n, datagrams)
		}
		return nil
	})
}
