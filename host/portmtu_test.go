package host_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host"
)

// A port may have a smaller MTU than the underlay. Who sends more to its machine is told so, on the same host and on
// another, and the host's own services.
func TestSenderLearnsTheMTUOfAPort(t *testing.T) {
	const small = 1300
	one, two := newCarriers(t, 1500)
	near, far := one.run(42, 1), two.run(42, 1)
	s, err := addr.DefaultPlan.Stable(42, 1, 0x1ff)
	if err != nil {
		t.Fatal(err)
	}
	narrow := one.runWith(s, small)
	service := &guest{one.box, endpointOf(t, 1)}
	for _, from := range []*guest{near, far, service} {
		eventually(t, fmt.Sprintf("%s learns that what is larger than %d does not get to %s", from, small, narrow), func() bool {
			return from.pathMTU(narrow.Addr()) == small
		})
		if got := from.pathMTU(near.Addr()); from != near && got != 1500 {
			t.Errorf("%s thinks that the path MTU to %s is %d, want 1500", from, near, got)
		}
	}

	at, err := addr.DefaultPlan.Encode(s, 1)
	if err != nil {
		t.Fatal(err)
	}
	routes := []string{at.String() + "/128 dev ip6d0", s.String() + "/128 dev ip6d0"}
	for _, route := range routes {
		if !one.hasRoute(route) {
			t.Errorf("there is no route %s", route)
		}
	}
	port, err := one.agent.FindPort(host.PortName(s.Machine()))
	if err != nil {
		t.Fatal(err)
	}
	if err := one.agent.RemovePort(port); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the routes of a port that was removed are gone", func() bool {
		return !one.hasRoute(routes[0]) && !one.hasRoute(routes[1])
	})
}

// pathMTU sends a datagram of 1500 bytes that must not be cut, and returns what the guest has learned by now.
func (g *guest) pathMTU(to netip.Addr) (mtu int) {
	g.t.Helper()
	g.do(func() error {
		c, err := net.DialUDP("udp6", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		controlErr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
		})
		if err := errors.Join(controlErr, err); err != nil {
			return err
		}
		if _, err := c.Write(make([]byte, 1500-40-8)); err != nil && !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		controlErr = raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU) })
		return errors.Join(controlErr, err)
	})
	return mtu
}
