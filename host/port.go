package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/nat"
)

// gatewayPrefix has the address by which each machine knows its host: the same at every port of every host, so that
// a machine that moves need not notice.
var gatewayPrefix = netip.MustParsePrefix("fe80::1/64")

// Port is the host-side device of a machine.
type Port struct {
	Name    string
	Ifindex int
	Address addr.Stable
	Enter   nat.Enter
	MAC     net.HardwareAddr // the machine's
	MTU     int
	Created bool // CreatePort made it, and RemovePort deletes it; else it was adopted, and is given back
}

// Datapath is the port as the datapath needs it.
func (p Port) Datapath() nat.Port { return nat.Port{Ifindex: p.Ifindex, Enter: p.Enter, MAC: p.MAC} }

// MachineMAC is the MAC of a machine that has none of its own: locally administered, unicast, and the same on every
// host. Besides the machine on its link there is only the gateway, so it need not be unique in the fleet, and has
// room for only half of the cell.
func MachineMAC(id addr.ID) net.HardwareAddr {
	m := id.Machine
	// The first octet is not the gateway's, so that no machine gets that by chance.
	return net.HardwareAddr{0x12, byte(id.Cell), byte(m >> 24), byte(m >> 16), byte(m >> 8), byte(m)}
}

// PortName is the name of the device that CreatePort makes for a machine unless told otherwise.
func PortName(m addr.Machine) string { return fmt.Sprintf("ip6d%08x", uint32(m)) }

// label is what the alias of each port's device says, so that a port is known for what it is after a restart, and
// also to who looks with `ip link`.
type label struct {
	address addr.Stable
	mac     net.HardwareAddr // the machine's
	adopted *adopted         // nil: CreatePort made the device
}

// adopted is how a device was before it became a port.
type adopted struct {
	mac   net.HardwareAddr
	alias string
}

// String gives the label as "ip6d port of ADDRESS MAC", followed for an adopted device by " was MAC ALIAS".
func (l label) String() string {
	s := fmt.Sprintf("%s %s %s", labelStart, l.address, l.mac)
	if l.adopted != nil {
		s += fmt.Sprintf(" was %s %s", l.adopted.mac, l.adopted.alias)
	}
	return s
}

const labelStart = "ip6d port of"

// parseLabel reads the label in a device's alias. false: there is none.
func parseLabel(p addr.Plan, alias string) (label, bool) {
	rest, ok := strings.CutPrefix(alias, labelStart+" ")
	if !ok {
		return label{}, false
	}
	rest, before, isAdopted := strings.Cut(rest, " was ")
	address, mac, _ := strings.Cut(rest, " ")
	var l label
	var err error
	if l.address, err = p.ParseStable(address); err != nil {
		return label{}, false
	}
	if l.mac, err = net.ParseMAC(mac); err != nil {
		return label{}, false
	}
	if isAdopted {
		mac, alias, _ := strings.Cut(before, " ")
		l.adopted = &adopted{alias: alias}
		if l.adopted.mac, err = net.ParseMAC(mac); err != nil {
			return label{}, false
		}
	}
	return l, true
}

// portAt reads a port from its device. false: it is none.
func (a *Agent) portAt(l netlink.Link) (Port, label, bool) {
	at := l.Attrs()
	made, ok := parseLabel(a.Plan, at.Alias)
	if !ok {
		return Port{}, label{}, false
	}
	p := Port{
		Name:    at.Name,
		Ifindex: at.Index,
		Address: made.address,
		Enter:   nat.EnterDevice,
		MAC:     made.mac,
		MTU:     at.MTU,
		Created: made.adopted == nil,
	}
	if l.Type() == "veth" && at.NetNsID >= 0 { // the peer is in another namespace
		p.Enter = nat.EnterPeer
	}
	return p, made, true
}

// FindPort returns the port with that device name, made by this process or an earlier one, and looks after it from
// then on. Errors: ErrNoDevice.
func (a *Agent) FindPort(name string) (Port, error) {
	a.portsMu.Lock()
	defer a.portsMu.Unlock()
	l, err := a.kernel.link(name)
	if err != nil {
		return Port{}, err
	}
	if l == nil {
		return Port{}, fmt.Errorf("%w: port %q", ErrNoDevice, name)
	}
	p, _, ok := a.portAt(l)
	if !ok {
		return Port{}, fmt.Errorf("%w: %q is no port of ip6d", ErrNoDevice, name)
	}
	a.ports[p.Ifindex] = p
	return p, nil
}

// Ports lists all ports that there are on this host, in no order: those made by earlier processes too.
func (a *Agent) Ports() ([]Port, error) {
	links, err := dump("devices", a.kernel.LinkList)
	if err != nil {
		return nil, err
	}
	var ports []Port
	for _, l := range links {
		if p, _, ok := a.portAt(l); ok {
			ports = append(ports, p)
		}
	}
	return ports, nil
}

