package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"ip6d/certificate"
	"ip6d/config"
)

// socketMode lets the owner and the group of the socket do everything, and nobody else anything.
const socketMode = 0o660

// socketGroup is the group of the socket, where the system has one of that name: who is in it can do everything.
const socketGroup = "ip6d"

// groupID returns the id of a group of the system. There may be none of that name, which is no error.
func groupID(name string) (gid int, found bool, err error) {
	g, err := user.LookupGroup(name)
	if _, unknown := errors.AsType[user.UnknownGroupError](err); unknown {
		return 0, false, nil
	}
	if err == nil {
		gid, err = strconv.Atoi(g.Gid)
	}
	return gid, err == nil, err
}

// checkSocket returns an error when the API cannot be offered at path: a daemon answers there, or it is no socket. What a
// dead daemon left is no hindrance.
func checkSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("socket %s: there is a file of that name, which is no socket; move it away, or choose another path", path)
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		err = fmt.Errorf("socket %s: a daemon answers there already; stop it first", path)
		return errors.Join(err, conn.Close())
	}
	return nil
}

// lockNamespace makes this daemon the only one of its network namespace, for as long as it lives: two would undo each other's
// devices and routes. The lock is a socket of the abstract kind, which belongs to the namespace and goes with the process.
func (d *daemon) lockNamespace() error {
	l, err := net.Listen("unix", "@ip6d")
	if errors.Is(err, unix.EADDRINUSE) {
		return errors.New("another ip6d serves this network namespace; stop it first, or start this one in a namespace of its own")
	}
	if err != nil {
		return fmt.Errorf("lock the network namespace: %w", err)
	}
	d.opened(l.Close)
	return nil
}

// listenAPI listens at path. The socket gets its name only when it has its mode, so that nobody can come in too early,
// and takes the place of a dead daemon's in one step. Where it cannot be given to the group, it is the owner's alone.
func listenAPI(path, group string, log *slog.Logger) (net.Listener, error) {
	if err := checkSocket(path); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make directory of socket: %w", err)
	}
	unborn := path + ".new"
	if err := os.Remove(unborn); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: unborn, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // it would unlink the name that it was made with
	gid, found, groupErr := groupID(group)
	if found {
		groupErr = os.Chown(unborn, -1, gid)
	}
	if groupErr != nil {
		log.Warn("socket not given to its group; only its owner can open it", "socket", path, "group", group, "error", groupErr)
	}
	err = os.Chmod(unborn, socketMode)
	if err == nil {
		err = os.Rename(unborn, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close(), os.Remove(unborn))
	}
	return &apiListener{l, path}, nil
}

// apiListener removes its socket when it is closed.
type apiListener struct {
	net.Listener
	path string
}

func (l *apiListener) Close() error {
	err := os.Remove(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, l.Listener.Close())
}

// listenPeers listens for other hosts. The address need not be there yet, nor be past duplicate address detection (RFC 4862
// section 5.4): the daemon may start before the underlay is ready.
func listenPeers(ctx context.Context, a netip.AddrPort) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		controlErr := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
		})
		return errors.Join(controlErr, os.NewSyscallError("setsockopt IPV6_FREEBIND", err))
	}}
	l, err := config.Listen(ctx, "tcp6", a.String())
	if err != nil {
		return nil, fmt.Errorf("listen for other hosts on underlay.address: %w", err)
	}
	return l, nil
}

// listenTLS listens for the API's clients on other computers.
func listenTLS(ctx context.Context, c config.Config, log *slog.Logger) (net.Listener, error) {
	files, err := certificate.Open(c.APIFiles, log)
	if err != nil {
		return nil, fmt.Errorf("offer the API on api.address: %w", err)
	}
	var listen net.ListenConfig
	l, err := listen.Listen(ctx, "tcp", c.API.String())
	if err != nil {
		return nil, fmt.Errorf("offer the API on api.address: %w", err)
	}
	return tls.NewListener(l, files.Server()), nil
}
