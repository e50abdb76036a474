package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"ip6d/addr"
)

// Reference is the translation in plain Go, written to be read next to docs/DATAPATH.md,
// and with the arithmetic of package addr. It is what the tests hold the programs against, and can say what
// becomes of a packet without sending one. It is not safe for concurrent use.
type Reference struct {
	Plan addr.Plan
	Cell addr.Cell
	Host addr.Host // this host

	Stack      int              // ifindex of ip6d0
	StackMAC   net.HardwareAddr // of ip6d0
	GatewayMAC net.HardwareAddr // of every port

	Ports    map[int]addr.Stable
	Awaited  map[int]bool // ports whose machine is waited for to send
	Machines map[addr.ID]Machine
	Moved    map[addr.ID]addr.Host
	Blocks   map[BlockID]addr.Host // homes
	Hosts    map[addr.Host]NextHop
	MTU      map[int]int // of the underlay's devices and the ports

	VerifyMAC bool

	Fenced bool               // this host was declared dead
	Dead   map[addr.Host]bool // others that were
}

// BlockID names a block in the whole fleet.
type BlockID struct {
	Cell  addr.Cell
	Block addr.Block
}

// Action is what becomes of a packet.
type Action uint8

const (
	// Next: nothing was changed; the host's stack gets it, unless another program objects.
	Next Action = iota
	// ToStack: it is refused under Verdict.Reason, and given to the host's stack in routing form, by ip6d0, to tell
	// its source.
	ToStack
	// Refuse: it is dropped, and counted under Verdict.Reason.
	Refuse
	// Answer: the machine asked for its gateway, and this is the answer.
	Answer
	// ToPeer: it enters a port by redirect_peer.
	ToPeer
	// ToDevice: it leaves through a device, with the MACs in the frame.
	ToDevice
	// ToNeighbour: it leaves through a device, with MACs that the kernel finds.
	ToNeighbour
	// IntoStack: it comes in through ip6d0, for the host's endpoint.
	IntoStack
)

func (a Action) String() string {
	return [...]string{"next", "to stack", "refuse", "answer", "to peer", "to device", "to neighbour", "into stack"}[a]
}

// Verdict is what becomes of a packet.
type Verdict struct {
	Action  Action
	Reason  string    // Refuse, ToStack: the name of the drop
	Ifindex int       // all but Next and Refuse
	Frame   []byte    // as it is afterwards; nil for Refuse. A device without a link layer takes its header off
	Astray  addr.Host // the host that is told that the machine is not here; 0: none
	Sent    bool      // the daemon is told that the machine sends, at a limited rate
}

// refusal is the name of a drop; empty: there is none.
type refusal string

func refuse(r refusal) Verdict { return Verdict{Action: Refuse, Reason: string(r)} }

// FromMachine says what becomes of a frame that a machine sends into its port.
func (r *Reference) FromMachine(ifindex int, frame []byte) Verdict {
	if refused := checkEtherType(frame); refused != "" {
		return refuse(refused)
	}
	p, ok := readPacket(frame)
	if !ok {
		return refuse("malformed")
	}
	if r.Fenced {
		return refuse("fenced")
	}
	port, ok := r.Ports[ifindex]
	if !ok {
		return refuse("unknown_port")
	}
	v := r.fromPort(p, port, ifindex)
	v.Sent = r.Awaited[ifindex] && addressAt(frame, etherLength+8) == port.Addr()
	return v
}

// fromPort is FromMachine for a packet from a port.
func (r *Reference) fromPort(p *packet, port addr.Stable, ifindex int) Verdict {
	switch {
	case p.asksForGateway(port):
		return Verdict{Action: Answer, Ifindex: ifindex, Frame: r.advertisement(p)}
	case p.destination.IsMulticast():
		return refuse("multicast")
	case p.source.IsLinkLocalUnicast() || p.destination.IsLinkLocalUnicast():
		return refuse("link_local")
	}
	if refused := r.readSent(p, port); refused != "" {
		return refuse(refused)
	}
	return r.carry(p, fromMachine)
}

