package host

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/addr"
)

// DefaultWireGuardMTU leaves room in a packet of 1500 bytes for WireGuard's own headers: 40 of IPv6, 8 of UDP, 32 of
// WireGuard.
const DefaultWireGuardMTU = 1420

// underlayLabel is what the alias of the mesh's device says: another WireGuard device is not ip6d's to change.
const underlayLabel = "ip6d underlay"

// WireGuard is an underlay that the agent makes and keeps itself: a mesh in which each host is a peer of every other, and
// may send what comes from its own /48, and nothing else. All fields are needed.
type WireGuard struct {
	Key  PrivateKey
	Port uint16 // UDP, where this host listens
	MTU  int    // of packets in the mesh, in bytes: 80 less than what the way to every other host carries

	// Userspace returns the command that calls ServeWireGuard for a device. It is run where the kernel has no WireGuard,
	// and outlives this process.
	Userspace func(device string) *exec.Cmd
}

func (w *WireGuard) check(device string) error {
	if w.MTU < minMTU || w.MTU > maxMTU {
		return fmt.Errorf("%w: MTU %d of the mesh: must be %d to %d", ErrInvalid, w.MTU, minMTU, maxMTU)
	}
	if w.Key.IsZero() || w.Port == 0 || w.Userspace == nil {
		return fmt.Errorf("%w: WireGuard needs a key, a port, and a command for kernels without it", ErrInvalid)
	}
	return checkDeviceName("underlay", device)
}

// control is the address by which a host is known inside the mesh.
func (a *Agent) control(h addr.Host) netip.Addr {
	r, err := a.Plan.Control(h)
	if err != nil {
		return netip.Addr{} // host 0, which is none
	}
	return r.Addr()
}

// prepareMesh makes the mesh, if the underlay is one, and removes what is left of another. The caller holds mu.
func (a *Agent) prepareMesh() error {
	if a.WireGuard == nil {
		return a.removeMeshes("")
	}
	return errors.Join(a.removeMeshes(a.Underlay), a.ensureWireGuard())
}

// ensureWireGuard makes the mesh's device where it is missing, and mends it where it differs. Its peers are ensureMesh's
// business. It leaves in a.mesh what the device is. The caller holds mu.
func (a *Agent) ensureWireGuard() error {
	k := a.kernel
	l, err := k.link(a.Underlay)
	if err != nil {
		return err
	}
	if l == nil {
		if l, err = a.addWireGuard(); err != nil {
			return fmt.Errorf("make %s: %w", a.Underlay, err)
		}
	}
	if err := a.configureWireGuard(l); err != nil {
		return err
	}
	if err := k.set(sysctl{a.Underlay, "disable_ipv6", "0"}, sysctl{a.Underlay, "accept_ra", "0"}); err != nil {
		return err
	}
	if err := k.quiet(l); err != nil {
		return err
	}
	if mtu := a.WireGuard.MTU; l.Attrs().MTU != mtu {
		if err := k.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set MTU %d of %s: %w", mtu, a.Underlay, err)
		}
	}
	if err := k.ensureAddress(l, netip.PrefixFrom(a.control(a.Host), 128)); err != nil {
		return err
	}
	return k.setUp(l)
}

// addWireGuard makes the device, in the kernel if it can, and else by a process.
func (a *Agent) addWireGuard() (netlink.Link, error) {
	base := netlink.NewLinkAttrs()
	base.Name, base.MTU = a.Underlay, a.WireGuard.MTU
	err := a.kernel.LinkAdd(&netlink.Wireguard{LinkAttrs: base})
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = a.startUserspace()
	}
	if err != nil {
		return nil, err
	}
	l, err := a.kernel.link(a.Underlay)
	if err == nil && l == nil {
		err = fmt.Errorf("%w: it was made, and is gone again", ErrNoUnderlay)
	}
	return l, err
}

// configureWireGuard gives the device this host's key and port. Neither is set again where it is right: sessions with
// peers would end.
func (a *Agent) configureWireGuard(l netlink.Link) error {
	taken := func(what string) error {
		return fmt.Errorf("%w: %s is %s that ip6d did not make; set underlay.device to another name, or delete it: ip link delete %s", ErrNotUnderlay, a.Underlay, what, a.Underlay)
	}
	labelled := l.Attrs().Alias == underlayLabel
	if t := l.Type(); t != "wireguard" && (t != "tuntap" || !labelled) {
		return taken("a " + t + " device")
	}
	if l.Type() == "tuntap" {
		if err := checkAnswers(a.Underlay); err != nil {
			return err
		}
	}
	now, err := a.kernel.wireGuard(a.Underlay)
	if err != nil {
		return err
	}
	if !labelled {
		if now.PrivateKey != (wgtypes.Key{}) { // without a key it is new, or a crash came between the two
			return taken("a WireGuard device")
		}
		if err := a.kernel.LinkSetAlias(l, underlayLabel); err != nil {
			return fmt.Errorf("label %s: %w", a.Underlay, err)
		}
	}
	var change wgtypes.Config
	if now.PrivateKey != a.WireGuard.Key.key {
		change.PrivateKey = &a.WireGuard.Key.key
	}
	if port := int(a.WireGuard.Port); now.ListenPort != port {
		change.ListenPort = &port
	}
	if change.PrivateKey != nil || change.ListenPort != nil {
		if err := a.kernel.changeWireGuard(a.Underlay, change); err != nil {
			return fmt.Errorf("%w (is UDP port %d free?)", err, a.WireGuard.Port)
		}
	}
	a.mesh = now.Peers
	return nil
}

// RemoveWireGuard undoes what Prepare made of the underlay. It succeeds when the device is gone. Call it while Run is not
// running, which would make it again.
func (a *Agent) RemoveWireGuard() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.removeMeshes("")
}

// removeMeshes removes the devices that ip6d made for a mesh, but for the one of that name: what is left under another
// would keep the UDP port. The caller holds mu.
func (a *Agent) removeMeshes(but string) error {
	links, err := dump("devices", a.kernel.LinkList)
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		name := l.Attrs().Name
		if l.Attrs().Alias != underlayLabel || name == but {
			continue
		}
		err := a.kernel.delete(l)
		if err == nil && l.Type() == "tuntap" {
			err = waitEnd(name)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove %s: %w", name, err))
			continue
		}
		a.Logger.Info("WireGuard device removed", "device", name)
	}
	return errors.Join(errs...)
}

// wireGuard reads a device, its private key among the rest.
func (k *kernel) wireGuard(name string) (d *wgtypes.Device, err error) {
	err = k.withWireGuard(func(c *wgctrl.Client) (err error) {
		d, err = c.Device(name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read WireGuard device %s: %w", name, err)
	}
	return d, nil
}

func (k *kernel) changeWireGuard(name string, c wgtypes.Config) error {
	err := k.withWireGuard(func(client *wgctrl.Client) error { return client.ConfigureDevice(name, c) })
	if err != nil {
		return fmt.Errorf("configure WireGuard device %s: %w", name, err)
	}
	return nil
}

// withWireGuard opens a client each time: one that was opened before the kernel's module was loaded would not see it.
func (k *kernel) withWireGuard(f func(*wgctrl.Client) error) error {
	return k.ns.Do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		return errors.Join(f(c), c.Close())
	})
}
