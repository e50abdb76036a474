package nat

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"ip6d/addr"
)

const (
	etherLength = 14
	ipv6Length  = 40
	minMTU      = 1280 // of every link (RFC 8200 section 5)

	// next headers: RFC 8200 section 4.1, RFC 4302
	protocolHopByHop    = 0
	protocolRouting     = 43
	protocolFragment    = 44
	protocolAuth        = 51
	protocolICMPv6      = 58
	protocolDestination = 60

	maxExtensionHeaders = 6
)

// packet is a frame on its way through the Reference.
type packet struct {
	frame []byte // a copy; changed on the way
	end   int    // of the IPv6 packet in the frame; what follows is padding

	source, destination netip.Addr  // as they came
	from, to            addr.Stable // what they stand for
	cameFrom            addr.Host   // the host that sent or forwarded it
	outside             bool        // the source is no machine's or endpoint's: from is not known

	icmpv6   []byte // the ICMPv6 message; nil: none, or not its first fragment
	upper    byte   // the protocol behind the extension headers
	fragment bool
}

// checkEtherType refuses what is not IPv6.
func checkEtherType(frame []byte) refusal {
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x86dd:
		return ""
	case 0x0800:
		return "ipv4"
	case 0x0806:
		return "arp"
	case 0x8100, 0x88a8:
		return "vlan_tagged"
	}
	return "ether_type"
}

// readPacket reads the IPv6 header; false: the frame is shorter than its headers say, or not version 6.
func readPacket(frame []byte) (*packet, bool) {
	if len(frame) < etherLength+ipv6Length || frame[etherLength]>>4 != 6 {
		return nil, false
	}
	p := &packet{frame: slices.Clone(frame)}
	p.source, p.destination = addressAt(p.ip(), 8), addressAt(p.ip(), 24)
	length := int(binary.BigEndian.Uint16(p.ip()[4:]))
	p.end = etherLength + ipv6Length + length
	if p.end > len(frame) {
		return nil, false
	}
	if length == 0 && p.ip()[6] == protocolHopByHop {
		p.end = len(frame) // a jumbogram (RFC 2675)
	}
	return p, true
}

func (p *packet) ip() []byte { return p.frame[etherLength:] }

func (p *packet) hopLimit() byte { return p.ip()[7] }

func (p *packet) spendHop() { p.ip()[7]-- }

func (p *packet) setSource(a netip.Addr)      { putAddress(p.ip(), 8, a) }
func (p *packet) setDestination(a netip.Addr) { putAddress(p.ip(), 24, a) }

func (p *packet) setMACs(destination, source net.HardwareAddr) {
	copy(p.frame[0:6], destination)
	copy(p.frame[6:12], source)
}

// length is the packet's, without the link layer's header.
func (p *packet) length() int { return len(p.frame) - etherLength }

var (
	gateway          = netip.MustParseAddr("fe80::1")
	gatewaySolicited = netip.MustParseAddr("ff02::1:ff00:1") // its solicited-node address
)

// asksForGateway tells a neighbour solicitation of a port's machine for its gateway.
func (p *packet) asksForGateway(port addr.Stable) bool {
	if !netip.MustParsePrefix("fe80::/64").Contains(p.source) && p.source != port.Addr() {
		return false
	}
	if p.destination != gateway && p.destination != gatewaySolicited {
		return false
	}
	message := p.frame[etherLength+ipv6Length : p.end]
	return p.ip()[6] == protocolICMPv6 && p.hopLimit() == 255 && len(message) >= 24 &&
		message[0] == 135 && message[1] == 0 && addressAt(message, 8) == gateway
}

// advertisement is the answer to asksForGateway (RFC 4861 section 4.4).
func (r *Reference) advertisement(p *packet) []byte {
	message := []byte{136, 0, 0, 0, 0xe0, 0, 0, 0} // from a router, solicited, override
	message = append(message, gateway.AsSlice()...)
	message = append(append(message, 2, 1), r.GatewayMAC...)
	b := make([]byte, etherLength+ipv6Length, etherLength+ipv6Length+len(message))
	copy(b, p.frame[6:12])
	copy(b[6:], r.GatewayMAC)
	binary.BigEndian.PutUint16(b[12:], 0x86dd)
	ip := b[etherLength:]
	ip[0], ip[5], ip[6], ip[7] = 0x60, byte(len(message)), protocolICMPv6, 255
	putAddress(ip, 8, gateway)
	putAddress(ip, 24, p.source)
	binary.BigEndian.PutUint16(message[2:], ^checksum(ip, message))
	return append(b, message...)
}

// checksum is the one's-complement sum of pseudo-header and message (RFC 8200 section 8.1), 1 to 0xffff.
func checksum(ip, message []byte) uint16 {
	sum := uint32(len(message)) + uint32(ip[6])
	for _, b := range [][]byte{ip[8:ipv6Length], message} {
		for i := range b {
			sum += uint32(b[i]) << (8 * (1 - i&1))
		}
	}
	return uint16((sum-1)%0xffff + 1)
}

// readUpper looks behind extension headers for an ICMPv6 message.
func (p *packet) readUpper() refusal {
	next, rest := p.ip()[6], p.frame[etherLength+ipv6Length:p.end]
	for range maxExtensionHeaders + 1 {
		p.upper = next
		if next == protocolRouting {
			return "routing_header"
		}
		extension := []byte{protocolHopByHop, protocolFragment, protocolAuth, protocolDestination}
		if next != protocolICMPv6 && !slices.Contains(extension, next) {
			return ""
		}
		if len(rest) < 4 {
			return "malformed" // or its type is in another fragment, which nobody may look at
		}
		length := (int(rest[1]) + 1) * 8
		switch next {
		case protocolICMPv6:
			p.icmpv6 = rest
			return ""
		case protocolFragment:
			p.fragment, p.upper = true, rest[0]
			if binary.BigEndian.Uint16(rest[2:])>>3 != 0 { // not the first
				return ""
			}
			length = 8
		case protocolAuth:
			length = (int(rest[1]) + 2) * 4
		}
		next, rest = rest[0], rest[min(length, len(rest)):]
	}
	return "extension_headers"
}

func (p *packet) icmpv6Type() byte {
	if p.icmpv6 == nil {
		return 0
	}
	return p.icmpv6[0]
}

// isDiscoveryType tells messages that are only ever for the link.
func (p *packet) isDiscoveryType() bool { return p.icmpv6Type() >= 133 && p.icmpv6Type() <= 137 }

// isTunnelled tells a packet in a packet: IPv4, IPv6, GRE, Ethernet.
func (p *packet) isTunnelled() bool { return slices.Contains([]byte{4, 41, 47, 143}, p.upper) }

// isError: RFC 4443 section 2.1.
func (p *packet) isError() bool { return p.icmpv6Type() >= 1 && p.icmpv6Type() <= 4 }

// embedded returns the packet that an ICMPv6 error is about, with at least its header; nil: there is none.
func (p *packet) embedded() []byte {
	if len(p.icmpv6) < 8+ipv6Length || p.icmpv6[8]>>4 != 6 {
		return nil
	}
	return p.icmpv6[8:]
}

// isControl tells a routing address with network and machine 0.
func isControl(a netip.Addr) bool {
	high, low := halves(a)
	return high&0xffff == 0 && low>>16 == 0
}

func addressAt(b []byte, at int) netip.Addr { return netip.AddrFrom16([16]byte(b[at : at+16])) }

func putAddress(b []byte, at int, a netip.Addr) { copy(b[at:at+16], a.AsSlice()) }
