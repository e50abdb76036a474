package host

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The names of the pair that connects the host's stack with the datapath.
const (
	StackDevice = "ip6d0"
	stackPeer   = "ip6d0p"
)

// stackMAC is that of ip6d0 from the start, so that what the datapath was told of it stays right when it has to be
// made anew.
func stackMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0x69, 0x70, 0x36, 0x64, 0x02} }

// Stack is ip6d0, the pair of devices for what takes the host's own stack: its ICMPv6 errors on translated packets,
// and what its services exchange with machines. What the stack sends to a stable address, or to a routing address
// of this host, is routed into ip6d0 and comes out of the peer, where the datapath takes it. What the datapath has
// for the stack, it puts into ip6d0.
type Stack struct {
	Ifindex int              // of ip6d0
	Peer    int              // the ifindex of its peer, which carries the program
	MAC     net.HardwareAddr // of ip6d0
}

// Prepare makes this host ready to carry packets: it switches IPv6 forwarding on, and makes ip6d0 with its routes and,
// where the underlay is WireGuard, that. Doing it again changes nothing.
// Errors: ErrNoIPv6, ErrStackTaken, ErrNotUnderlay, ErrNoUnderlay, fs.ErrPermission.
func (a *Agent) Prepare() (Stack, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.prepareMesh(); err != nil { // what follows looks at the underlay's device
		return Stack{}, err
	}
	if err := a.forward(allDevices); err != nil {
		return Stack{}, err
	}
	if err := a.ensureStack(); err != nil {
		return Stack{}, fmt.Errorf("make %s: %w", StackDevice, err)
	}
	return a.stack, nil
}

// ensureStack makes ip6d0 where it is missing and mends it where it differs. The caller holds mu.
func (a *Agent) ensureStack() error {
	k := a.kernel
	mtu, err := a.stackMTU()
	if err != nil {
		return err
	}
	stack, err := k.link(StackDevice)
	if err != nil {
		return err
	}
	if stack == nil {
		if err := k.addStack(a.stack.Ifindex, mtu); err != nil {
			return err
		}
		if stack, err = k.link(StackDevice); err != nil {
			return err
		}
	}
	peer, err := k.stackPeer(stack)
	if err != nil {
		return err
	}
	now := Stack{Ifindex: stack.Attrs().Index, Peer: peer.Attrs().Index, MAC: stack.Attrs().HardwareAddr}
	if now.Ifindex != a.stack.Ifindex || now.Peer != a.stack.Peer {
		a.stack, a.stackTold = now, false
	}

	// Nothing but the datapath listens on the peer, and nobody is to be found by neighbour discovery on either.
	err = k.set(
		sysctl{stackPeer, "disable_ipv6", "1"},
		sysctl{StackDevice, "disable_ipv6", "0"},
		sysctl{StackDevice, "accept_ra", "0"},
		sysctl{StackDevice, "accept_redirects", "0"},
	)
	if err != nil {
		return err
	}
	if err := a.forward(StackDevice); err != nil {
		return err
	}
	for _, l := range []netlink.Link{peer, stack} {
		if err := k.quiet(l); err != nil {
			return err
		}
		if l.Attrs().MTU != mtu {
			if err := k.LinkSetMTU(l, mtu); err != nil {
				return fmt.Errorf("set MTU %d: %w", mtu, err)
			}
		}
		if err := k.setUp(l); err != nil {
			return err
		}
	}
	if !a.Endpoint.IsZero() {
		if err := k.ensureAddress(stack, netip.PrefixFrom(a.Endpoint.Addr(), 128)); err != nil {
			return err
		}
	}
	return a.ensureStackRoutes()
}

// stackMTU is as large as what the underlay can bring, as the host's services are at the end of it.
func (a *Agent) stackMTU() (int, error) {
	if a.Underlay != "" {
		l, err := a.kernel.link(a.Underlay)
		if err != nil {
			return 0, err
		}
		if l != nil {
			return max(l.Attrs().MTU, minMTU), nil
		}
	}
	return defaultMTU, nil
}

// addStack makes the pair, with the ifindex that it had before, where it had one: the datapath knows it by that.
func (k *kernel) addStack(ifindex, mtu int) error {
	base := netlink.NewLinkAttrs()
	base.Name, base.Index, base.MTU, base.HardwareAddr = StackDevice, ifindex, mtu, stackMAC()
	if err := k.LinkAdd(&netlink.Veth{LinkAttrs: base, PeerName: stackPeer}); err != nil {
		return fmt.Errorf("add devices %s and %s: %w", StackDevice, stackPeer, err)
	}
	return nil
}

// stackPeer returns the other end of ip6d0, if it is what addStack makes.
func (k *kernel) stackPeer(stack netlink.Link) (netlink.Link, error) {
	taken := fmt.Errorf("%w: %s is no veth whose peer is %s; delete it: ip link delete %s", ErrStackTaken, StackDevice, stackPeer, StackDevice)
	if stack == nil || stack.Type() != "veth" || stack.Attrs().NetNsID >= 0 {
		return nil, taken
	}
	peer, err := k.linkAt(stack.Attrs().ParentIndex)
	if err != nil {
		return nil, err
	}
	if peer == nil || peer.Attrs().Name != stackPeer {
		return nil, taken
	}
	return peer, nil
}

// quiet keeps a device from having link-local addresses and neighbours, and daemons of the host from looking for
// others of their kind there.
func (k *kernel) quiet(l netlink.Link) error {
	name := l.Attrs().Name
	if err := k.set(sysctl{name, "addr_gen_mode", addrGenNone}); err != nil {
		return err
	}
	if l.Attrs().RawFlags&unix.IFF_NOARP == 0 {
		if err := k.LinkSetARPOff(l); err != nil {
			return fmt.Errorf("switch neighbour discovery of %s off: %w", name, err)
		}
	}
	if l.Attrs().RawFlags&unix.IFF_MULTICAST != 0 {
		if err := k.LinkSetMulticastOff(l); err != nil {
			return fmt.Errorf("switch multicast of %s off: %w", name, err)
		}
	}
	return nil
}

const (
	minMTU       = 1280 // every IPv6 link carries that (RFC 8200 section 5)
	defaultMTU   = 1500
	maxMTU       = 65535
	addrGenNone  = "1" // IN6_ADDR_GEN_MODE_NONE of linux/if_link.h: no link-local address
	addrGenEUI64 = 0   // IN6_ADDR_GEN_MODE_EUI64: the kernel's default
)
