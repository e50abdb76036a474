package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// talker is who sends to machines: a machine, or a host's service from the endpoint.
type talker struct {
	device // where what it is sent comes in
	addr.Stable
}

func (g *guest) talker() talker { return talker{g.eth0, g.Stable} }

func (h *fleetHost) talker() talker { return talker{h.stack, endpoint(1, h.id)} }

func (s talker) String() string { return s.Stable.String() }

// prober is a talker's UDP socket that sends what is too large, too, and is told of errors.
type prober struct {
	t    testing.TB
	from talker
	fd   int
}

func (s talker) prober() *prober {
	s.t.Helper()
	p := &prober{t: s.t, from: s}
	s.do(func() (err error) {
		p.fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
			unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1),
			unix.Bind(p.fd, &unix.SockaddrInet6{Addr: s.Addr().As16()}),
		)
	})
	s.t.Cleanup(func() { unix.Close(p.fd) })
	return p
}

// send sends a datagram that makes a packet of that size, and no smaller one than there can be, with a hop limit.
func (p *prober) send(to netip.AddrPort, hopLimit, size int) (data []byte) {
	p.t.Helper()
	ok(p.t, unix.SetsockoptInt(p.fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, hopLimit))
	data = randomBytes(max(size-ipv6Length-8, 1))
	p.sendData(to, data)
	return data
}

func (p *prober) sendData(to netip.AddrPort, data []byte) {
	p.t.Helper()
	err := unix.Sendto(p.fd, data, 0, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	if err != nil { // of the one before, which the error queue tells as well
		err = unix.Sendto(p.fd, data, 0, &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
	}
	ok(p.t, err)
}

// told is what a socket is told of a packet that it sent.
type told struct {
	errno      unix.Errno
	kind, code byte // of the ICMPv6 message
	mtu        uint32
	by         netip.Addr
	to         netip.AddrPort // of the packet
	data       []byte         // of the packet, as much as was embedded
}

func (e told) String() string {
	return fmt.Sprintf("%v (type %d code %d, MTU %d) by %s on %d bytes to %s", e.errno, e.kind, e.code, e.mtu, e.by, len(e.data), e.to)
}

// told waits for an error.
func (p *prober) told(what string) (e told) {
	p.t.Helper()
	data, control := make([]byte, 2000), make([]byte, 200)
	eventually(p.t, what+": the socket is told", func() error {
		n, size, _, to, err := unix.Recvmsg(p.fd, data, control, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return err
		}
		destination, isIPv6 := to.(*unix.SockaddrInet6)
		messages, err := unix.ParseSocketControlMessage(control[:size])
		if err != nil || !isIPv6 {
			return fmt.Errorf("of %v: %w", to, err)
		}
		e.to, e.data = netip.AddrPortFrom(netip.AddrFrom16(destination.Addr), uint16(destination.Port)), data[:n]
		for _, m := range messages {
			if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_RECVERR {
				e.read(m.Data)
			}
		}
		return nil
	})
	return e
}

// read reads a struct sock_extended_err, and the offender's address behind it (man 7 ip).
func (e *told) read(b []byte) {
	const atAddress = 16 + 8
	if len(b) < atAddress+16 {
		return
	}
	e.errno = unix.Errno(binary.NativeEndian.Uint32(b))
	e.kind, e.code = b[5], b[6]
	e.mtu = binary.NativeEndian.Uint32(b[8:])
	e.by = addressAt(b, atAddress)
}