// FromUnderlay says what becomes of a frame that comes in from the underlay, addressed to this host's MAC.
func (r *Reference) FromUnderlay(frame []byte) Verdict {
	next := Verdict{Action: Next, Frame: frame}
	if checkEtherType(frame) != "" {
		return next
	}
	p, ok := readPacket(frame)
	switch {
	case !ok:
		return next
	case r.Plan.Form(p.source) == addr.FormStable:
		return refuse("stable_source")
	case r.Plan.Form(p.destination) == addr.FormStable:
		return refuse("stable_destination")
	case !r.Plan.HostPrefix(r.Host).Contains(p.destination):
		return next
	}
	var err error
	p.to, _, err = r.Plan.RelayFrom(p.destination)
	if errors.Is(err, addr.ErrControl) {
		return next
	}
	if err != nil {
		return refuse("invalid_destination")
	}
	if r.Fenced {
		return refuse("fenced")
	}

	p.outside = true
	if r.Plan.Form(p.source) == addr.FormRouting {
		p.from, p.cameFrom, err = r.Plan.RelayFrom(p.source)
		p.outside = errors.Is(err, addr.ErrControl)
		switch hop := r.Hosts[p.cameFrom]; {
		case err != nil && !p.outside:
			return refuse("invalid_source")
		case p.cameFrom == r.Host:
			return refuse("own_source")
		case r.Dead[p.cameFrom]:
			return refuse("dead_host")
		case r.VerifyMAC && hop.Kind == HopNeighbour && hop.Trusted > 0 && !bytes.Equal(frame[6:12], hop.MAC):
			return refuse("forged_host")
		}
	}
	if refused := r.readReceived(p); refused != "" {
		return refuse(refused)
	}
	return r.carry(p, fromUnderlay)
}

// FromUnderlayL3 is FromUnderlay for what comes by a device without a link layer. The frame of the verdict has a header
// of Ethernet, of zeros where nothing is written there.
func (r *Reference) FromUnderlayL3(packet []byte) Verdict {
	frame := append(make([]byte, etherLength), packet...)
	binary.BigEndian.PutUint16(frame[12:], 0x86dd)
	return r.FromUnderlay(frame)
}

// FromStack says what becomes of a frame that the host's stack sends into ip6d0.
func (r *Reference) FromStack(frame []byte) Verdict {
	if refused := checkEtherType(frame); refused != "" {
		return refuse(refused)
	}
	p, ok := readPacket(frame)
	if !ok {
		return refuse("malformed")
	}
	if r.Fenced {
		return refuse("fenced")
	}
	if p.destination.IsMulticast() {
		return refuse("multicast")
	}
	endpoint, _ := r.Plan.Endpoint(r.Cell, r.Host)
	if r.Plan.Form(p.destination) == addr.FormStable {
		if refused := r.readSent(p, endpoint); refused != "" {
			return refuse(refused)
		}
	} else if refused := r.readAnswer(p, endpoint); refused != "" {
		return refuse(refused)
	}
	return r.carry(p, fromStack)
}

// readSent checks what sender, a stable address of this host, sends.
func (r *Reference) readSent(p *packet, sender addr.Stable) refusal {
	if p.source != sender.Addr() {
		return "foreign_source"
	}
	p.from, p.cameFrom = sender, r.Host
	switch r.Plan.Form(p.destination) {
	case addr.FormRouting:
		return "routing_destination"
	case addr.FormInvalid:
		return "no_egress"
	}
	var err error
	if p.to, err = r.Plan.StableFrom(p.destination); err != nil {
		return "invalid_destination"
	}
	if !mayTalk(p.from, p.to) {
		return "other_network"
	}
	if refused := p.readUpper(); refused != "" {
		return refused
	}
	if p.isDiscoveryType() {
		return "neighbour_discovery"
	}
	return ""
}

// readReceived checks what came for a routing address of this host.
func (r *Reference) readReceived(p *packet) refusal {
	if refused := p.readUpper(); refused != "" {
		return refused
	}
	switch {
	case p.isDiscoveryType():
		return "neighbour_discovery"
	case p.outside && !r.isAbout(p):
		return "outside_source"
	case !p.outside && !mayTalk(p.from, p.to):
		return "other_network"
	}
	return ""
}

