package nat

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// Where struct virtio_net_hdr says from where on a checksum is to be computed, and how far from there it is to be written.
const (
	vnetSumStart  = 6
	vnetSumOffset = 8
)

// unsummed gives a frame the header by which its checksum is written by who sends it on.
func unsummed(frame []byte, start, place int) []byte {
	header := make([]byte, vnetHeader)
	header[vnetFlags] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	binary.NativeEndian.PutUint16(header[vnetSumStart:], uint16(start))
	binary.NativeEndian.PutUint16(header[vnetSumOffset:], uint16(place-start))
	return append(header, frame...)
}

// forging has the checksum, of all from its place on, become a value there. Two bytes behind the packet make it so, in what
// the frame has become by the time that it is computed.
func forging(frame, then []byte, place int, value uint16) []byte {
	var sum uint32
	for i, b := range then[place:] {
		sum += uint32(b) << (8 * (1 - i&1))
	}
	rest := (uint32(^value) + 0xffff - sum%0xffff) % 0xffff
	return unsummed(append(frame, byte(rest>>8), byte(rest)), place, place)
}

// A guest that leaves a checksum to others says where it goes. The kernel writes it as the packet leaves, which is after all
// that the datapath has looked at: there it would make another packet of it.
func TestAChecksumLeftToOthersChangesNothingThatIsDecidedOn(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	one.withoutOffload("underlay") // as WireGuard, and cards that know only TCP and UDP
	warm(one.run(alice, false), two.run(remote, false))
	near := stable(6, 1, 0x104)
	port, hypervisor := one.tap("tap0", 0)
	victim, _ := one.tap("tap1", 0) // whose reader leaves checksums to others, too
	one.do(func() error { return one.AttachPort(port.index, mallet) })
	for s, d := range map[addr.Stable]device{mallet: port, near: victim} {
		m := here(s, 1)
		m.Port = Port{Ifindex: d.index, Enter: EnterDevice, MAC: mac(9)}
		ok(t, one.PutMachine(m))
	}
	send := func(b []byte) error {
		_, err := hypervisor.Write(b)
		return err
	}
	const ip, upper = etherLength, etherLength + ipv6Length
	M, there, service := mallet.Addr(), stranger.Addr(), endpoint(1, 2).Addr()
	sent := func(f frame) frame { return f.between(mac(9), GatewayMAC()).marked() }
	in := two.listenUDP(service, 2)

	f := sent(datagram(M, service))
	pseudo := transportSum(unix.IPPROTO_UDP, M, service, make([]byte, len(f.payload))) // the kernel adds the rest
	be16(f.payload[6:], uint16(pseudo))
	ok(t, send(unsummed(f.bytes(), upper, upper+6)))
	in.SetReadDeadline(time.Now().Add(patience))
	if _, from, err := in.ReadFromUDPAddrPort(make([]byte, 9)); err != nil || from.Addr() != M {
		t.Fatalf("with its checksum in its place, it arrived from %s: %v; drops %v", from, err, dropsOf(t, one.Datapath))
	}

	w := watching(two.underlay, two.stack)
	for _, c := range []struct {
		what  string
		frame frame
		place int
	}{
		{"next header and hop limit", datagram(M, service), ip + 6},
		{"network of the source", datagram(M, service), ip + 16},
		{"machine of the source", datagram(M, service), ip + 20},
		{"host of the destination", datagram(M, there), ip + 28},
		{"last of the destination", datagram(M, there), ip + 38},
		{"next header of options", datagram(M, there).behind([]byte{60}, padding), upper},
		{"next header of the second options", datagram(M, there).behind([]byte{60, 60}, padding, padding), upper + 8},
		{"offset of a first fragment", datagram(M, there).behind([]byte{44}, firstFragment), upper + 2},
		{"offset of a later fragment", datagram(M, there).behind([]byte{44}, secondFragment), upper + 2},
		{"ICMPv6 type", message(M, there, echoRequest), upper},
		{"ICMPv6 type behind options", message(M, there, echoRequest).behind([]byte{60}, padding), upper + 8},
	} {
		w.refused(one, "a checksum in the place of "+c.what, "malformed", send, unsummed(sent(c.frame).bytes(), ip+6, c.place))
	}

	// what could be done with it: to speak for a machine of another network,
	forged := stable(5, 1, 0x103).Addr()
	f = sent(datagram(M, service))
	f.payload = udp(forged, service, 'x')
	then := f
	then.source, then.destination = routing(mallet, 1), routing(endpoint(1, 2), 2)
	w.refused(one, "a datagram that becomes another network's", "malformed", send, forging(f.bytes(), then.bytes(), ip+16, 5))
	in.SetReadDeadline(time.Now())
	if _, from, err := in.ReadFromUDPAddrPort(make([]byte, 9)); err == nil {
		t.Errorf("it arrived from %s", from)
	}
	// and to be the gateway of another machine
	f = sent(message(M, near.Addr(), 136, gatewayAddress.AsSlice()...))
	f.next = unix.IPPROTO_UDP
	w.refused(one, "a datagram that becomes an advertisement of the gateway", "malformed", send,
		forging(f.bytes(), f.bytes(), ip+6, protocolICMPv6<<8|255))
}
