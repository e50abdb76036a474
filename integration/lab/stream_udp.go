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
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// UDPStream sends numbered packets from one machine to another at a steady pace, and takes note of those that come. Its
// sockets stay the same all the time.
type UDPStream struct {
	From, To *Machine

	id     uint64
	rate   int
	start  time.Time
	from   *net.UDPConn
	to     *net.UDPConn
	target netip.AddrPort

	stopSending context.CancelFunc
	sending     sync.WaitGroup
	receiving   sync.WaitGroup
	sent        atomic.Uint64
	received    atomic.Uint64 // unique ones

	longestPause time.Duration // between two bursts; read when sending has ended

	mu         sync.Mutex // guards what follows
	sendErr    error      // the first
	receiveErr error
	foreign    uint64 // packets that are not of this stream, or not as they were sent
	arrivals   arrivals
}

// UDPResult is how a UDP stream went.
type UDPResult struct {
	From, To   string
	Sent       uint64
	Lost       uint64
	Duplicated uint64
	Reordered  uint64 // came after a packet that was sent later
	Foreign    uint64 // came to the stream's socket and were not of the stream, or not as they were sent

	Missing    []uint64      // sequence numbers of the first few that were lost
	SendError  error         // the first error of sending, if any: such a packet counts as lost
	Rate       float64       // packets/s, sent
	LongestGap time.Duration // between two packets that came
	OwnGap     time.Duration // between two bursts that were sent: what of LongestGap is the sender's own
	Start      time.Time
	Timeline   []uint32 // packets that came in each 100 ms since Start
}

const (
	// receiveBuffer holds seconds of a stream, in bytes, so that a reader that does not get the CPU loses nothing.
	receiveBuffer = 64 << 20

	// Sending catches up after a pause, but not at once: each CPU's backlog takes 1000 packets (net.core.netdev_max_backlog),
	// and drops what is more.
	sendEvery = time.Millisecond
	sendMost  = 100
)

// StartUDP starts a stream of rate packets per second.
func StartUDP(from, to *Machine, rate int) (_ *UDPStream, err error) {
	s := &UDPStream{From: from, To: to, id: rand.Uint64(), rate: rate}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start UDP stream from %s to %s: %w", from.Name, to.Name, err), s.closeSockets())
		}
	}()
	if s.to, err = listenUDP(to, to.Stable.Addr()); err != nil {
		return nil, err
	}
	if err := control(s.to, func(fd int) error {
		// Above what net.core.rmem_max allows, which is not ours to raise.
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1))
	}); err != nil {
		return nil, err
	}
	if s.from, err = listenUDP(from, from.Stable.Addr()); err != nil {
		return nil, err
	}
	s.target = s.to.LocalAddr().(*net.UDPAddr).AddrPort()

	ctx, stop := context.WithCancel(context.Background())
	s.stopSending = stop
	s.start = time.Now()
	s.receiving.Go(s.receive)
	s.sending.Go(func() { s.send(ctx) })
	return s, nil
}

// listenUDP opens a UDP socket in the machine's namespace.
func listenUDP(m *Machine, at netip.Addr) (c *net.UDPConn, err error) {
	err = m.Do(func() error {
		c, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
		return err
	})
	return c, err
}

func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) { inner = f(int(fd)) })
	return errors.Join(err, inner)
}

func (s *UDPStream) send(ctx context.Context) {
	preferThread()
	packet := make([]byte, packetSize)
	last := s.start
	for sequence := uint64(0); ctx.Err() == nil; {
		nap(sendEvery)
		now := time.Now()
		due := uint64(now.Sub(s.start).Seconds() * float64(s.rate))
		if sequence < due {
			s.longestPause = max(s.longestPause, now.Sub(last))
			last = now
		}
		for burst := 0; sequence < due && burst < sendMost; burst++ {
			writePacket(packet, s.id, sequence)
			if _, err := s.from.WriteToUDPAddrPort(packet, s.target); err != nil {
				s.mu.Lock()
				if s.sendErr == nil {
					s.sendErr = err
				}
				s.mu.Unlock()
			}
			sequence++
			s.sent.Store(sequence)
		}
	}
}

