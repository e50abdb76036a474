package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	udpPort    = 5353 + 4000
	batch      = 64 // datagrams for one system call
	udpPayload = 16 // bytes, which makes a frame of 78
)

// packets are what a flood came to.
type packets struct {
	sent, received int
	cost           float64 // ns of the sending core per packet received, see flood
}

// slice is how long a flood goes between two looks at what has arrived.
const slice = 10 * time.Millisecond

// flood sends small datagrams from one core, as fast as it goes, and counts those that come to the receiver's socket.
//
// All that happens on the way happens on the sending core: veth queues a packet for the core that sent it, up to the
// receiver's socket. That one is never read, and so soon full: the kernel counts each further datagram that has
// arrived for it, with its checksum and its address right, and drops it. Reading would add nothing but the noise of a
// second core to what is the same for all ways. (The kernel may hand work on to the core's ksoftirqd, whose time is not
// seen: it had less than a thousandth of it.)
//
// The cost is that of the cheapest slice of the flood. What other programs take of the core is not counted, but they
// leave its caches cold; a slice or two they leave alone.
func (p *path) flood(o load, to []netip.Addr) (packets, error) {
	in, err := p.receiver.socket(unix.SOCK_DGRAM, netip.AddrPortFrom(netip.IPv6Unspecified(), udpPort))
	if err != nil {
		return packets{}, err
	}
	defer unix.Close(in)
	if err := unix.SetsockoptInt(in, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil { // the least that there is
		return packets{}, err
	}
	out, err := p.sender.socket(unix.SOCK_DGRAM, netip.AddrPortFrom(p.sender.Addr(), 0))
	if err != nil {
		return packets{}, err
	}
	defer unix.Close(out)
	messages, err := newMessages(out, to)
	if err != nil {
		return packets{}, err
	}
	counters, err := p.receiver.counters()
	if err != nil {
		return packets{}, err
	}
	defer counters.Close()
	first, err := received(counters)
	if err != nil {
		return packets{}, err
	}
	result := packets{cost: math.Inf(1)}
	err = o.pinned(func() error {
		for began, before := time.Now(), first; time.Since(began) < o.duration; {
			start := cpuTime()
			for began := time.Now(); time.Since(began) < slice; {
				n, err := messages.send(out)
				if err != nil {
					return err
				}
				result.sent += n
			}
			busy := cpuTime() - start
			after, err := received(counters)
			if err != nil {
				return err
			}
			if after > before {
				result.cost = min(result.cost, float64(busy.Nanoseconds())/float64(after-before))
			}
			before = after
		}
		return nil
	})
	if err != nil {
		return packets{}, fmt.Errorf("send from %s: %w", p.sender.name, err)
	}
	if err := drain(in); err != nil {
		return packets{}, err
	}
	last, err := received(counters)
	result.received = last - first
	return result, err
}

// messages are a batch of datagrams for sendmmsg(2). The one batch is sent again and again, with the next addresses in
// it: what the sender itself touches shall be small, and leave the caches to what is measured.
type messages struct {
	headers [batch]mmsghdr
	names   [batch]unix.RawSockaddrInet6 // where there is more than one address
	vector  unix.Iovec
	payload [udpPayload]byte
	to      []netip.Addr
	next    int // in to
}

// mmsghdr is struct mmsghdr.
type mmsghdr struct {
	header unix.Msghdr
	length uint32
}

// newMessages makes datagrams. If they all go to one address the socket is connected to it.
func newMessages(socket int, to []netip.Addr) (*messages, error) {
	m := &messages{to: to}
	m.vector.Base = &m.payload[0]
	m.vector.SetLen(udpPayload)
	for i := range m.headers {
		h := &m.headers[i].header
		h.Iov = &m.vector
		h.SetIovlen(1)
		if len(to) > 1 {
			m.names[i] = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: networkOrder(udpPort)}
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&m.names[i])), unix.SizeofSockaddrInet6
		}
	}
	if len(to) > 1 {
		return m, nil
	}
	return m, unix.Connect(socket, &unix.SockaddrInet6{Addr: to[0].As16(), Port: udpPort})
}

func networkOrder(port uint16) uint16 { return port<<8 | port>>8 }

// send sends a batch, and returns how many of it the kernel took.
func (m *messages) send(socket int) (int, error) {
	for i := 0; i < batch && len(m.to) > 1; i++ {
		m.names[i].Addr = m.to[m.next].As16()
		m.next = (m.next + 1) % len(m.to)
	}
	n, err := again(func() (int, error) {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(socket), uintptr(unsafe.Pointer(&m.headers[0])), batch, 0, 0, 0)
		if errno != 0 {
			return 0, errno
		}
		return int(n), nil
	})
	runtime.KeepAlive(m)
	return n, os.NewSyscallError("sendmmsg", err)
}

// counters opens what the kernel counts in the namespace. Whoever reads it need not be there.
func (s *space) counters() (f *os.File, err error) {
	err = s.do("count datagrams", func() error {
		f, err = os.Open("/proc/thread-self/net/snmp6")
		return err
	})
	return f, err
}

// received is the number of datagrams that have come to sockets of the counters' namespace so far, whether read or not.
// Of those that lie unread in a socket it knows only after they are read.
func received(counters *os.File) (int, error) {
	text, err := io.ReadAll(io.NewSectionReader(counters, 0, 1<<20))
	if err != nil {
		return 0, fmt.Errorf("count datagrams: %w", err)
	}
	sum, found := 0, 0
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) != 2 || words[0] != "Udp6InDatagrams" && words[0] != "Udp6RcvbufErrors" {
			continue
		}
		n, err := strconv.Atoi(words[1])
		if err != nil {
			return 0, err
		}
		sum += n
		found++
	}
	if found != 2 {
		return 0, errors.New("the kernel's snmp6 has no Udp6InDatagrams and Udp6RcvbufErrors")
	}
	return sum, nil
}

// drain reads what lies in a socket.
func drain(socket int) error {
	for b := make([]byte, 2*udpPayload); ; {
		_, err := again(func() (n int, err error) {
			n, _, err = unix.Recvfrom(socket, b, unix.MSG_DONTWAIT)
			return n, err
		})
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
	}
}
