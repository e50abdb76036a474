package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tcpPort = 9354
	chunk   = 128 << 10 // bytes of one write to a stream

	// A path that stops carrying is an error after this long, not a bench that never ends.
	stall = 5 * time.Second
)

// latency is of a request of one byte and its answer of one.
type latency struct{ P50, P99 time.Duration }

// stream sends on one connection as fast as one core goes that sends and receives, and returns how many bits per second
// of that core the receiver read.
func (p *path) stream(o load) (bitsPerSecond float64, err error) {
	c, err := p.connect()
	if err != nil {
		return 0, err
	}
	defer c.close()
	var received int
	var busy time.Duration
	err = o.pinned(func() error {
		data := make([]byte, chunk)
		began, last, start := time.Now(), time.Now(), cpuTime()
		for now := began; now.Sub(began) < o.duration; now = time.Now() {
			// part of it, or nothing, where the receiver has not read enough
			_, err := again(func() (int, error) { return unix.SendmsgN(c.sender, data, nil, nil, unix.MSG_DONTWAIT) })
			if err != nil && err != unix.EAGAIN {
				return os.NewSyscallError("sendmsg", err)
			}
			n, err := again(func() (n int, err error) {
				n, _, err = unix.Recvfrom(c.receiver, data, unix.MSG_DONTWAIT)
				return n, err
			})
			if err != nil && err != unix.EAGAIN {
				return os.NewSyscallError("recvfrom", err)
			}
			if n > 0 {
				received += n
				last = now
			} else if now.Sub(last) > stall {
				return fmt.Errorf("nothing arrived for %v", stall)
			}
		}
		busy = cpuTime() - start
		return nil
	})
	return float64(received) * 8 / busy.Seconds(), err
}

// ask sends requests on one connection, each after the answer to the last, and returns how long they took.
//
// One thread asks and answers. Between two, most of the time would go by with one core waking up the other, which is
// the same for all ways but for its noise: here it is only what the path takes.
func (p *path) ask(o load) (latency, error) {
	c, err := p.connect()
	if err != nil {
		return latency{}, err
	}
	defer c.close()
	var took []time.Duration
	err = o.pinned(func() error {
		b := make([]byte, 1)
		for begin := time.Now(); ; {
			start := time.Now()
			if start.Sub(begin) >= o.duration {
				return nil
			}
			for _, step := range []struct {
				call   func(int, []byte) (int, error)
				socket int
			}{{unix.Write, c.sender}, {unix.Read, c.receiver}, {unix.Write, c.receiver}, {unix.Read, c.sender}} {
				n, err := again(func() (int, error) { return step.call(step.socket, b) })
				if err != nil {
					return fmt.Errorf("request or answer: %w", err)
				}
				if n != 1 {
					return fmt.Errorf("request or answer: %d bytes, want 1", n)
				}
			}
			took = append(took, time.Since(start))
		}
	})
	if err != nil {
		return latency{}, err
	}
	if len(took) == 0 {
		return latency{}, errors.New("no request was answered")
	}
	slices.Sort(took)
	return latency{P50: took[len(took)/2], P99: took[len(took)*99/100]}, nil
}

// connection is both ends of one.
type connection struct{ sender, receiver int }

func (c connection) close() { unix.Close(c.sender); unix.Close(c.receiver) }

// connect makes a connection from the sender to the receiver.
func (p *path) connect() (c connection, err error) {
	listener, err := p.receiver.socket(unix.SOCK_STREAM, netip.AddrPortFrom(p.receiver.Addr(), tcpPort))
	if err != nil {
		return c, err
	}
	defer unix.Close(listener)
	if err := unix.Listen(listener, 1); err != nil {
		return c, os.NewSyscallError("listen", err)
	}
	if c.sender, err = p.sender.socket(unix.SOCK_STREAM, netip.AddrPortFrom(p.sender.Addr(), 0)); err != nil {
		return c, err
	}
	timeout := unix.NsecToTimeval(stall.Nanoseconds())
	for _, socket := range []int{listener, c.sender} { // what is accepted inherits them
		err = errors.Join(err,
			unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
			unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		)
	}
	if err == nil {
		_, err = again(func() (struct{}, error) {
			return struct{}{}, unix.Connect(c.sender, &unix.SockaddrInet6{Addr: p.receiver.Addr().As16(), Port: tcpPort})
		})
	}
	if err == nil {
		c.receiver, err = again(func() (socket int, err error) {
			socket, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
			return socket, err
		})
	}
	if err != nil {
		return c, errors.Join(fmt.Errorf("connect %s to %s: %w", p.sender.Stable, p.receiver.Stable, err), unix.Close(c.sender))
	}
	return c, nil
}
