package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/ipc"
	"golang.zx2c4.com/wireguard/tun"
)

// ServeWireGuard is WireGuard for a kernel that has none: it makes the TUN device of that name and carries its packets,
// until the device is deleted or ctx ends; then the device is gone. It is configured as wg(8) does it, through
// /var/run/wireguard/NAME.sock, which all network namespaces of a computer share. When the device and that socket are
// there it writes a line to ready.
func ServeWireGuard(ctx context.Context, name string, ready io.Writer, log *slog.Logger) (err error) {
	if err := checkDeviceName("device", name); err != nil {
		return err
	}
	// The socket comes first: whoever has it is the one that this name means, also where another namespace has a device of
	// the same name.
	file, err := openSocket(ctx, name)
	if err != nil {
		return fmt.Errorf("offer configuration of %s, a name that another network namespace may have: %w", name, err)
	}
	defer file.Close()
	socket, err := ipc.UAPIListen(name, file)
	if err != nil {
		return fmt.Errorf("offer configuration of %s: %w", name, err)
	}
	defer socket.Close()
	packets, err := makeTUN(name)
	if err != nil {
		return err
	}
	d := device.NewDevice(packets, conn.NewDefaultBind(), &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, args ...any) { log.Warn("WireGuard: "+fmt.Sprintf(format, args...), "device", name) },
	})
	defer d.Close()
	if err := d.Up(); err != nil {
		return fmt.Errorf("start WireGuard: %w", err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			c, err := socket.Accept()
			if err != nil {
				ended <- fmt.Errorf("offer configuration of %s: %w", name, err)
				return
			}
			go d.IpcHandle(c)
		}
	}()
	if _, err := fmt.Fprintln(ready, readyLine); err != nil {
		return fmt.Errorf("tell that %s is ready: %w", name, err)
	}
	select {
	case <-ctx.Done():
		return nil
	case <-d.Wait(): // the device was deleted
		return nil
	case err := <-ended: // somebody removed the socket, without which it cannot be configured any more
		return err
	}
}

const readyLine = "ready"

// endTimeout is how long a WireGuard process may take to end after its device was deleted.
const endTimeout = 3 * time.Second

// openSocket waits for the process that had this name before, if it is about to end.
func openSocket(ctx context.Context, name string) (*os.File, error) {
	for end := time.Now().Add(endTimeout); ; {
		file, err := ipc.UAPIOpen(name)
		if err == nil || time.Now().After(end) {
			return file, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// waitEnd waits until the process of a device that was deleted has let go of its socket, and so of its UDP port too.
func waitEnd(name string) error {
	path := socketPath(name)
	for end := time.Now().Add(endTimeout); ; {
		_, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && time.Now().After(end) {
			err = fmt.Errorf("the WireGuard process of %s has not ended after %v: %s is still there", name, endTimeout, path)
		}
		if err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// answerTimeout is how long a WireGuard process may take to say the first of what it is set to.
const answerTimeout = 5 * time.Second

// checkAnswers refuses a WireGuard process that does not answer: who configures it would wait for it without end, and all
// that waits for the agent with him.
func checkAnswers(name string) error {
	c, err := net.Dial("unix", socketPath(name))
	if err != nil {
		return fmt.Errorf("configure the WireGuard process of %s: %w", name, err)
	}
	defer c.Close()
	err = c.SetDeadline(time.Now().Add(answerTimeout))
	if err == nil {
		_, err = io.WriteString(c, "get=1\n\n")
	}
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: the WireGuard process of %s does not answer within %v; kill -9 %d, and another one is started", ErrNoUnderlay, name, answerTimeout, listenerOf(c))
	}
	if err != nil {
		return fmt.Errorf("configure the WireGuard process of %s: %w", name, err)
	}
	return nil
}

// listenerOf is the id of the process at the other end of a unix socket, 0 when it cannot be known.
func listenerOf(c net.Conn) int {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(peer.Pid)
		}
	})
	return pid
}

func socketPath(name string) string { return "/var/run/wireguard/" + name + ".sock" }

// queueLength is how many packets may wait for the process, which may itself wait for a CPU: as many as on Ethernet, and twice
// a TUN's default. More would only make TCP wait longer.
const queueLength = 1000

// makeTUN makes the device, labelled as ip6d's. wireguard-go's own way would follow every change of any device of the
// namespace, and end when those come too fast for it.
func makeTUN(name string) (tun.Device, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun, which WireGuard needs where the kernel has none: %w", err)
	}
	fail := func(err error) (tun.Device, error) {
		return nil, fmt.Errorf("make device %s: %w", name, errors.Join(err, unix.Close(fd)))
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return fail(err)
	}
	// With the virtio header, packets come and go in batches (TSO and GRO).
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fail(err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		return fail(err)
	}
	if err := netlink.LinkSetMTU(l, DefaultWireGuardMTU); err != nil {
		return fail(err)
	}
	if err := netlink.LinkSetTxQLen(l, queueLength); err != nil {
		return fail(err)
	}
	if err := netlink.LinkSetAlias(l, underlayLabel); err != nil {
		return fail(err)
	}
	d, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return fail(err)
	}
	return d, nil
}

// startTimeout is how long a WireGuard process may take to make its device.
const startTimeout = 10 * time.Second

// startUserspace starts the process that is WireGuard, and waits until its device is there. The process has a session of
// its own and lives on when this one ends: packets flow through it.
func (a *Agent) startUserspace() error {
	cmd := a.WireGuard.Userspace(a.Underlay)
	answer, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer answer.Close()
	cmd.Stdout = theirs
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	cmd.Dir = "/"
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	err = a.ns.Start(cmd)
	theirs.Close()
	if err != nil {
		return fmt.Errorf("start WireGuard: %w", err)
	}
	a.Logger.Info("this kernel has no WireGuard; a process is it", "device", a.Underlay, "pid", cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // so that no zombie is left; that it ended is seen from its device
	if err := answer.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	line, err := bufio.NewReader(answer).ReadString('\n')
	if line == readyLine+"\n" {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the WireGuard process of %s ended before it was ready; it says why in this log", ErrNoUnderlay, a.Underlay)
	}
	return errors.Join(fmt.Errorf("%w: the WireGuard process of %s is not ready after %v: %v", ErrNoUnderlay, a.Underlay, startTimeout, err), cmd.Process.Kill())
}
