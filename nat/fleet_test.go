package nat

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// fleetHost is a host as package host would set it up:
//
//	machine eth0 -- port [host namespace] underlay -- underlay [the other host]
//	                       ip6d0 -- ip6d0p
type fleetHost struct {
	namespace
	*Datapath
	options         Options
	id              addr.Host
	address         netip.Addr // on the underlay
	underlay, stack device
}

// newFleet makes two hosts, 1 and 2, each home of the block of its number, that know each other.
func newFleet(t testing.TB, mtu int, byMAC bool) (one, two *fleetHost) {
	t.Helper()
	return newFleetAttached(t, nil, mtu, byMAC)
}

// newFleetAttached is newFleet with a way to attach.
func newFleetAttached(t testing.TB, by way, mtu int, byMAC bool) (one, two *fleetHost) {
	t.Helper()
	one = &fleetHost{namespace: newNamespace(t), id: 1, address: netip.MustParseAddr("2001:db8::1")}
	two = &fleetHost{namespace: newNamespace(t), id: 2, address: netip.MustParseAddr("2001:db8::2")}
	one.underlay, two.underlay = vethPair(one.namespace, two.namespace, "underlay", "underlay", mtu)
	pins := pinDir(t)
	one.start(by, filepath.Join(pins, "1"), mtu)
	two.start(by, filepath.Join(pins, "2"), mtu)
	one.knows(two, byMAC)
	two.knows(one, byMAC)
	return one, two
}

func (h *fleetHost) start(by way, pins string, mtu int) {
	h.t.Helper()
	var peer device
	h.stack, peer = vethPair(h.namespace, h.namespace, "ip6d0", "ip6d0p", mtu)
	h.options = Options{Plan: plan, Cell: 1, Host: h.id, PinDir: pins, Sizes: smallSizes, Stack: h.stack.index}
	h.options.hooks = by
	h.Datapath = h.namespace.open(h.options)
	h.do(func() error {
		return errors.Join(
			h.AttachUnderlay(h.underlay.index),
			h.AttachStack(peer.index),
			quiet("ip6d0"), quiet("ip6d0p"),
			addAddress("underlay", netip.PrefixFrom(h.address, 64)),
			addAddress("ip6d0", netip.PrefixFrom(endpoint(1, h.id).Addr(), 128)),
			addRoute("ip6d0", plan.StablePrefix(), netip.Addr{}),
			addRoute("ip6d0", plan.HostPrefix(h.id), netip.Addr{}),
		)
	})
	h.isLocal(endpoint(1, h.id).Addr())
}

func (h *fleetHost) knows(other *fleetHost, byMAC bool) {
	h.t.Helper()
	hop := NextHop{Host: other.id, Ifindex: h.underlay.index, Kind: HopNeighbour, Gateway: other.address, Source: h.underlay.mac}
	if byMAC {
		hop.MAC, hop.Trusted = other.underlay.mac, forAnHour
	}
	h.reaches(hop)
}

// reaches tells a host of another one, which has the block of its number, and how the underlay gets there.
func (h *fleetHost) reaches(hop NextHop) {
	h.t.Helper()
	h.do(func() error {
		return errors.Join(
			h.PutHost(hop),
			h.PutBlock(Block{Cell: 1, Block: addr.Block(h.id), Home: h.id}),
			h.PutBlock(Block{Cell: 1, Block: addr.Block(hop.Host), Home: hop.Host}),
			addRoute("underlay", plan.HostPrefix(hop.Host), hop.Gateway),
		)
	})
}

// guest is a machine: a namespace with one device, to a port of its host.
type guest struct {
	namespace
	addr.Stable
	enter      Enter // 0: EnterPeer
	port, eth0 device
}

// attach makes a machine's namespace with a port here, and leaves the datapath's entry to the test. Checksums are
// as wire and machine have them: with offload on, veth would pass a broken one.
func (h *fleetHost) attach(s addr.Stable, offload bool) *guest {
	h.t.Helper()
	g := &guest{namespace: newNamespace(h.t), Stable: s}
	name := fmt.Sprintf("port%x", uint32(s.Machine()))
	h.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = name, GatewayMAC(), 1500
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(g.ns)})
		if err != nil {
			return err
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return h.AttachPort(l.Attrs().Index, s)
	})
	g.port = h.up(name, 1500)
	h.do(func() error { return addAddress(name, netip.MustParsePrefix("fe80::1/64")) })
	if !offload {
		g.withoutOffload("eth0")
	}
	g.configure()
	return g
}

