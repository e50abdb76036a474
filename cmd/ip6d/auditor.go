package main

import (
	"context"
	"fmt"
	"time"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/host"
	"ip6d/hwmap"
	"ip6d/nat"
)

// newAuditor returns the Auditor of a host: of its hardware map, its datapath and its network.
// locals asks another host which machines it has; nil: there is none.
func newAuditor(o audit.Options, m *hwmap.Map, d *nat.Datapath, a *host.Agent, locals hwmap.AskLocals) *audit.Auditor {
	network := host.Audit{
		Agent:       a,
		Ports:       func(context.Context) ([]host.WantedPort, error) { return wantedPorts(m) },
		RestorePort: func(ctx context.Context, number addr.Machine) error { return m.RestorePort(ctx, number) },
	}
	o.Sources = []audit.Source{hwmap.Audit{Map: m}, nat.Audit{Datapath: d, Want: network.Wanted}, network}
	if locals != nil {
		o.Fleet = func(ctx context.Context) ([]audit.Difference, []audit.Unanswered, error) {
			return hwmap.Audit{Map: m}.LookAtFleet(ctx, locals)
		}
	}
	o.About = func() (int64, string) {
		s := m.Status()
		switch {
		case o.Cluster == "":
			return int64(s.Revision), "standalone"
		case s.Following:
			return int64(s.Revision), "followed"
		case s.StoreErr != nil:
			return int64(s.Revision), fmt.Sprintf("not followed: %v", s.StoreErr)
		}
		return int64(s.Revision), "not followed"
	}
	return audit.NewAuditor(o)
}

// traced is what `ip6d trace` asks.
func traced(m *hwmap.Map, d *nat.Datapath) func(context.Context, addr.ID) (audit.Trace, error) {
	return func(ctx context.Context, id addr.ID) (audit.Trace, error) {
		if id.Cell != m.Cell {
			return audit.Trace{}, fmt.Errorf("%w: machine %s is of cell %d, this host of cell %d", hwmap.ErrUnknownMachine, id, id.Cell, m.Cell)
		}
		return hwmap.Audit{Map: m}.Trace(ctx, id.Machine, func(h addr.Host) (string, bool, error) {
			hops, err := d.Hosts()
			for _, hop := range hops {
				switch {
				case hop.Host != h:
				case hop.Kind == nat.HopL3:
					return fmt.Sprintf("device %d", hop.Ifindex), true, err
				case hop.MAC == nil:
					return fmt.Sprintf("device %d, next hop %s, whose MAC the kernel is asked for", hop.Ifindex, hop.Gateway), true, err
				default:
					return fmt.Sprintf("device %d, next hop %s, MAC %s, trusted for %s", hop.Ifindex, hop.Gateway, hop.MAC, hop.Trusted.Round(time.Second)), true, err
				}
			}
			return "", false, err
		})
	}
}

func wantedPorts(m *hwmap.Map) ([]host.WantedPort, error) {
	views, err := m.PortViews()
	if err != nil {
		return nil, err
	}
	var all []host.WantedPort
	for _, v := range views {
		all = append(all, host.WantedPort{
			Machine: v.Name, Address: v.Stable, Device: v.Port.Device, MTU: v.Port.MTU, Netns: v.Port.Netns, Entry: v.Entry,
		})
	}
	return all, nil
}

// auditTask audits in the background.
type auditTask struct {
	*audit.Auditor
	every time.Duration
}

func (auditTask) String() string { return "audit in the background" }

func (auditTask) Ready() <-chan struct{} { return readyAtOnce() }

func (t auditTask) Run(ctx context.Context) error { return t.Auditor.Run(ctx, t.every) }
