package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	patience = 20 * time.Second // only ever used up by a failure
	attempt  = 200 * time.Millisecond
)

// check lets a datagram and its answer through, and says what is wrong with them. wire is what the addresses between
// the hosts must be, source then destination, as prefixes with words of the host that sends; empty: whatever they are.
//
// Until the first pair has passed it tries again: addresses, routes and neighbours take a moment to work.
func (p *path) check(wire string) error {
	deadline := time.Now().Add(patience)
	for {
		err := p.exchange(wire)
		if err == nil || errors.Is(err, errWrong) || time.Now().After(deadline) {
			return err
		}
	}
}

// errWrong: a packet arrived, but not as it should.
var errWrong = errors.New("wrong")

func (p *path) exchange(wire string) error {
	in, err := p.receiver.socket(unix.SOCK_DGRAM, netip.AddrPortFrom(p.receiver.Addr(), udpPort))
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := p.sender.socket(unix.SOCK_DGRAM, netip.AddrPortFrom(p.sender.Addr(), udpPort))
	if err != nil {
		return err
	}
	defer unix.Close(out)
	var t *tap
	if wire != "" {
		if t, err = newTap(p.hosts[1]); err != nil {
			return err
		}
		defer t.close()
	}
	if err := pass(out, in, p.receiver.Addr(), p.sender.Addr()); err != nil {
		return fmt.Errorf("a datagram from %s to %s: %w", p.sender.Stable, p.receiver.Stable, err)
	}
	if err := pass(in, out, p.sender.Addr(), p.receiver.Addr()); err != nil {
		return fmt.Errorf("the answer from %s to %s: %w", p.receiver.Stable, p.sender.Stable, err)
	}
	if t == nil {
		return nil
	}
	return p.checkWire(t.packets(), wire)
}

// pass sends a datagram to an address, and takes it out where it must arrive. Its source must be from.
func pass(out, in int, to, from netip.Addr) error {
	data := []byte(time.Now().String())
	if err := unix.Sendto(out, data, 0, &unix.SockaddrInet6{Addr: to.As16(), Port: udpPort}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	timeout := unix.NsecToTimeval(attempt.Nanoseconds())
	if err := unix.SetsockoptTimeval(in, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return err
	}
	for got := make([]byte, len(data)+1); ; {
		n, source, err := unix.Recvfrom(in, got, 0)
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if !bytes.Equal(got[:n], data) {
			continue // of an earlier attempt
		}
		s, ok := source.(*unix.SockaddrInet6)
		if !ok || netip.AddrFrom16(s.Addr) != from || s.Port != udpPort {
			return fmt.Errorf("%w source: %+v, want %s", errWrong, source, from)
		}
		return nil
	}
}

// checkWire looks at the packets that were between the hosts during an exchange: there must be some both ways, and none
// with other addresses.
func (p *path) checkWire(packets [][]byte, wire string) error {
	var seen [2]bool
	for _, b := range packets {
		const length, nextHeader, hopByHop = 40, 6, 0
		if len(b) < length || b[0]>>4 != 6 || b[nextHeader] == unix.IPPROTO_ICMPV6 || b[nextHeader] == hopByHop {
			continue // the link's own chatter: neighbour discovery, multicast listeners
		}
		source, destination := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		known := false
		for i, h := range p.hosts {
			want := strings.Fields(h.words(wire))
			match := netip.MustParsePrefix(want[0]).Contains(source) && netip.MustParsePrefix(want[1]).Contains(destination)
			seen[i] = seen[i] || match
			known = known || match
		}
		if !known {
			return fmt.Errorf("%w addresses on the underlay: from %s to %s", errWrong, source, destination)
		}
	}
	if !seen[0] || !seen[1] {
		return fmt.Errorf("packets seen on the underlay, forth and back: %v, %v", seen[0], seen[1])
	}
	return nil
}
