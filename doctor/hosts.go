package doctor

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ip6d/hwmap"
)

const (
	hostsAtOnce  = 32
	echoPatience = time.Second
	echoes       = 3 // of which one has to be answered
	maxOffset    = 3 * time.Second
)

// hosts asks each other host of the fleet. nil: they are not known.
func (o Options) hosts(ctx context.Context, hosts []hwmap.Host) []Finding {
	clock := []Finding{synchronised()}
	if o.Config.Standalone() || o.Config.UnderlayDevice == "" {
		return clock
	}
	if hosts == nil {
		return append(clock, Finding{Check: "hosts", Severity: Info, Value: "are not known: neither the store nor a daemon tells"})
	}
	l, err := netlink.LinkByName(o.Config.UnderlayDevice)
	if err != nil {
		return clock // told already
	}
	found := make([][]Finding, len(hosts))
	var g errgroup.Group
	g.SetLimit(hostsAtOnce)
	var mu sync.Mutex // guards offsets
	offsets := make(map[string]time.Duration)
	for i, h := range hosts {
		if h.ID == o.Config.Host || h.State == hwmap.Dead || !h.Underlay.IsValid() {
			continue
		}
		g.Go(func() error {
			check := fmt.Sprintf("host %d (%s)", h.ID, h.Name)
			found[i] = reach(ctx, check, o.Config.UnderlayAddress.Addr(), h, l.Attrs().MTU)
			if offset, err := clockOf(ctx, o.Config.UnderlayAddress.Addr(), h.Peer); err == nil {
				mu.Lock()
				defer mu.Unlock()
				offsets[check] = offset
			}
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	for _, f := range found {
		clock = append(clock, f...)
	}
	return append(clock, apart(offsets)...)
}

// reach sends echoes to a host: small ones, then such as fill the underlay's packets.
func reach(ctx context.Context, check string, from netip.Addr, h hwmap.Host, mtu int) []Finding {
	small := echo(ctx, from, h.Underlay, leastMTU)
	if small == nil {
		if err := echo(ctx, from, h.Underlay, mtu); err != nil {
			return []Finding{{check, Error, fmt.Sprintf("is reached, but not by packets of the underlay's MTU, %d: %v", mtu, err),
				"raise the MTU of what is in between, or lower that of the underlay on all hosts"}}
		}
		return []Finding{{Check: check, Severity: OK, Value: fmt.Sprintf("%s is reached, with packets of %d bytes", h.Underlay, mtu)}}
	}
	if errors.Is(small, unix.EPERM) {
		return []Finding{{check, Info, "not asked: " + small.Error(), "run this as root"}}
	}
	// A firewall may stop echoes, and nothing else.
	if _, err := clockOf(ctx, from, h.Peer); err == nil {
		return []Finding{{check, Warning, fmt.Sprintf("%s answers no ICMPv6 echo, but its daemon answers: what size of packets reaches it is not known", h.Underlay),
			"let ICMPv6 echo pass between hosts, and never stop Packet Too Big"}}
	}
	return []Finding{{check, Error, fmt.Sprintf("%s is not reached: %v", h.Underlay, small), "check that it runs, and the way there: traceroute -6 " + h.Underlay.String()}}
}

// echo waits for the answer to an ICMPv6 echo whose packet has that size, and is not fragmented (RFC 4443 section 4).
func echo(ctx context.Context, from, to netip.Addr, size int) error {
	listen := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		controlErr := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
				unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1),
			)
		})
		return errors.Join(controlErr, err)
	}}
	conn, err := listen.ListenPacket(ctx, "ip6:ipv6-icmp", from.String())
	if err != nil {
		return err
	}
	defer conn.Close()
	const request, reply, header = 128, 129, 40
	message := make([]byte, size-header)
	message[0] = request
	id := rand.Uint32()
	binary.BigEndian.PutUint32(message[4:], id) // identifier and sequence number; the kernel writes the checksum
	answer := make([]byte, size)
	for range echoes {
		if _, err = conn.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
			if errors.Is(err, unix.EMSGSIZE) {
				return err
			}
			continue
		}
		if err = conn.SetReadDeadline(time.Now().Add(echoPatience)); err != nil {
			return err
		}
		for {
			n, source, readErr := conn.ReadFrom(answer)
			if readErr != nil {
				err = fmt.Errorf("no answer within %s", echoPatience)
				break
			}
			ip, _ := netip.ParseAddr(source.String())
			if n >= 8 && answer[0] == reply && binary.BigEndian.Uint32(answer[4:]) == id && ip == to {
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}

// clockOf returns how far a host's clock is ahead of this one's. Its daemon tells the time with every answer, and also with
// a refusal, to the second.
func clockOf(ctx context.Context, from netip.Addr, at netip.AddrPort) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, echoPatience)
	defer cancel()
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	conn, err := dialer.DialContext(ctx, "tcp6", at.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(echoPatience)); err != nil {
		return 0, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+at.String()+"/", nil)
	if err == nil {
		err = q.Write(conn)
	}
	if err != nil {
		return 0, err
	}
	r, err := http.ReadResponse(bufio.NewReader(conn), q)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	then, err := http.ParseTime(r.Header.Get("Date"))
	return then.Sub(now), err
}

// apart tells of hosts whose clock is another.
func apart(offsets map[string]time.Duration) (all []Finding) {
	for check, offset := range offsets {
		if offset.Abs() > maxOffset {
			all = append(all, Finding{"clock of " + check, Warning, fmt.Sprintf("is %s ahead of this host's", offset.Round(time.Second)),
				"synchronise both: quarantines and leases are counted by clocks"})
		}
	}
	if all == nil && len(offsets) > 0 {
		all = []Finding{{Check: "clocks", Severity: OK, Value: fmt.Sprintf("of %d other hosts agree with this one's to %s", len(offsets), maxOffset)}}
	}
	return all
}

// synchronised asks the kernel whether something keeps the clock right.
func synchronised() Finding {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return Finding{Check: "clock", Severity: Info, Value: "cannot be asked: " + err.Error()}
	}
	return clockState(state)
}

func clockState(state int) Finding {
	const timeError = 5 // TIME_ERROR of adjtimex(2): the clock is not synchronised
	if state == timeError {
		return Finding{"clock", Warning, "is not synchronised", "run chrony or systemd-timesyncd; a virtual machine may have it from its host, which the kernel does not know of"}
	}
	return Finding{Check: "clock", Severity: OK, Value: "is synchronised"}
}
