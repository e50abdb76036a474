package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"connectrpc.com/connect"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/host/netns"
	"ip6d/integration/lab/guard"
)

// MachineOptions describe a machine.
type MachineOptions struct {
	Name    string
	Network addr.Network

	// Mobile machines can be moved. Their address is on their loopback device and their ports are guarded; the others
	// are left as ip6d sets them up.
	Mobile bool
}

// Machine is a machine of the lab: a network namespace.
type Machine struct {
	Name    string
	Network addr.Network
	Stable  addr.Stable
	Mobile  bool

	lab   *Lab
	space *space
	host  *Host
	port  *port   // the one it listens on, and sends by
	ports []*port // all that it ever had, for their counts; mobile only
}

// port is a machine's end of a port.
type port struct {
	device string
	guard  *guard.Guard
}

// gateway is what every machine sends to.
var gateway = net.ParseIP("fe80::1")

// AddMachine creates a machine on a host and attaches its port.
func (l *Lab) AddMachine(ctx context.Context, h *Host, o MachineOptions) (*Machine, error) {
	answer, err := h.client.Machines.CreateMachine(ctx, connect.NewRequest(&ip6dv1.CreateMachineRequest{Name: o.Name, Network: uint32(o.Network)}))
	if err != nil {
		return nil, fmt.Errorf("create %s on %s: %w", o.Name, h.Name, err)
	}
	m := &Machine{Name: o.Name, Network: o.Network, Mobile: o.Mobile, lab: l, host: h}
	if m.Stable, err = addr.DefaultPlan.ParseStable(answer.Msg.Machine.Stable); err != nil {
		return nil, fmt.Errorf("create %s on %s: %w", o.Name, h.Name, err)
	}
	if m.space, err = l.makeSpace(o.Name); err != nil {
		return nil, err
	}
	l.machines = append(l.machines, m)
	if o.Mobile {
		if err := m.prepare(); err != nil {
			return nil, err
		}
	}
	if m.port, err = m.attach(ctx, h, ""); err != nil {
		return nil, err
	}
	if o.Mobile {
		if err := errors.Join(m.port.guard.Open(), m.sendBy(m.port)); err != nil {
			return nil, err
		}
	}
	l.say("%s: %s, %s in network %d, on %s", m.Name, m.Namespace(), m.Stable, m.Network, h.Name)
	return m, nil
}

// prepare gives a mobile machine its address, and makes its ports deaf until they are guarded: what came to a new port
// before there is a guard to count it would else be taken, and nobody would know.
func (m *Machine) prepare() error {
	if err := m.space.configure("lo", netip.PrefixFrom(m.Stable.Addr(), 128)); err != nil {
		return err
	}
	return m.space.setting("ipv6/conf/default/disable_ipv6", "1")
}

// attach makes a new port on the host. That of a mobile machine is guarded and closed; source is the path of the
// `machines` map of the host that the machine comes from, if any.
func (m *Machine) attach(ctx context.Context, h *Host, source string) (*port, error) {
	p := &port{device: fmt.Sprintf("eth%d", len(m.ports))}
	_, err := h.client.Machines.AttachMachine(ctx, connect.NewRequest(&ip6dv1.AttachMachineRequest{
		Name:         m.Name,
		Netns:        netns.Path(m.Namespace()),
		GuestDevice:  p.device,
		Unconfigured: m.Mobile,
	}))
	if err != nil {
		return nil, fmt.Errorf("attach %s on %s: %w", m.Name, h.Name, err)
	}
	if err := m.space.computeChecksums(p.device); err != nil {
		return nil, err
	}
	if !m.Mobile {
		return p, nil
	}
	link, err := m.space.link.LinkByName(p.device)
	if err != nil {
		return nil, fmt.Errorf("find device %s of %s: %w", p.device, m.Name, err)
	}
	err = m.space.ns.Do(func() error {
		p.guard, err = guard.Attach(guard.Options{Machine: m.Stable, Ifindex: link.Attrs().Index, SourceMachines: source})
		return err
	})
	if err != nil {
		return nil, err
	}
	m.ports = append(m.ports, p)
	if err := m.space.setting("ipv6/conf/"+p.device+"/disable_ipv6", "0"); err != nil {
		return nil, err
	}
	return p, m.space.configure(p.device)
}

// sendBy makes the machine send by the port.
func (m *Machine) sendBy(p *port) error {
	link, err := m.space.link.LinkByName(p.device)
	if err != nil {
		return fmt.Errorf("find device %s of %s: %w", p.device, m.Name, err)
	}
	if err := m.keepGateway(link); err != nil {
		return err
	}
	err = m.space.link.RouteReplace(&netlink.Route{
		LinkIndex: link.Attrs().Index,
		Dst:       &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		Gw:        gateway,
		Src:       m.Stable.Addr().AsSlice(),
		Flags:     int(netlink.FLAG_ONLINK),
	})
	if err != nil {
		return fmt.Errorf("make %s send by %s: %w", m.Name, p.device, err)
	}
	return nil
}

// keepGateway makes the machine know the gateway on the device as it knows it on the port that it sends by now. A machine
// that a hypervisor moves takes its neighbour cache along.
func (m *Machine) keepGateway(to netlink.Link) error {
	if m.port == nil {
		return nil
	}
	from, err := m.space.link.LinkByName(m.port.device)
	if err != nil {
		return fmt.Errorf("find device %s of %s: %w", m.port.device, m.Name, err)
	}
	known, err := m.space.link.NeighList(from.Attrs().Index, unix.AF_INET6)
	if err != nil {
		return fmt.Errorf("list neighbours of %s: %w", m.Name, err)
	}
	for _, n := range known {
		if !n.IP.Equal(gateway) || len(n.HardwareAddr) == 0 {
			continue
		}
		err := m.space.link.NeighSet(&netlink.Neigh{
			LinkIndex:    to.Attrs().Index,
			Family:       unix.AF_INET6,
			State:        netlink.NUD_STALE, // to be confirmed after use (RFC 4861 section 7.3.2)
			IP:           gateway,
			HardwareAddr: n.HardwareAddr,
		})
		if err != nil {
			return fmt.Errorf("copy the gateway's MAC in %s: %w", m.Name, err)
		}
	}
	return nil
}

// Host is the host that the machine is on.
func (m *Machine) Host() *Host { return m.host }

// Namespace is the name of its network namespace, as `ip netns` knows it.
func (m *Machine) Namespace() string { return m.lab.o.namespace(m.Name) }

// Do runs f in its network namespace; see netns.Namespace.Do. A socket that was made there stays there.
func (m *Machine) Do(f func() error) error { return m.space.ns.Do(f) }

// Device is the name of its end of the port that it listens on.
func (m *Machine) Device() string { return m.port.device }

// Guarded returns what came for a mobile machine, to all the ports that it ever had.
func (m *Machine) Guarded() (guard.Counts, error) {
	var sum guard.Counts
	for _, p := range m.ports {
		c, err := p.guard.Counts()
		if err != nil {
			return guard.Counts{}, fmt.Errorf("%s of %s: %w", p.device, m.Name, err)
		}
		sum = sum.Add(c)
	}
	return sum, nil
}

func (m *Machine) close() error {
	var errs []error
	for _, p := range m.ports {
		errs = append(errs, p.guard.Close())
	}
	return errors.Join(errs...)
}
