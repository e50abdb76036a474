package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"ip6d/host/netns"
)

// kernel speaks with the kernel about one network namespace.
type kernel struct {
	ns *netns.Namespace
	*netlink.Handle

	// own is a socket for requests that the netlink package has no method for.
	own map[int]*nl.SocketHandle
}

// openKernel does not take ns over: the caller closes it, after the kernel.
func openKernel(ns *netns.Namespace) (*kernel, error) {
	k := &kernel{ns: ns}
	err := ns.Do(func() (err error) {
		if k.Handle, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		socket, err := nl.Subscribe(unix.NETLINK_ROUTE)
		if err != nil {
			k.Handle.Close()
			return err
		}
		k.own = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	return k, nil
}

func (k *kernel) close() {
	k.Handle.Close()
	for _, s := range k.own {
		s.Close()
	}
}

// request starts a request that is not among Handle's methods.
func (k *kernel) request(kind, flags int) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = k.own
	return r
}

// link returns the device of that name, or nil where there is none.
func (k *kernel) link(name string) (netlink.Link, error) {
	l, err := k.LinkByName(name)
	return found(l, err, name)
}

// linkAt returns the device with that ifindex, or nil where there is none.
func (k *kernel) linkAt(ifindex int) (netlink.Link, error) {
	l, err := k.LinkByIndex(ifindex)
	return found(l, err, ifindex)
}

func found(l netlink.Link, err error, which any) (netlink.Link, error) {
	if errors.As(err, new(netlink.LinkNotFoundError)) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up device %v: %w", which, err)
	}
	return l, nil
}

// dump repeats a listing that a change meanwhile made incomplete.
func dump[T any](what string, list func() ([]T, error)) ([]T, error) {
	const attempts = 10
	var err error
	for range attempts {
		var all []T
		if all, err = list(); err == nil {
			return all, nil
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return nil, fmt.Errorf("list %s: %w", what, err)
}

// sysctl is a setting below /proc/sys/net/ipv6/conf.
type sysctl struct{ device, name, value string }

const sysctlRoot = "/proc/sys/net/ipv6/conf"

// set writes what is not so already: to write forwarding again would have effects again.
func (k *kernel) set(all ...sysctl) error {
	return k.ns.Do(func() error {
		for _, s := range all {
			path := filepath.Join(sysctlRoot, s.device, s.name)
			now, err := os.ReadFile(path)
			if err == nil && strings.TrimSpace(string(now)) == s.value {
				continue
			}
			if err == nil {
				err = os.WriteFile(path, []byte(s.value), 0)
			}
			if err != nil {
				return sysctlError(err)
			}
		}
		return nil
	})
}

// get reads a setting of a device.
func (k *kernel) get(device, name string) (value string, err error) {
	err = k.ns.Do(func() error {
		b, err := os.ReadFile(filepath.Join(sysctlRoot, device, name))
		value = strings.TrimSpace(string(b))
		return sysctlError(err)
	})
	return value, err
}

func sysctlError(err error) error {
	if !errors.Is(err, fs.ErrNotExist) {
		return err // of the os package, which names the file
	}
	if _, absent := os.Stat(sysctlRoot); absent != nil {
		return fmt.Errorf("%w: %s is missing; start the kernel without ipv6.disable=1", ErrNoIPv6, sysctlRoot)
	}
	return err
}

// setUp brings a device up that is down.
func (k *kernel) setUp(l netlink.Link) error {
	if l.Attrs().Flags&net.FlagUp != 0 {
		return nil
	}
	if err := k.LinkSetUp(l); err != nil {
		return fmt.Errorf("bring up %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// ensureAddress gives a device an address that it does not have, without asking the link whether another one has it.
func (k *kernel) ensureAddress(l netlink.Link, p netip.Prefix) error {
	all, err := dump("addresses of "+l.Attrs().Name, func() ([]netlink.Addr, error) { return k.AddrList(l, unix.AF_INET6) })
	if err != nil {
		return err
	}
	has := func(a netlink.Addr) bool { return prefixOf(a.IPNet) == p }
	if slices.ContainsFunc(all, has) {
		return nil
	}
	if err := k.AddrReplace(l, &netlink.Addr{IPNet: netipx.PrefixIPNet(p), Flags: unix.IFA_F_NODAD}); err != nil {
		return fmt.Errorf("add %s to %s: %w", p, l.Attrs().Name, err)
	}
	return nil
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	p, _ := netipx.FromStdIPNet(n)
	return p
}

func addressOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a
}
