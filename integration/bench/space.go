package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ip6d/host/netns"
)

// space is a network namespace without a name: it is gone with this process, however that ends.
type space struct {
	ns   *netns.Namespace
	name string // for messages
}

// newSpace makes a namespace, a router's if it forwards. Everything in it that is not said here is the kernel's default.
func newSpace(name string, forwards bool) (*space, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	s := &space{ns, name}
	settings := map[string]string{
		// nobody else can have these addresses, and finding that out takes a second each (RFC 4862 section 5.4)
		"ipv6/conf/all/accept_dad":     "0",
		"ipv6/conf/default/accept_dad": "0",
	}
	if forwards {
		settings["ipv6/conf/all/forwarding"] = "1"
	}
	for name, value := range settings {
		err = errors.Join(err, s.set(name, value))
	}
	if err := errors.Join(err, s.ip("link set lo up")); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// set sets a sysctl below net.
func (s *space) set(name, value string) error {
	return s.do("set net/"+name+" to "+value, func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0)
	})
}

// ip gives lines to ip(8).
func (s *space) ip(lines string) error { return s.run(lines, "ip", "-batch", "-") }

// run runs a command in the namespace. What it prints is in the error, if it fails.
func (s *space) run(stdin string, command ...string) error {
	return s.do(strings.Join(command, " "), func() error {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Stdin = strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s\n%s", err, bytes.TrimSpace(out), stdin)
		}
		return nil
	})
}

// device returns what there is to know about a device.
func (s *space) device(name string) (device *net.Interface, err error) {
	err = s.do("find device "+name, func() error {
		device, err = net.InterfaceByName(name)
		return err
	})
	return device, err
}

// do runs f in the namespace, and says in its error where that was.
func (s *space) do(what string, f func() error) error {
	if err := s.ns.Do(f); err != nil {
		return fmt.Errorf("%s in the namespace of %s: %w", what, s.name, err)
	}
	return nil
}

// path is a name of the namespace that other processes understand, while this one lives.
func (s *space) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.ns.FD()) }

// close lets go of the namespace, and with it of all devices in it.
func (s *space) close() error { return s.ns.Close() }
