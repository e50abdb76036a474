package nat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"ip6d/addr"
	"ip6d/bpf"
)

// PutHost writes an entry of `hosts`. Errors: ErrInvalid, ErrFull.
func (d *Datapath) PutHost(h NextHop) error {
	if err := d.checkNextHop(h); err != nil {
		return fmt.Errorf("next hop: %w", err)
	}
	v := bpf.DatapathNextHop{Host: uint32(h.Host), Ifindex: uint32(h.Ifindex), Kind: uint8(h.Kind)}
	if h.Kind != HopL3 {
		v.Gateway = h.Gateway.As16()
		copy(v.Source[:], h.Source)
	}
	if h.MAC != nil && h.Trusted > 0 {
		copy(v.Mac[:], h.MAC)
		v.TrustedUntil = d.ticks(d.monotonic() + h.Trusted)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	slot, err := d.slot(h.Host)
	if err != nil {
		return fmt.Errorf("next hop: %w", err)
	}
	old, _, err := lookup[bpf.DatapathNextHop](d.objects.Hosts, slot)
	if err != nil {
		return fmt.Errorf("next hop: host %d: read: %w", h.Host, err)
	}
	if old.TrustedUntil != 0 && (old.Mac != v.Mac || old.Source != v.Source) {
		// An array's entry is written byte by byte: until all are there, the kernel's neighbours are asked.
		untrusted := old
		untrusted.TrustedUntil = 0
		if err := write(d.objects.Hosts, bpf.DatapathMapHosts, slot, untrusted); err != nil {
			return err
		}
	}
	return write(d.objects.Hosts, bpf.DatapathMapHosts, slot, v)
}

// DeleteHost deletes an entry of `hosts`, wherever it is: what leads to that host is refused from then on. That there is none
// is no error.
func (d *Datapath) DeleteHost(h addr.Host) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var slots []uint32
	err := list(d.objects.Hosts, bpf.DatapathMapHosts, func(slot uint32, v bpf.DatapathNextHop) {
		if v.Host == uint32(h) && v.Ifindex != 0 {
			slots = append(slots, slot)
		}
	})
	for _, slot := range slots {
		err = errors.Join(err, write(d.objects.Hosts, bpf.DatapathMapHosts, slot, bpf.DatapathNextHop{Host: uint32(h)}))
	}
	return err
}

// Hosts lists `hosts`, in no order. A MAC that is not trusted any more is left out.
func (d *Datapath) Hosts() ([]NextHop, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.monotonic()
	var all []NextHop
	err := list(d.objects.Hosts, bpf.DatapathMapHosts, func(_ uint32, v bpf.DatapathNextHop) {
		if v.Ifindex == 0 {
			return
		}
		h := NextHop{Host: addr.Host(v.Host), Ifindex: int(v.Ifindex), Kind: HopKind(v.Kind)}
		if h.Kind != HopL3 {
			h.Gateway, h.Source = netip.AddrFrom16(v.Gateway), net.HardwareAddr(v.Source[:])
		}
		if left := time.Duration(v.TrustedUntil)*d.tick - now; left > 0 {
			h.MAC, h.Trusted = net.HardwareAddr(v.Mac[:]), left
		}
		all = append(all, h)
	})
	return all, err
}

func (d *Datapath) checkNextHop(h NextHop) error {
	if err := d.checkOther(h.Host); err != nil {
		return err
	}
	if h.Ifindex <= 0 {
		return fmt.Errorf("%w: host %d: ifindex %d", ErrInvalid, h.Host, h.Ifindex)
	}
	switch h.Kind {
	case HopRouter, HopNeighbour:
	case HopL3:
		if h.Gateway.IsValid() || h.Source != nil || h.MAC != nil {
			return fmt.Errorf("%w: host %d: a device without a link layer has neither gateway nor MACs", ErrInvalid, h.Host)
		}
		return nil
	default:
		return fmt.Errorf("%w: host %d: kind of next hop %d", ErrInvalid, h.Host, h.Kind)
	}
	if !h.Gateway.Is6() || h.Gateway.Is4In6() {
		return fmt.Errorf("%w: host %d: gateway %s: must be IPv6", ErrInvalid, h.Host, h.Gateway)
	}
	if err := checkMAC(h.Source); err != nil {
		return fmt.Errorf("host %d: device: %w", h.Host, err)
	}
	if h.MAC == nil {
		return nil
	}
	if err := checkMAC(h.MAC); err != nil {
		return fmt.Errorf("host %d: %w", h.Host, err)
	}
	return nil
}
