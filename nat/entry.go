package nat

import (
	"net"
	"net/netip"
	"time"

	"ip6d/addr"
)

// State is what a host does with packets for a machine that has an entry in its `machines` map.
type State uint8

const (
	// Delivering: the machine is here, its packets go into its port.
	Delivering State = iota + 1
	// Incoming: the machine is on its way here. What comes from its owner goes into the port, all else to the owner.
	Incoming
	// Away: the machine has left. Everything for it goes to the host it left for.
	Away
)

func (s State) String() string {
	switch s {
	case Delivering:
		return "delivering"
	case Incoming:
		return "incoming"
	case Away:
		return "away"
	}
	return "none"
}

// Enter is how a packet gets into a port.
type Enter uint8

const (
	// EnterPeer is bpf_redirect_peer, for a veth whose peer is in another namespace.
	EnterPeer Enter = iota + 1
	// EnterDevice is bpf_redirect, for every other device.
	EnterDevice
)

// Port is the host-side device of a machine, as the datapath needs it.
type Port struct {
	Ifindex int
	Enter   Enter
	MAC     net.HardwareAddr // the machine's own, written into each frame for it
}

// Machine is an entry of the `machines` map.
type Machine struct {
	ID      addr.ID
	Network addr.Network
	Epoch   uint64
	State   State
	Port    Port      // Delivering and Incoming; Ifindex 0 while no port is attached
	Host    addr.Host // Incoming: the owner. Away: where it went
}

// Moved is an entry of the `moved` map: a machine whose host is not its block's home.
type Moved struct {
	ID    addr.ID
	Host  addr.Host
	Epoch uint64
}

// Block is an entry of the `blocks` map.
type Block struct {
	Cell  addr.Cell
	Block addr.Block
	Home  addr.Host
}

// HopKind is who is at the other end of the underlay's device.
type HopKind uint8

const (
	// HopRouter is a router, by whose MAC no host can be told.
	HopRouter HopKind = iota + 1
	// HopNeighbour is the host itself.
	HopNeighbour
	// HopL3 is whoever the device finds: it has no link layer, as WireGuard.
	HopL3
)

// NextHop is an entry of the `hosts` map: how the underlay reaches a host.
type NextHop struct {
	Host    addr.Host
	Ifindex int // of the underlay device
	Kind    HopKind

	// All that follows is for a device with a link layer only.
	Gateway netip.Addr       // the next hop's address on that device
	MAC     net.HardwareAddr // the next hop's; nil while unknown
	Source  net.HardwareAddr // the underlay device's own
	Trusted time.Duration    // how long from now MAC may be used; past it the kernel's neighbour table is asked
}
