package host_test

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/host"
)

// hurry makes host 1's kernel ask host 2 again within seconds, not after half a minute.
func (p *pair) hurry() {
	p.t.Helper()
	for name, value := range map[string]string{
		"base_reachable_time_ms": "50",
		"retrans_time_ms":        "20",
		"interval_probe_time_ms": "20",
		"delay_first_probe_time": "0",
	} {
		p.one.sysctl("neigh/eth0/"+name, value)
	}
	p.one.do(func() error { // what it knows already has its time
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.NeighDel(&netlink.Neigh{Family: unix.AF_INET6, LinkIndex: l.Attrs().Index, IP: underlayAddress(2).AsSlice()})
	})
	eventually(p.t, "the neighbour is managed again", func() bool { return p.one.managed(underlayAddress(2)) })
	p.resolved()
}

// silence lets a host hear nothing and say nothing any more.
func (f *fleet) silence(port string, silent bool) {
	f.t.Helper()
	f.wire.do(func() error {
		if silent {
			return down(port)
		}
		return up(port)
	})
}

func TestAHostThatFallsSilentHasNoTrustedMACAnyMore(t *testing.T) {
	t.Parallel() // it takes as long as the kernel takes to ask its neighbours
	p := newPair(t, host.Options{})
	p.resolved()
	p.hurry()
	p.silence("p2", true)
	eventually(t, "its MAC is trusted no more", func() bool {
		n, ok := p.hops.get(2)
		return ok && n.MAC == nil && n.Trusted == 0
	})
	p.silence("p2", false)
	p.resolved() // without a packet from either
}

func TestAnotherMACThatNobodyTellsOfIsFoundOut(t *testing.T) {
	t.Parallel() // it takes as long as the kernel takes to ask its neighbours
	p := newPair(t, host.Options{})
	p.resolved()
	p.hurry()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 0x22}
	p.two.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetHardwareAddr(l, mac)
	})
	if got := p.resolved(); got.gateway != underlayAddress(2) {
		t.Errorf("the next hop is by %s", got.gateway)
	}
}