// lookAtPorts mends the ports that the agent looks after, and notices those that are gone. closely: also what no event
// tells of, and costs more to see, the settings of a device and its program.
func (a *Agent) lookAtPorts(closely bool) error {
	a.portsMu.Lock()
	gone, err := a.mendPorts(closely)
	err = errors.Join(err, a.ensurePortRoutes())
	a.portsMu.Unlock()
	for _, p := range gone {
		a.tellGone(p)
	}
	return err
}

// mendPorts brings up what is down, and gives back what a port has lost. The caller holds portsMu.
func (a *Agent) mendPorts(closely bool) (gone []Port, err error) {
	if len(a.ports) == 0 {
		return nil, nil
	}
	links, err := dump("devices", a.kernel.LinkList)
	if err != nil {
		return nil, err
	}
	there := make(map[int]netlink.Link)
	for _, l := range links {
		there[l.Attrs().Index] = l
	}
	addresses, err := dump("addresses", func() ([]netlink.Addr, error) { return a.kernel.AddrList(nil, unix.AF_INET6) })
	if err != nil {
		return nil, err
	}
	hasGateway := make(map[int]bool)
	for _, at := range addresses {
		if prefixOf(at.IPNet) == gatewayPrefix {
			hasGateway[at.LinkIndex] = true
		}
	}
	for ifindex, p := range a.ports {
		l := there[ifindex]
		if l == nil {
			delete(a.ports, ifindex)
			gone = append(gone, p)
			continue
		}
		p.MTU = l.Attrs().MTU
		a.ports[ifindex] = p
		if !closely && hasGateway[ifindex] && l.Attrs().Flags&net.FlagUp != 0 && isGatewayMAC(l.Attrs().HardwareAddr) {
			continue
		}
		if mendErr := a.mendPort(l, p); mendErr != nil && err == nil {
			err = mendErr
		}
	}
	return gone, err
}

// portGone takes in that a device was deleted, or left for another namespace.
func (a *Agent) portGone(ifindex int) {
	a.portsMu.Lock()
	p, ok := a.ports[ifindex]
	delete(a.ports, ifindex)
	a.portsMu.Unlock()
	if ok {
		a.tellGone(p)
	}
}

func (a *Agent) tellGone(p Port) {
	a.Logger.Warn("port is gone", "device", p.Name, "machine", p.Address)
	if a.OnPortGone != nil {
		a.OnPortGone(p)
	}
}

// mendPort gives the host's end what every port has, and brings it up last: by then the datapath is there.
func (a *Agent) mendPort(l netlink.Link, p Port) error {
	k, name := a.kernel, l.Attrs().Name
	err := k.set(
		sysctl{name, "disable_ipv6", "0"},
		sysctl{name, "addr_gen_mode", addrGenNone},
		sysctl{name, "accept_ra", "0"},
		sysctl{name, "accept_redirects", "0"},
	)
	if err != nil {
		return err
	}
	if err := a.forward(name); err != nil {
		return err
	}
	if !isGatewayMAC(l.Attrs().HardwareAddr) {
		if err := k.LinkSetHardwareAddr(l, nat.GatewayMAC()); err != nil {
			return fmt.Errorf("set MAC of %s: %w", name, err)
		}
	}
	if err := k.ensureAddress(l, gatewayPrefix); err != nil {
		return err
	}
	if a.OnPort != nil {
		if err := a.OnPort(p, p.Address); err != nil {
			return fmt.Errorf("take port %s: %w", name, err)
		}
	}
	return k.setUp(l)
}

func isGatewayMAC(m net.HardwareAddr) bool { return m.String() == nat.GatewayMAC().String() }

// machineMAC checks the MAC that a machine is said to have, or derives it.
func machineMAC(m net.HardwareAddr, s addr.Stable) (net.HardwareAddr, error) {
	switch {
	case m == nil:
		return MachineMAC(s.ID()), nil
	case len(m) != 6 || m[0]&1 != 0 || m.String() == "00:00:00:00:00:00":
		return nil, fmt.Errorf("%w: MAC %s: must be a unicast Ethernet address", ErrInvalid, m)
	case isGatewayMAC(m):
		return nil, fmt.Errorf("%w: MAC %s is that of the gateway", ErrInvalid, m)
	}
	return m, nil
}

// checkMachine refuses an address that no machine can have.
func checkMachine(s addr.Stable) error {
	if s.IsZero() || s.Kind() != addr.KindMachine {
		return fmt.Errorf("%w: address %s: must be a machine's", ErrInvalid, s)
	}
	return nil
}

// checkDeviceName follows dev_valid_name() of the kernel's net/core/dev.c.
func checkDeviceName(what, name string) error {
	if name == "" || name == "." || name == ".." || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, "/: \t\n\v\f\r%\x00") {
		return fmt.Errorf("%w: %s %q: must be 1 to %d characters without space, slash, colon or percent sign", ErrInvalid, what, name, unix.IFNAMSIZ-1)
	}
	return nil
}
