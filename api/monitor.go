package api

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
	"ip6d/nat"
)

// monitorQueue is how many drops wait for a caller who is slow.
const monitorQueue = 1024

// missedPause is how often a stream tells of drops that it does not show.
const missedPause = time.Second

func (s *hostServer) GetDrops(context.Context, *connect.Request[ip6dv1.GetDropsRequest]) (*connect.Response[ip6dv1.GetDropsResponse], error) {
	drops, err := s.Datapath.Drops()
	if err != nil {
		return nil, answer(err)
	}
	lost, err := s.Datapath.EventsLost()
	if err != nil {
		return nil, answer(err)
	}
	all := &ip6dv1.GetDropsResponse{Missed: &ip6dv1.MissedDrops{Sampled: lost.Sampled, RingFull: lost.RingFull}}
	for _, d := range drops {
		all.Drops = append(all.Drops, dropMessage(d))
	}
	return connect.NewResponse(all), nil
}

func dropMessage(d nat.Drop) *ip6dv1.Drop {
	return &ip6dv1.Drop{Reason: d.Reason, Packets: d.Packets, Meaning: d.Meaning}
}

func (s *hostServer) MonitorDrops(ctx context.Context, r *connect.Request[ip6dv1.MonitorDropsRequest], stream *connect.ServerStream[ip6dv1.MonitorDropsResponse]) error {
	filter, err := s.filter(r.Msg)
	if err != nil {
		return answer(err)
	}
	before, err := s.Datapath.EventsLost()
	if err != nil {
		return answer(err)
	}
	follower := s.Events.Follow(monitorQueue, filter.wants)
	defer follower.Close()
	if err := stream.Send(&ip6dv1.MonitorDropsResponse{}); err != nil {
		return err
	}
	tick := time.NewTicker(missedPause)
	defer tick.Stop()
	for {
		var next ip6dv1.MonitorDropsResponse
		select {
		case <-ctx.Done():
			return answer(ctx.Err())
		case e := <-follower.Events():
			next.Drop = s.event(e)
		case <-tick.C:
			now, err := s.Datapath.EventsLost()
			if err != nil {
				return answer(err)
			}
			missed := &ip6dv1.MissedDrops{Sampled: now.Sampled - before.Sampled, RingFull: now.RingFull - before.RingFull, TooSlow: follower.Missed()}
			if missed.Sampled+missed.RingFull+missed.TooSlow == 0 {
				continue
			}
			next.Missed, before = missed, now
		}
		if err := stream.Send(&next); err != nil {
			return err
		}
	}
}

// event is a drop as the API describes it.
func (s *hostServer) event(e nat.Event) *ip6dv1.DropEvent {
	m := &ip6dv1.DropEvent{
		Time: timestamppb.New(e.Time), Reason: e.Reason, Way: e.Way, NextHeader: uint32(e.NextHeader), Length: uint32(e.Length),
	}
	// Not by package net, which lists all devices for one, and there is one for each machine.
	if device, err := netlink.LinkByIndex(e.Ifindex); err == nil {
		m.Device = device.Attrs().Name
	}
	if e.Source.IsValid() {
		m.Source, m.Destination = e.Source.String(), e.Destination.String()
	}
	if from, ok := sender(s.Map.Plan, e); ok {
		m.SourceMachine, _ = s.Map.NameOf(from.ID())
	}
	if to, ok := meant(s.Map.Plan, e.Destination); ok {
		m.DestinationMachine, _ = s.Map.NameOf(to.ID())
	}
	return m
}

// sender returns the machine that sent a packet: the one whose port it came in by, whatever its source says.
func sender(p addr.Plan, e nat.Event) (addr.Stable, bool) {
	if !e.Sender.IsZero() {
		return e.Sender, true
	}
	return meant(p, e.Source)
}

// meant returns the machine that an address, in either form, is of.
func meant(p addr.Plan, a netip.Addr) (addr.Stable, bool) {
	s, err := p.StableFrom(a)
	if err != nil {
		var r addr.Routing
		if r, err = p.RoutingFrom(a); err == nil {
			s, _, err = p.Decode(r)
		}
	}
	return s, err == nil && s.Kind() == addr.KindMachine
}

// dropFilter is what a caller of MonitorDrops wants to see.
type dropFilter struct {
	plan    addr.Plan
	reasons map[string]bool // nil: all
	machine *addr.ID
	network addr.Network // 0: all
}

func (f dropFilter) wants(e nat.Event) bool {
	if f.reasons != nil && !f.reasons[e.Reason] {
		return false
	}
	if f.machine == nil && f.network == 0 {
		return true
	}
	is := func(s addr.Stable, known bool) bool {
		return known && (f.machine == nil || s.ID() == *f.machine) && (f.network == 0 || s.Network() == f.network)
	}
	return is(sender(f.plan, e)) || is(meant(f.plan, e.Destination))
}

func (s *hostServer) filter(r *ip6dv1.MonitorDropsRequest) (dropFilter, error) {
	f := dropFilter{plan: s.Map.Plan, network: addr.Network(r.GetNetwork())}
	if r.Network != nil && f.network == 0 {
		return f, fmt.Errorf("%w: network 0 is the infrastructure network; a machine's is 1 to 4294967295", hwmap.ErrUsage)
	}
	if r.Machine != "" {
		id, err := s.findMachine(r.Machine)
		if err != nil {
			return f, err
		}
		f.machine = &id
	}
	if len(r.Reasons) == 0 {
		return f, nil
	}
	drops, err := s.Datapath.Drops()
	if err != nil {
		return f, err
	}
	var names []string
	known := make(map[string]bool, len(drops))
	for _, d := range drops {
		names = append(names, d.Reason)
		known[d.Reason] = true
	}
	f.reasons = make(map[string]bool)
	for _, name := range r.Reasons {
		if !known[name] {
			return f, fmt.Errorf("%w: there is no reason %q; the reasons are: %s", hwmap.ErrUsage, name, strings.Join(names, ", "))
		}
		f.reasons[name] = true
	}
	return f, nil
}

// findMachine returns the machine that a caller means: by its name, one of its addresses, its number, or CELL/MACHINE.
// Errors: hwmap.ErrUnknownMachine.
func (s *hostServer) findMachine(text string) (addr.ID, error) {
	v, err := s.Map.Machine(text)
	if err == nil {
		return v.ID, nil
	}
	if a, err := netip.ParseAddr(text); err == nil {
		m, ok := meant(s.Map.Plan, a)
		if !ok {
			return addr.ID{}, fmt.Errorf("%w: %s is not the address of a machine", hwmap.ErrUsage, text)
		}
		return m.ID(), nil
	}
	cell, number, both := strings.Cut(text, "/")
	if !both {
		cell, number = fmt.Sprint(s.Map.Cell), text
	}
	c, cellErr := addr.ParseCell(cell)
	m, numberErr := addr.ParseMachine(number)
	if cellErr != nil || numberErr != nil {
		return addr.ID{}, err // of a name, which is what it must have been meant as
	}
	return addr.ID{Cell: c, Machine: m}, nil
}
