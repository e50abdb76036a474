package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// TCPStream is one TCP connection between two machines, with bytes that follow from a seed going both ways at a steady
// pace. Each end compares every byte that comes with the one that was sent.
type TCPStream struct {
	From, To *Machine

	ends        [2]*tcpEnd // From's and To's
	stopSending context.CancelFunc
	sending     sync.WaitGroup
	receiving   sync.WaitGroup
}

// tcpEnd is one end of the connection: it sends what follows from seed, and the other end compares.
type tcpEnd struct {
	conn     *net.TCPConn
	rate     int // bytes/s
	seed     [32]byte
	sent     uint64
	sendErr  error
	received atomic.Uint64 // bytes that were as sent
	readErr  error         // nil: all came, and then the end
}

// TCPOptions are the pace of each direction, in bytes per second.
type TCPOptions struct{ Forth, Back int }

// TCPResult is how a TCP stream went.
type TCPResult struct {
	From, To    string
	Bytes       uint64 // that came as they were sent, both ways
	Broken      error  // nil: every byte came, once and in order, and the connection ended in peace
	Retransmits uint32 // segments that TCP sent again, both ways
	Needless    uint32 // of these, that had come the first time (RFC 2883): TCP guesses early when a CPU is busy
}

// chunk is what is sent in one piece, in bytes at most. A burst must fit each CPU's backlog; see sendMost.
const chunk = 64 << 10

// StartTCP opens a connection from one machine to the other and starts sending both ways.
func StartTCP(ctx context.Context, from, to *Machine, o TCPOptions) (_ *TCPStream, err error) {
	s := &TCPStream{From: from, To: to}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start TCP stream from %s to %s: %w", from.Name, to.Name, err), s.closeConns())
		}
	}()
	var listener *net.TCPListener
	if err := to.Do(func() error {
		listener, err = net.ListenTCP("tcp6", net.TCPAddrFromAddrPort(netip.AddrPortFrom(to.Stable.Addr(), 0)))
		return err
	}); err != nil {
		return nil, err
	}
	defer listener.Close()
	for i, rate := range []int{o.Forth, o.Back} {
		s.ends[i] = &tcpEnd{rate: rate}
		for at := range s.ends[i].seed {
			s.ends[i].seed[at] = byte(rand.Uint32())
		}
	}
	if s.ends[0].conn, err = dialTCP(ctx, from, listener.Addr().String()); err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		if err := listener.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if s.ends[1].conn, err = listener.AcceptTCP(); err != nil {
		return nil, err
	}
	var sendCtx context.Context
	sendCtx, s.stopSending = context.WithCancel(context.Background())
	for i, end := range s.ends {
		other := s.ends[1-i]
		s.sending.Go(func() { end.send(sendCtx) })
		s.receiving.Go(func() { end.receive(other.seed) })
	}
	return s, nil
}

func dialTCP(ctx context.Context, from *Machine, to string) (c *net.TCPConn, err error) {
	err = from.Do(func() error {
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from.Stable.Addr(), 0))}
		conn, err := d.DialContext(ctx, "tcp6", to)
		if err == nil {
			c = conn.(*net.TCPConn)
		}
		return err
	})
	return c, err
}

// sendEveryTCP is short, so that bursts are.
const sendEveryTCP = 5 * time.Millisecond

func (e *tcpEnd) send(ctx context.Context) {
	tick := time.NewTicker(sendEveryTCP)
	defer tick.Stop()
	source := rand.NewChaCha8(e.seed)
	buffer := make([]byte, chunk)
	for start := time.Now(); ; {
		select {
		case <-ctx.Done():
			e.sendErr = errors.Join(e.sendErr, e.conn.CloseWrite())
			return
		case <-tick.C:
		}
		due := uint64(time.Since(start).Seconds() * float64(e.rate))
		piece := buffer[:min(chunk, due-e.sent)]
		source.Read(piece) // never fails
		n, err := e.conn.Write(piece)
		e.sent += uint64(n)
		if err != nil {
			e.sendErr = err
			return
		}
	}
}

func (e *tcpEnd) receive(seed [32]byte) {
	source := rand.NewChaCha8(seed)
	got, want := make([]byte, chunk), make([]byte, chunk)
	for {
		n, err := e.conn.Read(got)
		source.Read(want[:n]) // never fails
		if !bytes.Equal(got[:n], want[:n]) {
			same := 0
			for got[same] == want[same] {
				same++
			}
			e.readErr = fmt.Errorf("byte %d is %#02x, was sent as %#02x", e.received.Load()+uint64(same), got[same], want[same])
			return
		}
		e.received.Add(uint64(n))
		if err != nil {
			if !errors.Is(err, io.EOF) {
				e.readErr = err
			}
			return
		}
	}
}

// Received is how many bytes have come as they were sent, both ways.
func (s *TCPStream) Received() uint64 { return s.ends[0].received.Load() + s.ends[1].received.Load() }

// WaitReceived waits until so many more bytes have come than now.
func (s *TCPStream) WaitReceived(ctx context.Context, more uint64) error {
	want := s.Received() + more
	for s.Received() < want {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d bytes between %s and %s: %w: %d are missing", more, s.From.Name, s.To.Name, context.Cause(ctx), want-s.Received())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// endTimeout is how long the rest of a TCP stream may take: TCP waits long before it sends again what was lost.
const endTimeout = 10 * time.Second

// Stop stops sending, waits until all has come, and tells how it went.
func (s *TCPStream) Stop() TCPResult {
	s.stopSending()
	deadline := time.Now().Add(endTimeout)
	var errs []error
	for _, e := range s.ends {
		errs = append(errs, e.conn.SetDeadline(deadline))
	}
	s.sending.Wait()
	s.receiving.Wait()

	r := TCPResult{From: s.From.Name, To: s.To.Name, Bytes: s.Received()}
	names := []string{s.From.Name, s.To.Name}
	for i, e := range s.ends {
		other := s.ends[1-i]
		if e.sendErr != nil {
			errs = append(errs, fmt.Errorf("%s could not send on: %w", names[i], e.sendErr))
		}
		if other.readErr != nil {
			errs = append(errs, fmt.Errorf("%s could not receive on: %w", names[1-i], other.readErr))
		}
		if got := other.received.Load(); got != e.sent {
			errs = append(errs, fmt.Errorf("%s sent %d bytes, of which %s got %d", names[i], e.sent, names[1-i], got))
		}
		again, needless, err := e.retransmits()
		r.Retransmits += again
		r.Needless += needless
		errs = append(errs, err)
	}
	r.Broken = errors.Join(append(errs, s.closeConns())...)
	return r
}

func (e *tcpEnd) retransmits() (again, needless uint32, err error) {
	err = control(e.conn, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil {
			again, needless = info.Total_retrans, info.Dsack_dups
		}
		return err
	})
	return again, needless, err
}

func (s *TCPStream) closeConns() error {
	var errs []error
	for _, e := range s.ends {
		if e != nil && e.conn != nil {
			errs = append(errs, e.conn.Close())
		}
	}
	return errors.Join(errs...)
}