// withoutOffload has checksums written into packets by who sends them, as the wire has them.
func (n namespace) withoutOffload(device string) {
	n.t.Helper()
	n.do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return e.Change(device, map[string]bool{"tx-checksum-ip-generic": false})
	})
}

// configure gives a machine what its guest is to have: its address, and a default route.
func (g *guest) configure() {
	g.t.Helper()
	s := g.Stable
	g.eth0 = g.up("eth0", 1500)
	g.do(func() error {
		return errors.Join(
			addAddress("eth0", netip.PrefixFrom(s.Addr(), 128)),
			addRoute("eth0", netip.MustParsePrefix("::/0"), netip.MustParseAddr("fe80::1")),
			os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("0"), 0),
		)
	})
	g.isLocal(s.Addr())
}

// isLocal waits until an address is one of the namespace's: it can be bound to at once, but the kernel has yet to take in
// what comes for it.
func (n namespace) isLocal(a netip.Addr) {
	n.t.Helper()
	eventually(n.t, fmt.Sprintf("%s is an address of its namespace", a), func() error {
		var routes []netlink.Route
		n.do(func() (err error) {
			routes, err = netlink.RouteGet(a.AsSlice())
			return err
		})
		if len(routes) != 1 || routes[0].Type != unix.RTN_LOCAL {
			return fmt.Errorf("its routes are %v", routes)
		}
		return nil
	})
}

// entry is what the host has to know of the machine.
func (g *guest) entry(state State, host addr.Host, epoch uint64) Machine {
	return Machine{
		ID: g.ID(), Network: g.Network(), Epoch: epoch, State: state, Host: host,
		Port: Port{Ifindex: g.port.index, Enter: orDefault(g.enter, EnterPeer), MAC: g.eth0.mac},
	}
}

// run attaches a machine that is here.
func (h *fleetHost) run(s addr.Stable, offload bool) *guest {
	h.t.Helper()
	g := h.attach(s, offload)
	ok(h.t, h.PutMachine(g.entry(Delivering, 0, 1)))
	return g
}

// listenUDP opens a socket in the namespace, closed with the test.
func (n namespace) listenUDP(a netip.Addr, port uint16) *net.UDPConn {
	n.t.Helper()
	var c *net.UDPConn
	n.do(func() (err error) {
		c, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
		return err
	})
	n.t.Cleanup(func() { c.Close() })
	return c
}

// sendTCP sends bytes from one namespace to another and returns what arrived.
func sendTCP(from namespace, source netip.Addr, to namespace, destination netip.Addr, data []byte) []byte {
	from.t.Helper()
	var listener net.Listener
	to.do(func() (err error) {
		listener, err = net.Listen("tcp6", netip.AddrPortFrom(destination, 0).String())
		return err
	})
	defer listener.Close()
	received := make(chan []byte, 1)
	go func() {
		c, err := listener.Accept()
		if err != nil {
			received <- nil
			return
		}
		defer c.Close()
		all, _ := io.ReadAll(c)
		received <- all
	}()
	from.do(func() error {
		d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: source.AsSlice()}}
		c, err := d.Dial("tcp6", listener.Addr().String())
		if err != nil {
			listener.Close()
			return err
		}
		_, err = c.Write(data)
		return errors.Join(err, c.Close())
	})
	return <-received
}

// count reads datagrams until the socket closes, and counts them.
func count(c *net.UDPConn) *atomic.Int64 {
	var n atomic.Int64
	go func() {
		for b := make([]byte, 2048); ; n.Add(1) {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	}()
	return &n
}

func addAddress(device string, p netip.Prefix) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)}
	err = netlink.AddrAdd(l, &netlink.Addr{IPNet: n, Flags: unix.IFA_F_NODAD})
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", p, device, err)
	}
	return nil
}

func addRoute(device string, p netip.Prefix, via netip.Addr) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	r := &netlink.Route{
		LinkIndex: l.Attrs().Index,
		Dst:       &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 128)},
	}
	if via.IsValid() {
		r.Gw = via.AsSlice()
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("add route %s on %s: %w", p, device, err)
	}
	return nil
}

// quiet takes neighbour discovery and group membership from a device.
func quiet(device string) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetARPOff(l), netlink.LinkSetMulticastOff(l))
}
