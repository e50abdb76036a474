package nat

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// capture is what comes in on a device, to whomever. Nothing that the device sends is in it.
type capture struct {
	t    testing.TB
	what string
	fd   int
}

// largest is room for a frame of any size: that of a jumbogram, as the kernel makes them.
const largest = 1 << 18

// capture starts to look at what comes in.
func (d device) capture() *capture {
	d.t.Helper()
	const every = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network byte order
	c := &capture{t: d.t, what: d.String()}
	d.do(func() (err error) {
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptInt(c.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: every, Ifindex: d.index}),
		)
	})
	d.t.Cleanup(func() { unix.Close(c.fd) })
	return c
}

// next returns the next frame, or nil.
func (c *capture) next() []byte {
	frame := make([]byte, largest)
	n, err := unix.Read(c.fd, frame)
	if err != nil {
		return nil
	}
	return bytes.Clone(frame[:n])
}

// await waits for a frame. Those before it are not looked at again.
func (c *capture) await(what string, is func([]byte) bool) []byte {
	c.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		unix.Poll([]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}, 100)
		for frame := c.next(); frame != nil; frame = c.next() {
			if is(frame) {
				return frame
			}
		}
	}
	c.t.Helper()
	c.t.Fatalf("%s: no %s came in within %v", c.what, what, patience)
	return nil
}

// has tells whether one of the frames up to now is such a one, and returns it.
func (c *capture) has(is func([]byte) bool) []byte {
	for frame := c.next(); frame != nil; frame = c.next() {
		if is(frame) {
			return frame
		}
	}
	return nil
}

// mark is in the flow label and so in the first four bytes of each packet that a test wants to tell from all others.
// No checksum covers it, and nothing on the way changes it.
var mark = []byte{0x60, 0x06, 0xd1, 0x5e}

// marked gives an IPv6 packet in a frame the mark.
func (f frame) marked() frame {
	before := f.edit
	return f.edited(func(b []byte) []byte {
		copy(b[etherLength+1:], mark[1:])
		if before != nil {
			b = before(b)
		}
		return b
	})
}

// isMarked also finds it in what embeds such a packet, and in one behind other headers.
func isMarked(frame []byte) bool { return bytes.Contains(frame, mark) }