// readAnswer checks an ICMPv6 error of this host's stack on a packet that it was handed translated.
func (r *Reference) readAnswer(p *packet, endpoint addr.Stable) refusal {
	own := r.Plan.HostPrefix(r.Host)
	if !own.Contains(p.destination) {
		return "stack_destination"
	}
	var err error
	p.to, _, err = r.Plan.RelayFrom(p.destination)
	if errors.Is(err, addr.ErrControl) {
		return "control_destination"
	}
	if err != nil {
		return "invalid_destination"
	}

	p.cameFrom = r.Host
	switch r.Plan.Form(p.source) {
	case addr.FormStable:
		if p.source != endpoint.Addr() {
			return "foreign_source"
		}
		p.from = endpoint
	case addr.FormRouting:
		if !own.Contains(p.source) || !isControl(p.source) {
			return "foreign_source"
		}
		p.outside = true
	default:
		p.outside = true
	}
	return r.readReceived(p)
}

// mayTalk: machines of different networks cannot; a host's endpoint can talk with every machine.
func mayTalk(a, b addr.Stable) bool {
	return a.Network() == b.Network() || a.Network() == 0 || b.Network() == 0
}

// isAbout tells an ICMPv6 error about a packet that the destination sent.
func (r *Reference) isAbout(p *packet) bool {
	if !p.isError() || p.fragment {
		return false
	}
	embedded := p.embedded()
	if embedded == nil {
		return false
	}
	sender, ok := r.reveal(addressAt(embedded, 8))
	return ok && sender == p.to
}

// reveal returns the stable form of an address in routing form.
func (r *Reference) reveal(a netip.Addr) (addr.Stable, bool) {
	s, _, err := r.Plan.RelayFrom(a)
	return s, err == nil
}

// carry takes a packet to where its destination is. way is the program that it came in by.
func (r *Reference) carry(p *packet, way string) Verdict {
	if p.to.Kind() == addr.KindEndpoint {
		if host := addr.Host(p.to.Machine()); host != r.Host {
			return r.forward(p, host, way)
		}
		return r.enterStack(p)
	}
	m, ok := r.Machines[p.to.ID()]
	if ok && m.Network != p.to.Network() {
		return refuse("network_mismatch")
	}
	switch {
	case ok && (m.State == Delivering || m.State == Incoming && p.cameFrom == m.Host):
		return r.deliver(p, m, way)
	case ok: // incoming: the owner; away: where it went
		v := r.forward(p, m.Host, way)
		if way == fromUnderlay && m.State == Away {
			v.Astray = p.cameFrom
		}
		return v
	}

	v := r.carryOn(p, way)
	if way == fromUnderlay {
		v.Astray = p.cameFrom
	}
	return v
}

// carryOn takes a packet to where this host believes its machine to be.
func (r *Reference) carryOn(p *packet, way string) Verdict {
	believed, ok := r.Moved[p.to.ID()]
	if !ok {
		believed, ok = r.Blocks[BlockID{p.to.Cell(), p.to.Machine().Block()}]
	}
	switch {
	case !ok || believed == r.Host:
		return refuse("not_here")
	case believed == p.cameFrom:
		return refuse("loop")
	}
	return r.forward(p, believed, way)
}

func (r *Reference) deliver(p *packet, m Machine, way string) Verdict {
	if m.Port.Ifindex == 0 {
		return refuse("no_port")
	}
	tooBig, ok := r.tooBig(p, m.Port.Ifindex)
	if !ok {
		return refuse("no_port")
	}
	lastHop := way == fromMachine && p.hopLimit() <= 1 // only the sender's own host is a hop
	if tooBig || lastHop {
		why := refusal("too_big")
		if lastHop {
			why = "hop_limit"
		}
		if way == fromStack || p.outside {
			return refuse(why)
		}
		p.setSource(r.relay(p.from, r.Host))
		p.setDestination(r.relay(p.to, r.Host))
		return r.toStack(p, why)
	}
	if way == fromMachine {
		p.spendHop()
	}
	r.revealAll(p)
	p.setMACs(m.Port.MAC, r.GatewayMAC)
	action := ToDevice
	if m.Port.Enter == EnterPeer {
		action = ToPeer
	}
	return Verdict{Action: action, Ifindex: m.Port.Ifindex, Frame: p.frame}
}

// tooBig compares a packet with a device's MTU; false: there is no such device. A packet that every device can carry is
// given to it without asking: where it has just gone, the kernel drops the packet.
func (r *Reference) tooBig(p *packet, ifindex int) (tooBig, ok bool) {
	if p.length() <= minMTU {
		return false, true
	}
	mtu, ok := r.MTU[ifindex]
	return p.length() > mtu, ok
}

