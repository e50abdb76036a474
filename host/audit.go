package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/nat"
)

// WantedPort is a port that a machine of this host should have.
type WantedPort struct {
	Machine string // its name
	Address addr.Stable
	Device  string
	MTU     int    // 0: not known yet
	Netns   string // path of the machine's namespace; empty: the device was there before
	Entry   *nat.Port
}

// Audit is the audit.Source of an Agent: devices, namespaces, routes, neighbours, next hops and the mesh.
type Audit struct {
	*Agent

	// Ports returns what ports there should be.
	Ports func(context.Context) ([]WantedPort, error)

	// RestorePort brings the entry of a machine's port to what its device is.
	RestorePort func(context.Context, addr.Machine) error
}

var _ audit.Source = Audit{}

// Look implements audit.Source.
func (a Audit) Look(ctx context.Context, only []audit.Object) (all []audit.Difference, err error) {
	asked := func(types ...audit.ObjectType) bool {
		return only == nil || slices.ContainsFunc(only, func(o audit.Object) bool { return slices.Contains(types, o.Type) })
	}
	if asked(audit.DeviceObject, audit.NamespaceObject) {
		wanted, wantErr := a.Ports(ctx)
		if wantErr != nil {
			return nil, wantErr
		}
		all, err = a.lookAtWanted(wanted)
	}
	if asked(audit.DeviceObject, audit.RouteObject, audit.NeighbourObject, audit.HostObject) {
		more, moreErr := a.lookAtWays()
		all, err = append(all, more...), errors.Join(err, moreErr)
	}
	return all, err
}

// Mend implements audit.Source. Most is what the Agent does by itself, when it looks closely.
func (a Audit) Mend(ctx context.Context, d audit.Difference) error {
	switch d.Kind {
	case audit.PortRenamed, audit.PortEntryDiffers:
		wanted, err := a.Ports(ctx)
		if err != nil {
			return err
		}
		for _, w := range wanted {
			switch {
			case w.Device != d.Object.ID:
			case d.Kind == audit.PortEntryDiffers:
				return a.RestorePort(ctx, w.Address.Machine())
			default:
				return a.renameBack(w)
			}
		}
		return audit.ErrChanged
	case audit.PortDown, audit.PortMACDiffers,
		audit.StackMissing, audit.RouteMissing, audit.RouteDiffers, audit.RouteStray, audit.NeighbourMissing, audit.NeighbourStray,
		audit.NextHopMissing, audit.NextHopDiffers, audit.NextHopStray,
		audit.MeshPeerMissing, audit.MeshPeerDiffers, audit.MeshPeerStray:
		return a.lookAtAll(true)
	}
	return audit.ErrOperator
}

