package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// Refusal is an attempt to send what must not be carried.
type Refusal struct {
	Reason   string // the drop counter that must show it, on the sender's host
	From     *Machine
	Source   netip.Addr // whose address the packets pretend to come from
	To       netip.Addr
	Receiver *Machine // who would get it
	Control  *Machine // of the receiver's network: what it sends must arrive, or the receiver is deaf and proves nothing
}

// OtherNetwork is a packet to a machine of another network.
func OtherNetwork(from, to, control *Machine) Refusal {
	return Refusal{"other_network", from, from.Stable.Addr(), to.Stable.Addr(), to, control}
}

// ForgedSource is a packet that pretends to come from victim.
func ForgedSource(from, victim, to *Machine) Refusal {
	return Refusal{"foreign_source", from, victim.Stable.Addr(), to.Stable.Addr(), to, from}
}

// RoutingDestination is a packet to a machine's routing address, which is the underlay's affair.
func RoutingDestination(from, to *Machine) (Refusal, error) {
	r, err := addr.DefaultPlan.Encode(to.Stable, to.host.ID())
	return Refusal{"routing_destination", from, from.Stable.Addr(), r.Addr(), to, from}, err
}

// Try sends packets, and returns how many of them the sender's host counted as refused. Each must be counted, and none
// may come to the receiver. Errors: ErrNotRefused, ErrNoAnswer.
func (r Refusal) Try(ctx context.Context, packets int) (refused uint64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("send from %s as %s to %s, to be refused as %s: %w", r.From.Name, r.Source, r.To, r.Reason, err)
		}
	}()
	receiver, err := listenUDP(r.Receiver, r.Receiver.Stable.Addr())
	if err != nil {
		return 0, err
	}
	defer receiver.Close()
	port := receiver.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	before, err := r.From.host.Drops(ctx)
	if err != nil {
		return 0, err
	}

	forbidden := rand.Uint64()
	if err := r.send(forbidden, netip.AddrPortFrom(r.To, port), packets); err != nil {
		return 0, err
	}
	if refused, err = r.waitCounted(ctx, before[r.Reason], packets); err != nil {
		return refused, err
	}
	// Whatever was carried all the same is before these in the receiver's queue, unless it went another way.
	allowed := Refusal{From: r.Control, Source: r.Control.Stable.Addr()}
	welcome := rand.Uint64()
	if err := allowed.send(welcome, netip.AddrPortFrom(r.Receiver.Stable.Addr(), port), 1); err != nil {
		return refused, err
	}
	return refused, r.readUntil(ctx, receiver, welcome)
}

// send sends packets of eight bytes.
func (r Refusal) send(token uint64, to netip.AddrPort, packets int) error {
	var c net.PacketConn
	err := r.From.Do(func() (err error) {
		// A socket may have an address that is not the machine's, if it says so (ipv6(7), IPV6_FREEBIND).
		c, err = listenFreely(r.Source)
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	for range packets {
		if _, err := c.WriteTo(binary.BigEndian.AppendUint64(nil, token), net.UDPAddrFromAddrPort(to)); err != nil {
			return err
		}
	}
	return nil
}

func listenFreely(at netip.Addr) (net.PacketConn, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "udp")
	defer f.Close()
	if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: at.As16()}); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	return net.FilePacketConn(f)
}

// refusalTimeout is how long a packet that was sent may take to be counted.
const refusalTimeout = 5 * time.Second

// waitCounted waits until the sender's host has counted all packets.
func (r Refusal) waitCounted(ctx context.Context, before uint64, packets int) (counted uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, refusalTimeout)
	defer cancel()
	for {
		drops, err := r.From.host.Drops(ctx)
		if err == nil {
			counted = drops[r.Reason] - before
		}
		if counted >= uint64(packets) {
			return counted, nil
		}
		select {
		case <-ctx.Done():
			return counted, fmt.Errorf("%w: %s counted %d of %d", ErrNotRefused, r.From.host.Name, counted, packets)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// readUntil reads what came to the receiver: only the packet that is welcome may be there.
func (r Refusal) readUntil(ctx context.Context, receiver *net.UDPConn, welcome uint64) error {
	ctx, cancel := context.WithTimeout(ctx, refusalTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { receiver.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	b := make([]byte, 16)
	n, source, err := receiver.ReadFromUDPAddrPort(b)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: nor did %s get what %s may send it", ErrNoAnswer, r.Receiver.Name, r.Control.Name)
	case err != nil:
		return err
	case n != 8 || binary.BigEndian.Uint64(b) != welcome:
		return fmt.Errorf("%w: %s got it, from %s", ErrNotRefused, r.Receiver.Name, source)
	}
	return nil
}