// toStack gives a packet that cannot go on to the host's stack.
func (r *Reference) toStack(p *packet, why refusal) Verdict {
	if r.Stack == 0 {
		return refuse(why)
	}
	p.setMACs(r.StackMAC, r.GatewayMAC)
	return Verdict{Action: ToStack, Reason: string(why), Ifindex: r.Stack, Frame: p.frame}
}

// revealAll gives all addresses in the packet their stable form, where they have one.
func (r *Reference) revealAll(p *packet) {
	if embedded := p.embedded(); p.isError() && embedded != nil {
		for _, at := range []int{8, 24} {
			if s, ok := r.reveal(addressAt(embedded, at)); ok {
				putAddress(embedded, at, s.Addr())
			}
		}
	}
	if !p.outside {
		p.setSource(p.from.Addr())
	}
	p.setDestination(p.to.Addr())
}

func (r *Reference) enterStack(p *packet) Verdict {
	if p.to.Cell() != r.Cell {
		return refuse("not_here")
	}
	if r.Stack == 0 {
		return refuse("no_stack")
	}
	if p.isTunnelled() {
		return refuse("tunnelled")
	}
	if r.isForeignError(p) {
		return refuse("foreign_error")
	}
	r.revealAll(p)
	p.setMACs(r.StackMAC, r.GatewayMAC)
	return Verdict{Action: IntoStack, Ifindex: r.Stack, Frame: p.frame}
}

// isForeignError tells a machine's error about a packet that was not sent to it.
func (r *Reference) isForeignError(p *packet) bool {
	if !p.isError() || p.outside || p.from.Kind() == addr.KindEndpoint {
		return false
	}
	embedded := p.embedded()
	if embedded == nil {
		return true
	}
	to := addressAt(embedded, 24)
	if s, ok := r.reveal(to); ok {
		to = s.Addr()
	}
	return to != p.from.Addr()
}

// forward sends the packet to another host, under this host's id.
func (r *Reference) forward(p *packet, host addr.Host, way string) Verdict {
	hop, ok := r.Hosts[host]
	if !ok {
		return refuse("unknown_host")
	}
	if p.outside {
		p.setSource(r.controlWithSumOf(p.source))
	} else {
		p.setSource(r.relay(p.from, r.Host))
	}
	p.setDestination(r.relay(p.to, host))

	tooBig, ok := r.tooBig(p, hop.Ifindex)
	if !ok {
		return refuse("no_underlay")
	}
	switch {
	case way == fromStack && tooBig:
		return refuse("too_big")
	case way == fromStack: // this host is the sender, no hop
	case tooBig:
		return r.toStack(p, "too_big")
	case p.hopLimit() <= 1:
		return r.toStack(p, "hop_limit")
	default:
		p.spendHop()
	}
	switch {
	case hop.Kind == HopL3:
		return Verdict{Action: ToDevice, Ifindex: hop.Ifindex, Frame: p.frame}
	case hop.MAC != nil && hop.Trusted > 0:
		p.setMACs(hop.MAC, hop.Source)
		return Verdict{Action: ToDevice, Ifindex: hop.Ifindex, Frame: p.frame}
	}
	p.setMACs(make(net.HardwareAddr, 6), hop.Source)
	return Verdict{Action: ToNeighbour, Ifindex: hop.Ifindex, Frame: p.frame}
}

// relay returns the routing form; s and host are known to be valid.
func (r *Reference) relay(s addr.Stable, host addr.Host) netip.Addr {
	a, err := r.Plan.Relay(s, host)
	if err != nil {
		panic(err)
	}
	return a
}

// controlWithSumOf returns the control address of this host with the one's-complement sum of a.
func (r *Reference) controlWithSumOf(a netip.Addr) netip.Addr {
	prefix := r.Plan.HostPrefix(r.Host).Addr()
	b := prefix.As16()
	binary.BigEndian.PutUint16(b[14:], uint16((hextetSum(a)+0xffff-hextetSum(prefix))%0xffff))
	return netip.AddrFrom16(b)
}

// hextetSum is the one's-complement sum of an address (RFC 1071 section 1), 0 to 0xfffe.
func hextetSum(a netip.Addr) uint32 {
	var sum uint32
	b := a.As16()
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum % 0xffff
}