// Wanted is what the datapath should be attached to.
func (a Audit) Wanted(ctx context.Context) (nat.Wanted, error) {
	w := nat.Wanted{Ports: make(map[int]addr.Stable), Names: make(map[int]string)}
	ports, err := a.Ports(ctx)
	if err != nil {
		return w, err
	}
	byName, labelled, err := a.devices()
	if err != nil {
		return w, err
	}
	for name, l := range byName {
		w.Names[l.Attrs().Index] = name
	}
	for _, p := range ports {
		if l := labelled[p.Address]; l != nil {
			w.Ports[l.Attrs().Index] = p.Address
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	w.Underlay, w.L3, w.StackPeer = a.underlay.ifindex, a.underlay.l3, a.stack.Peer
	return w, nil
}

// devices returns all devices by name, and those that are ports by their machine.
func (a Audit) devices() (byName map[string]netlink.Link, labelled map[addr.Stable]netlink.Link, err error) {
	links, err := dump("devices", a.kernel.LinkList)
	if err != nil {
		return nil, nil, err
	}
	byName, labelled = make(map[string]netlink.Link), make(map[addr.Stable]netlink.Link)
	for _, l := range links {
		byName[l.Attrs().Name] = l
		if p, _, ok := a.portAt(l); ok {
			labelled[p.Address] = l
		}
	}
	return byName, labelled, nil
}

// lookAtWanted compares ports with what they should be.
func (a Audit) lookAtWanted(wanted []WantedPort) (all []audit.Difference, err error) {
	byName, labelled, err := a.devices()
	if err != nil {
		return nil, err
	}
	known := make(map[addr.Stable]bool)
	for _, w := range wanted {
		known[w.Address] = true
		found, portErr := a.lookAtWantedPort(w, labelled[w.Address])
		for i := range found {
			found[i].Name, found[i].Address = w.Machine, w.Address.String()
		}
		all, err = append(all, found...), errors.Join(err, portErr)
	}
	for s, l := range labelled {
		if !known[s] {
			all = append(all, audit.New(audit.PortStray, audit.Device(l.Attrs().Name), "truth", audit.None, "device", "labelled as the port of "+s.String()))
		}
	}
	for name, l := range byName {
		if l.Type() == "veth" && l.Attrs().Alias == "" && isGatewayMAC(l.Attrs().HardwareAddr) { // left half made, by a crash
			all = append(all, audit.New(audit.PortStray, audit.Device(name), "truth", audit.None, "device", "a port without a label"))
		}
	}
	return all, err
}

func (a Audit) lookAtWantedPort(w WantedPort, l netlink.Link) (all []audit.Difference, err error) {
	add := func(k audit.Kind, want, have string) {
		all = append(all, audit.New(k, audit.Device(w.Device), "truth", want, "device", have))
	}
	if l == nil {
		add(audit.PortGone, "port of "+w.Address.String(), audit.None)
		return all, nil
	}
	p, _, _ := a.portAt(l)
	at := l.Attrs()
	if at.Name != w.Device {
		add(audit.PortRenamed, w.Device, at.Name)
	}
	if at.Flags&net.FlagUp == 0 {
		add(audit.PortDown, "up", "down")
	}
	if !isGatewayMAC(at.HardwareAddr) {
		add(audit.PortMACDiffers, nat.GatewayMAC().String(), at.HardwareAddr.String())
	}
	if w.MTU != 0 && at.MTU != w.MTU {
		add(audit.PortMTUDiffers, fmt.Sprintf("MTU %d", w.MTU), fmt.Sprintf("MTU %d", at.MTU))
	}
	if w.Entry != nil && !samePort(*w.Entry, p.Datapath()) {
		all = append(all, audit.New(audit.PortEntryDiffers, audit.Device(w.Device), "device", saidPort(p.Datapath()), "kernel's machines", saidPort(*w.Entry)))
	}
	if w.Netns == "" {
		return all, nil
	}
	guest, err := a.openGuest(w.Netns)
	if errors.Is(err, ErrNoNamespace) || errors.Is(err, ErrOwnNamespace) {
		add(audit.NamespaceGone, w.Netns, "its peer is in another namespace, or one without that name")
		return all, nil
	}
	if err != nil {
		return all, err
	}
	defer guest.ns.Close()
	defer guest.close()
	peer, err := a.guestEnd(l, guest)
	if err == nil && peer == nil {
		add(audit.PortPeerElsewhere, w.Netns, "its peer is in another namespace")
	}
	return all, err
}

func samePort(a, b nat.Port) bool {
	return a.Ifindex == b.Ifindex && a.Enter == b.Enter && a.MAC.String() == b.MAC.String()
}

func saidPort(p nat.Port) string {
	if p.Ifindex == 0 {
		return audit.None
	}
	return fmt.Sprintf("device %d, entered as %d, MAC %s", p.Ifindex, p.Enter, p.MAC)
}

// renameBack gives a port its name again.
func (a Audit) renameBack(w WantedPort) error {
	_, labelled, err := a.devices()
	if err != nil {
		return err
	}
	l := labelled[w.Address]
	if l == nil {
		return audit.ErrChanged
	}
	if err := a.kernel.LinkSetName(l, w.Device); err != nil {
		return fmt.Errorf("rename %s to %s: %w", l.Attrs().Name, w.Device, err)
	}
	_, err = a.FindPort(w.Device)
	return err
}