// preferThread gives the goroutine a thread of its own that gets the CPU before others, as long as it lives: on a busy
// computer, a gap should be the network's and not the sender's. That it may not is no harm.
func preferThread() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
}

// nap sleeps on the thread, without Go's timers: those wait for a thread of ordinary priority.
func nap(d time.Duration) {
	t := unix.NsecToTimespec(d.Nanoseconds())
	_ = unix.Nanosleep(&t, nil) // to be woken early is no harm
}

func (s *UDPStream) receive() {
	packet, extra := make([]byte, packetSize+1), make([]byte, 128)
	for {
		n, extraLen, _, _, err := s.to.ReadMsgUDPAddrPort(packet, extra)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return // Stop
		}
		s.mu.Lock()
		if err != nil {
			s.receiveErr = err
			s.mu.Unlock()
			return
		}
		sequence, ok := readPacket(packet[:n], s.id)
		switch {
		case !ok || sequence > s.sent.Load(): // the one that is being sent is not counted yet
			s.foreign++
		default:
			s.arrivals.add(sequence, s.start, arrivalTime(extra[:extraLen]))
			s.received.Store(s.arrivals.unique)
		}
		s.mu.Unlock()
	}
}

// arrivalTime is when the kernel took the packet, from what came with it; else now.
func arrivalTime(extra []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(extra)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if t, ok := timestamp(m); ok {
			return t
		}
	}
	return time.Now()
}

// Received is how many packets have come, each counted once.
func (s *UDPStream) Received() uint64 { return s.received.Load() }

// WaitReceived waits until so many more packets have come than now.
func (s *UDPStream) WaitReceived(ctx context.Context, more uint64) error {
	want := s.Received() + more
	for s.Received() < want {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d packets from %s to %s: %w: %d are missing", more, s.From.Name, s.To.Name, context.Cause(ctx), want-s.Received())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// drainTimeout is how long after the last packet that came the next one is waited for, at the end of a stream.
const drainTimeout = 2 * time.Second

// Stop stops sending, waits for what is under way, and tells how it went.
func (s *UDPStream) Stop() (UDPResult, error) {
	s.stopSending()
	s.sending.Wait()
	end := time.Now()
	sent := s.sent.Load()
	for last, since := s.Received(), time.Now(); last < sent && time.Since(since) < drainTimeout; {
		time.Sleep(time.Millisecond)
		if now := s.Received(); now != last {
			last, since = now, time.Now()
		}
	}
	err := s.to.SetReadDeadline(time.Now())
	s.receiving.Wait()
	err = errors.Join(err, s.closeSockets())

	a := &s.arrivals
	r := UDPResult{
		From: s.From.Name, To: s.To.Name,
		Sent:       sent,
		Duplicated: a.duplicated,
		Reordered:  a.reordered,
		Foreign:    s.foreign,
		SendError:  s.sendErr,
		Rate:       float64(sent) / end.Sub(s.start).Seconds(),
		LongestGap: a.longestGap,
		OwnGap:     s.longestPause,
		Start:      s.start,
		Timeline:   a.timeline,
	}
	r.Lost, r.Missing = a.missing(sent, 10)
	return r, errors.Join(err, s.receiveErr)
}

func (s *UDPStream) closeSockets() error {
	var errs []error
	for _, c := range []*net.UDPConn{s.from, s.to} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// timestamp reads an SCM_TIMESTAMPNS message: a timespec of CLOCK_REALTIME.
func timestamp(m unix.SocketControlMessage) (time.Time, bool) {
	if m.Header.Level != unix.SOL_SOCKET || m.Header.Type != unix.SCM_TIMESTAMPNS || len(m.Data) < 16 {
		return time.Time{}, false
	}
	return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:]))), true
}
