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
	t      testing.TB
	what   string
	fd     int
	buffer []byte
}

// capture starts to look at what comes in.
func (d device) capture() *capture {
	d.t.Helper()
	const every = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL&0xff<<8 // in network byte order
	c := &capture{t: d.t, what: d.String(), buffer: make([]byte, 1<<16)}
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
	n, err := unix.Read(c.fd, c.buffer)
	if err != nil {
		return nil
	}
	return bytes.Clone(c.buffer[:n])
}

// ofMoreThan leaves only the beginning of frames of more bytes than that.
func (c *capture) ofMoreThan(length int) *capture {
	c.t.Helper()
	const beginning = 64
	filter := []unix.SockFilter{ // in classic BPF
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, Jf: 1, K: uint32(length)},
		{Code: unix.BPF_RET | unix.BPF_K, K: beginning},
		{Code: unix.BPF_RET | unix.BPF_K},
	}
	ok(c.t, unix.SetsockoptSockFprog(c.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}))
	return c
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

// mark is the flow label of each packet that a test wants to tell from all others. No checksum covers it, and nothing on
// the way changes it.
var mark = []byte{0x06, 0xd1, 0x5e} // four bits of it are not the flow label's

// marked gives the packet in a frame the mark.
func (f frame) marked() frame {
	before := f.edit
	return f.edited(func(b []byte) []byte {
		copy(b[etherLength+1:], mark)
		if before != nil {
			b = before(b)
		}
		return b
	})
}

// isMarked also finds the mark in what embeds such a packet, and in a packet behind other headers.
func isMarked(frame []byte) bool {
	for i := etherLength; i+len(mark) < len(frame); i++ {
		if frame[i]>>4 == 6 && frame[i+1]&0xf == mark[0] && bytes.Equal(frame[i+2:i+4], mark[1:]) {
			return true
		}
	}
	return false
}
