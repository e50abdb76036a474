package main

import (
	"strings"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// machineAnswer is a machine in the answers of the `machine` commands.
type machineAnswer struct {
	Name    string      `json:"name"`
	Network uint32      `json:"network"`
	Cell    uint32      `json:"cell"`
	Machine uint32      `json:"machine"`
	Stable  string      `json:"stable"`
	Routing string      `json:"routing,omitempty"` // at the host where it is
	Host    uint32      `json:"host,omitempty"`
	Epoch   uint64      `json:"epoch"`
	State   string      `json:"state"`
	Peer    uint32      `json:"peer,omitempty"` // the other host of a migration
	Port    *portAnswer `json:"port,omitempty"`
}

type portAnswer struct {
	Device      string `json:"device"`
	MAC         string `json:"mac"`
	MTU         uint32 `json:"mtu"`
	Netns       string `json:"netns,omitempty"`
	GuestDevice string `json:"guest_device,omitempty"`
}

// destroyedAnswer is the answer of `machine destroy`.
type destroyedAnswer struct {
	Name      string `json:"name"`
	Destroyed bool   `json:"destroyed"`
}

func newMachineAnswer(m *ip6dv1.Machine) machineAnswer {
	a := machineAnswer{
		Name: m.Name, Network: m.Network, Cell: m.Cell, Machine: m.Machine, Stable: m.Stable, Routing: m.Routing,
		Host: m.Host, Epoch: m.Epoch, State: word(m.State.String(), "MACHINE_STATE_"), Peer: m.Peer,
	}
	if p := m.Port; p != nil {
		a.Port = &portAnswer{Device: p.Device, MAC: p.Mac, MTU: p.Mtu, Netns: p.Netns, GuestDevice: p.GuestDevice}
	}
	return a
}

// word is the name of a value of an enum as people and programs read it: MACHINE_STATE_HERE is here.
func word(value, prefix string) string { return strings.ToLower(strings.TrimPrefix(value, prefix)) }

func (c *cli) printMachine(m *ip6dv1.Machine) error {
	a := newMachineAnswer(m)
	return c.print(a, func(t *table) {
		t.row("name", a.Name)
		t.row("network", a.Network)
		t.row("stable", a.Stable)
		t.row("routing", a.Routing)
		t.row("cell", a.Cell)
		t.row("machine", a.Machine)
		t.row("host", a.Host)
		t.row("epoch", a.Epoch)
		t.row("state", a.State)
		if a.Peer != 0 {
			t.row("other host", a.Peer)
		}
		if a.Port == nil {
			t.row("port", "")
			return
		}
		t.row("port", a.Port.Device)
		t.row("mac", a.Port.MAC)
		t.row("mtu", a.Port.MTU)
		if a.Port.Netns != "" {
			t.row("netns", a.Port.Netns)
			t.row("guest device", a.Port.GuestDevice)
		}
	})
}

func (c *cli) printMachines(all []*ip6dv1.Machine) error {
	var answers []machineAnswer
	for _, m := range all {
		answers = append(answers, newMachineAnswer(m))
	}
	return c.print(answers, func(t *table) {
		t.row("NAME", "NETWORK", "STABLE", "HOST", "STATE", "PEER", "PORT")
		for _, a := range answers {
			device, peer := "", any("")
			if a.Port != nil {
				device = a.Port.Device
			}
			if a.Peer != 0 {
				peer = a.Peer
			}
			t.row(a.Name, a.Network, a.Stable, a.Host, a.State, peer, device)
		}
	})
}
