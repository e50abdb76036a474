package lab

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/vishvananda/netlink"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// Unplug pulls the host's cable: it reaches neither the store nor another host. Plug puts it in again.
func (h *Host) Unplug() error { return h.setCable((*netlink.Handle).LinkSetDown) }

// Plug undoes Unplug.
func (h *Host) Plug() error { return h.setCable((*netlink.Handle).LinkSetUp) }

func (h *Host) setCable(set func(*netlink.Handle, netlink.Link) error) error {
	u := h.lab.underlay.link
	l, err := u.LinkByName(h.Name) // the switch's end
	if err == nil {
		err = set(u, l)
	}
	if err != nil {
		return fmt.Errorf("cable of %s: %w", h.Name, err)
	}
	return nil
}

// Claim has a host take over a mobile machine of one that was declared dead; its hypervisor starts the machine there anew.
// What is left of it on the dead host has the port that it had.
func (m *Machine) Claim(ctx context.Context, by *Host) error {
	if !m.Mobile {
		return fmt.Errorf("claim %s: it is not mobile", m.Name)
	}
	_, err := by.client.Migrations.ClaimMachine(ctx, connect.NewRequest(&ip6dv1.ClaimMachineRequest{
		Name: m.Name, Network: uint32(m.Network), Stable: m.Stable.String(),
	}))
	if err != nil {
		return fmt.Errorf("claim %s by %s: %w", m.Name, by.Name, err)
	}
	p, err := m.attach(ctx, by, "")
	if err != nil {
		return err
	}
	if err := errors.Join(m.port.guard.Shut(), p.guard.Open(), m.sendBy(p)); err != nil {
		return fmt.Errorf("claim %s by %s: %w", m.Name, by.Name, err)
	}
	m.port, m.host = p, by
	return nil
}
