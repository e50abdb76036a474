package nat

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

// learnedMTU is the MTU that the namespace's kernel has learned of the way to an address; 0: none.
func (n namespace) learnedMTU(to netip.Addr) (mtu int) {
	n.t.Helper()
	n.do(func() error {
		routes, err := netlink.RouteGet(to.AsSlice())
		if err == nil && len(routes) == 1 {
			mtu = routes[0].MTU
		}
		return err
	})
	return mtu
}

// A path that is narrower than both machines' devices costs one packet, from which the sender learns.
func TestPathMTUIsLearnedByTCP(t *testing.T) {
	const narrow = 1420
	for _, c := range []struct {
		name  string
		fleet func(*testing.T) (one, two *fleetHost)
	}{
		{"underlay", func(t *testing.T) (one, two *fleetHost) { return newFleet(t, narrow, true) }},
		{"router's far side", func(t *testing.T) (one, two *fleetHost) {
			r := newRouter(t, 1500, narrow)
			return r.hosts[0], r.hosts[1]
		}},
	} {
		for _, offload := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, offload %t", c.name, offload), func(t *testing.T) {
				one, two := c.fleet(t)
				data := randomBytes(4 << 20)
				// whoever has learned of it asks for small segments: so the way back is others'
				for from, to := range map[*guest]*guest{
					one.run(alice, offload):               two.run(remote, offload),
					two.run(stable(5, 1, 0x206), offload): one.run(bob, offload),
				} {
					warm(from, to)
					if got := from.learnedMTU(to.Addr()); got != 0 {
						t.Fatalf("%s has learned of %d before it sent anything", from, got)
					}
					got := sendTCP(from.namespace, from.Addr(), to.namespace, to.Addr(), data)
					if !bytes.Equal(got, data) {
						t.Errorf("from %s arrived %d of %d bytes right; drops %v and %v", from, len(got), len(data), dropsOf(t, one.Datapath), dropsOf(t, two.Datapath))
					}
					if got := from.learnedMTU(to.Addr()); got != narrow {
						t.Errorf("%s has learned of MTU %d, want %d", from, got, narrow)
					}
				}
			})
		}
	}
}
