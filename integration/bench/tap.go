package main

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tap sees the packets on a host's underlay.
//
// It is a ring, into which the kernel copies packets as they pass (packet(7)). A plain packet socket shares the packet
// with what comes later on its way, and what rewrites headers there without making a copy, as NPT does, would show.
type tap struct {
	socket int
	ring   []byte
}

// The ring.
const (
	tapFrame  = 2048
	tapFrames = 128
)

func newTap(at *host) (t *tap, err error) {
	underlay, err := at.device("underlay")
	if err != nil {
		return nil, err
	}
	t = &tap{socket: -1}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("watch the underlay: %w", err), t.close())
		}
	}()
	err = at.do("open a packet socket", func() error {
		t.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return nil, err
	}
	const size = tapFrame * tapFrames
	ring := unix.TpacketReq{Block_size: size, Block_nr: 1, Frame_size: tapFrame, Frame_nr: tapFrames}
	if err := unix.SetsockoptTpacketReq(t.socket, unix.SOL_PACKET, unix.PACKET_RX_RING, &ring); err != nil {
		return nil, err
	}
	if t.ring, err = unix.Mmap(t.socket, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	// only a socket for every protocol also sees what leaves
	return t, unix.Bind(t.socket, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: underlay.Index})
}

// packets returns what has passed so far, without the link's header. They are valid until close.
func (t *tap) packets() (all [][]byte) {
	for at := 0; at < len(t.ring); at += tapFrame {
		frame := t.ring[at : at+tapFrame]
		header := (*unix.TpacketHdr)(unsafe.Pointer(&frame[0]))
		if header.Status&unix.TP_STATUS_USER == 0 {
			break
		}
		begin, end := int(header.Net), int(header.Mac)+int(header.Snaplen)
		all = append(all, frame[begin:max(begin, end)])
	}
	return all
}

func (t *tap) close() error {
	var errs []error
	if t.ring != nil {
		errs = append(errs, unix.Munmap(t.ring))
	}
	if t.socket >= 0 {
		errs = append(errs, unix.Close(t.socket))
	}
	return errors.Join(errs...)
}
