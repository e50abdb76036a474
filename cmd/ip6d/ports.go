package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/hwmap"
	"ip6d/nat"
)

// ports is the hwmap.Ports of a host's netlink agent.
type ports struct {
	agent *host.Agent
	log   *slog.Logger
}

var _ hwmap.Ports = (*ports)(nil)

// Attach makes or adopts the port that spec asks for.
func (p *ports) Attach(s addr.Stable, spec hwmap.PortSpec) (hwmap.LocalPort, nat.Port, error) {
	var mac net.HardwareAddr
	if spec.GuestMAC != "" {
		var err error
		if mac, err = net.ParseMAC(spec.GuestMAC); err != nil {
			return hwmap.LocalPort{}, nat.Port{}, fmt.Errorf("%w: MAC %q: must be six bytes such as 02:00:5e:10:00:01", host.ErrInvalid, spec.GuestMAC)
		}
	}
	var made host.Port
	var err error
	if spec.Existing != "" {
		made, err = p.agent.AdoptPort(spec.Existing, s, mac)
	} else {
		made, err = p.agent.CreatePort(host.PortSpec{
			Address: s, Netns: spec.Netns, GuestName: spec.GuestDevice, GuestMAC: mac, Configure: !spec.Unconfigured,
		})
	}
	if err != nil {
		return hwmap.LocalPort{}, nat.Port{}, err
	}
	return hwmap.LocalPort{PortSpec: spec, Device: made.Name, MAC: made.MAC.String(), MTU: made.MTU}, made.Datapath(), nil
}

// Device is the name of the device that Attach would make or adopt.
func (p *ports) Device(s addr.Stable, spec hwmap.PortSpec) string {
	if spec.Existing != "" {
		return spec.Existing
	}
	return host.PortName(s.Machine())
}

// Find returns a port made before.
func (p *ports) Find(s addr.Stable, l hwmap.LocalPort) (nat.Port, error) {
	found, err := p.find(s, l)
	return found.Datapath(), err
}

// find returns the port of that name if it is still the same machine's: its device may be gone and its name another's.
func (p *ports) find(s addr.Stable, l hwmap.LocalPort) (host.Port, error) {
	found, err := p.agent.FindPort(l.Device)
	if err == nil && found.Address != s {
		return host.Port{}, fmt.Errorf("%w: %q is the port of %s now", host.ErrNoDevice, l.Device, found.Address)
	}
	return found, err
}

// Detach takes a port away.
func (p *ports) Detach(s addr.Stable, l hwmap.LocalPort) error {
	found, err := p.find(s, l)
	if errors.Is(err, host.ErrNoDevice) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.agent.RemovePort(found)
}

// SetHosts keeps the ways to these hosts. A host that cannot be reached now is the agent's to reach later, and no reason
// to stop following the fleet's map.
func (p *ports) SetHosts(hosts []hwmap.Host) error {
	peers := make([]host.Peer, len(hosts))
	for i, h := range hosts {
		peers[i] = host.Peer{Host: h.ID, Underlay: h.Underlay, Key: h.WireGuardKey, Endpoint: h.Endpoint}
	}
	if err := p.agent.SetHosts(peers); err != nil {
		if errors.Is(err, nat.ErrFull) { // which is not the agent's to heal
			return err
		}
		p.log.Warn("not every host can be reached", "error", err)
	}
	return nil
}
