package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// load says how long to load a path, and from which core.
type load struct {
	duration time.Duration
	cpu      int
}

// niceness is that of the threads that are measured: what else the computer does shall wait.
const niceness = -20

// pinned runs f on a thread of its own on that core. The thread ends with it.
func (o load) pinned(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: nothing else shall inherit its settings
		var set unix.CPUSet
		set.Set(o.cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			done <- fmt.Errorf("run on CPU %d: %w", o.cpu, err)
			return
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness); err != nil {
			done <- fmt.Errorf("raise priority: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// socket makes a socket in the namespace. Whoever uses it later need not be there.
func (s *space) socket(kind int, local netip.AddrPort) (socket int, err error) {
	err = s.do("open a socket", func() error {
		socket, err = unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if kind == unix.SOCK_STREAM { // the port's last connection may still be waiting for late packets
			if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				return errors.Join(os.NewSyscallError("setsockopt", err), unix.Close(socket))
			}
		}
		err = unix.Bind(socket, &unix.SockaddrInet6{Addr: local.Addr().As16(), Port: int(local.Port())})
		if err != nil {
			return errors.Join(fmt.Errorf("bind to %s: %w", local, err), unix.Close(socket))
		}
		return nil
	})
	return socket, err
}

// cpuTime is how long the calling thread has had a CPU, with the kernel's work that was done on its time. Unlike a clock
// on the wall it does not count what other programs took.
func cpuTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // only for a clock that does not exist
	}
	return time.Duration(t.Nano())
}

// again repeats a system call that a signal interrupted. The runtime sends signals to its own threads, and calls on a
// socket with a timeout are not taken up again by the kernel (signal(7)).
func again[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err != unix.EINTR {
			return v, err
		}
	}
}
