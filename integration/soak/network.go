package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/host/netns"
)

// network is the underlay: a switch, in a namespace of its own, with a namespace for each process behind it. The namespaces
// have no name, so that nothing of them is left when this process has gone and its children with it.
type network struct {
	space *space
	ports map[string]*space // by name
}

// space is a namespace with one device on the switch.
type space struct {
	name    string
	address netip.Addr
	ns      *netns.Namespace
	link    *netlink.Handle
}

const (
	switchName  = "switch"
	deviceName  = "eth0"
	networkBits = 16
)

// newNetwork makes the switch, which has an address too.
func newNetwork(address netip.Addr) (*network, error) {
	s, err := newSpace(switchName, address)
	if err != nil {
		return nil, err
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs()}
	bridge.Name = switchName
	if err := s.link.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("make the switch: %w", err)
	}
	return &network{space: s, ports: make(map[string]*space)}, s.configure(switchName)
}

func newSpace(name string, address netip.Addr) (*space, error) {
	ns, err := netns.New()
	if err != nil {
		return nil, err
	}
	s := &space{name: name, address: address, ns: ns}
	err = ns.Do(func() (err error) {
		s.link, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink in %s: %w", name, err), ns.Close())
	}
	lo, err := s.link.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return s, s.link.LinkSetUp(lo)
}

// configure gives a device the space's address, and sets it up.
func (s *space) configure(device string) error {
	link, err := s.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find %s of %s: %w", device, s.name, err)
	}
	a, err := netlink.ParseAddr(netip.PrefixFrom(s.address, networkBits).String())
	if err != nil {
		return err
	}
	if err := s.link.AddrAdd(link, a); err != nil {
		return fmt.Errorf("add %s to %s of %s: %w", s.address, device, s.name, err)
	}
	return s.link.LinkSetUp(link)
}

// add makes a namespace behind the switch.
func (n *network) add(name string, address netip.Addr) (*space, error) {
	s, err := newSpace(name, address)
	if err != nil {
		return nil, err
	}
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerNamespace = name, deviceName, netlink.NsFd(s.ns.FD())
	if err := n.space.link.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	if err := n.space.link.LinkSetUp(veth); err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	n.ports[name] = s
	return s, errors.Join(n.join(name), s.configure(deviceName))
}

// cut takes the port off the switch: what is sent there or from there is lost, and nobody is told.
func (n *network) cut(name string) error {
	link, err := n.space.link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cut off %s: %w", name, err)
	}
	return n.space.link.LinkSetNoMaster(link)
}

// join undoes cut.
func (n *network) join(name string) error {
	link, err := n.space.link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("connect %s: %w", name, err)
	}
	bridge, err := n.space.link.LinkByName(switchName)
	if err != nil {
		return fmt.Errorf("connect %s: %w", name, err)
	}
	return n.space.link.LinkSetMaster(link, bridge)
}

// dial connects from the switch.
func (n *network) dial(ctx context.Context, address string) (c net.Conn, err error) {
	err = n.space.ns.Do(func() error {
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp", address)
		return err
	})
	return c, err
}

func (n *network) close() error {
	errs := []error{n.space.close()}
	for _, s := range n.ports {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

func (s *space) close() error {
	s.link.Close()
	return s.ns.Close()
}

// process is a child that the kernel kills when this process dies.
type process struct {
	*exec.Cmd
	exited chan struct{} // closed when it has ended
}

// start starts cmd in the space, on a thread that does nothing else until the child has ended: the kernel kills the child when
// that thread ends (prctl(2), PR_SET_PDEATHSIG).
func (s *space) start(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &process{cmd, make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		defer close(p.exited)
		err := unix.Setns(s.ns.FD(), unix.CLONE_NEWNET)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			_ = cmd.Wait() // most are killed
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	return p, nil
}

// kill ends the process by SIGKILL, also when it is stopped, and waits until it has ended.
func (p *process) kill() {
	_ = p.Process.Kill() // an error means that it has ended already
	<-p.exited
}

// signal sends a signal, to a process that may have ended.
func (p *process) signal(s syscall.Signal) { _ = p.Process.Signal(s) }
