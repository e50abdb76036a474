package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ICMPv6 types of RFC 4443 section 4.
const (
	echoRequest = 128
	echoReply   = 129
)

// echoEvery is how long an echo is waited for before the next request.
const echoEvery = time.Second

// Ping sends ICMPv6 echo requests to another machine until one is answered. Errors: ErrNoAnswer when ctx ends first.
func (m *Machine) Ping(ctx context.Context, to *Machine) error {
	failed := func(err error) error { return fmt.Errorf("ping %s from %s: %w", to.Name, m.Name, err) }
	c, err := m.openICMP(to)
	if err != nil {
		return failed(err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) }) // an answer is not waited for any longer
	defer stop()

	// The kernel fills in the checksum (RFC 3542 section 3.1).
	message := make([]byte, 64)
	message[0] = echoRequest
	binary.BigEndian.PutUint16(message[4:], uint16(rand.Uint32()))
	for sequence := uint16(1); ; sequence++ {
		binary.BigEndian.PutUint16(message[6:], sequence)
		for at := 8; at < len(message); at++ {
			message[at] = byte(rand.Uint32())
		}
		if err := c.SetReadDeadline(time.Now().Add(echoEvery)); err != nil {
			return failed(err)
		}
		_, err := c.WriteTo(message, &net.IPAddr{IP: to.Stable.Addr().AsSlice()})
		if err == nil {
			err = readReply(c, to, message)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return failed(fmt.Errorf("%w to %d requests: %w: %w", ErrNoAnswer, sequence, context.Cause(ctx), err))
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return failed(err)
		}
	}
}

// openICMP opens a socket that sees echo replies only.
func (m *Machine) openICMP(to *Machine) (c *net.IPConn, err error) {
	err = m.Do(func() error {
		c, err = net.ListenIP("ip6:ipv6-icmp", &net.IPAddr{IP: m.Stable.Addr().AsSlice()})
		return err
	})
	if err != nil {
		return nil, err
	}
	var filter unix.ICMPv6Filter
	for i := range filter.Data {
		filter.Data[i] = ^uint32(0) // a bit that is set blocks its type
	}
	filter.Data[echoReply/32] &^= 1 << (echoReply % 32)
	err = control(c, func(fd int) error {
		return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, &filter)
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// readReply waits for the reply to the request, from its destination and with the same content.
func readReply(c *net.IPConn, from *Machine, request []byte) error {
	reply := make([]byte, len(request)+1)
	for {
		n, source, err := c.ReadFromIP(reply)
		if err != nil {
			return err
		}
		// The first four bytes are type, code and checksum.
		if n == len(request) && string(reply[4:n]) == string(request[4:]) && source.IP.Equal(from.Stable.Addr().AsSlice()) {
			return nil
		}
	}
}
