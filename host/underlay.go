package host

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"ip6d/nat"
)

// underlay is what is known of the underlay's device. The zero underlay: there is none now.
type underlay struct {
	ifindex int // 0 until OnUnderlay knows of the device
	mac     net.HardwareAddr
	l3      bool // it has no link-layer addresses: what it carries has no next hop on it
	up      bool
}

// checkUnderlay refuses a device that is missing or cannot be an underlay.
func (a *Agent) checkUnderlay() error {
	l, err := a.kernel.link(a.Underlay)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("%w: underlay %q; `ip link` shows those of this host", ErrNoDevice, a.Underlay)
	}
	return underlayError(l)
}

func underlayError(l netlink.Link) error {
	at := l.Attrs()
	switch {
	case at.Flags&net.FlagLoopback != 0 || at.EncapType != "ether" && !nat.IsL3(l):
		return fmt.Errorf("%w: %s is neither Ethernet nor without link layer, but %s", ErrNotUnderlay, at.Name, at.EncapType)
	case at.MTU < minMTU:
		return fmt.Errorf("%w: %s has MTU %d; IPv6 needs at least %d (RFC 8200 section 5)", ErrNotUnderlay, at.Name, at.MTU, minMTU)
	}
	return nil
}

// seeUnderlay looks at the underlay's device, and tells the daemon when it is another one than before. A device
// that is missing may come back: meanwhile there is nothing to do for it, unless it is the agent's to make. The caller
// holds mu.
func (a *Agent) seeUnderlay() error {
	if a.Underlay == "" {
		return nil
	}
	if a.WireGuard != nil {
		if err := a.ensureWireGuard(); err != nil {
			a.underlay = underlay{}
			return err
		}
	}
	l, err := a.kernel.link(a.Underlay)
	if err != nil {
		return err
	}
	if l == nil {
		if a.underlay.ifindex != 0 {
			a.Logger.Warn("underlay is gone; waiting for it", "device", a.Underlay)
		}
		a.underlay = underlay{}
		return nil
	}
	if err := underlayError(l); err != nil {
		a.underlay = underlay{}
		return err
	}
	at := l.Attrs()
	if at.Index != a.underlay.ifindex {
		if err := a.kernel.keepListening(a.Underlay); err != nil {
			return err
		}
		if a.OnUnderlay != nil {
			if err := a.OnUnderlay(at.Index); err != nil {
				a.underlay = underlay{} // to be told again
				return fmt.Errorf("take underlay %s: %w", a.Underlay, err)
			}
		}
	}
	a.underlay = underlay{
		ifindex: at.Index,
		mac:     at.HardwareAddr,
		l3:      nat.IsL3(l),
		up:      at.Flags&net.FlagUp != 0,
	}
	return nil
}
