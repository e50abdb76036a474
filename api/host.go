package api

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

// hostServer is the HostService of a Map.
type hostServer struct{ HandlerOptions }

func (s *hostServer) ListHosts(context.Context, *connect.Request[ip6dv1.ListHostsRequest]) (*connect.Response[ip6dv1.ListHostsResponse], error) {
	list := &ip6dv1.ListHostsResponse{}
	for _, v := range s.Map.Hosts() {
		list.Hosts = append(list.Hosts, s.message(v))
	}
	return connect.NewResponse(list), nil
}

func (s *hostServer) GetHost(_ context.Context, r *connect.Request[ip6dv1.GetHostRequest]) (*connect.Response[ip6dv1.GetHostResponse], error) {
	id, err := s.Map.FindHost(r.Msg.Host)
	if err != nil {
		return nil, answer(err)
	}
	for _, v := range s.Map.Hosts() {
		if v.ID == id {
			return connect.NewResponse(&ip6dv1.GetHostResponse{Host: s.message(v)}), nil
		}
	}
	return nil, answer(fmt.Errorf("%w %d: `ip6d host list` shows those of the fleet", hwmap.ErrUnknownHost, id))
}

func (s *hostServer) GetStatus(context.Context, *connect.Request[ip6dv1.GetStatusRequest]) (*connect.Response[ip6dv1.GetStatusResponse], error) {
	now := s.Map.Status()
	drops, err := s.Datapath.Drops()
	if err != nil {
		return nil, answer(fmt.Errorf("read drop counters: %w", err))
	}
	status := &ip6dv1.GetStatusResponse{
		Version:   s.Version,
		Host:      s.message(hwmap.HostView{Host: now.Self}),
		Endpoints: s.Endpoints,
		Following: now.Following,
		Revision:  int64(now.Revision),
		Machines:  make(map[string]uint32),
		InDoubt:   now.InDoubt,
		IdsFree:   uint32(now.IDsFree),

		HintsSent:   now.HintsSent,
		HintsHeeded: now.HintsHeeded,

		Fenced:          now.Fenced,
		DatabaseSuspect: now.DatabaseSuspect,
		StoreSuspect:    now.StoreSuspect,
	}
	for _, h := range now.Pending {
		status.PendingHosts = append(status.PendingHosts, uint32(h))
	}
	for _, id := range now.Unknown {
		status.UnknownMachines = append(status.UnknownMachines, id.String())
	}
	for _, v := range s.Map.Hosts() {
		if v.ID == now.Self.ID {
			status.Host = s.message(v)
		}
	}
	if !now.StaleSince.IsZero() {
		status.StaleSince = timestamppb.New(now.StaleSince)
	}
	if now.StoreErr != nil {
		status.StoreError = now.StoreErr.Error()
	}
	if s.Firewall != nil {
		status.Firewall = s.Firewall()
	}
	for state, n := range now.Machines {
		status.Machines[string(state)] = uint32(n)
	}
	for _, d := range drops {
		if d.Packets > 0 {
			status.Drops = append(status.Drops, dropMessage(d))
		}
	}
	for _, f := range s.Datapath.Fill() {
		status.Maps = append(status.Maps, &ip6dv1.MapFill{Map: f.Map, Entries: uint32(f.Entries), Size: uint32(f.Size)})
	}
	return connect.NewResponse(status), nil
}

// message is a host as the API describes it.
func (s *hostServer) message(v hwmap.HostView) *ip6dv1.Host {
	h := &ip6dv1.Host{
		Host:     uint32(v.ID),
		Name:     v.Name,
		Identity: v.Identity,
		State:    string(v.State),
		Prefix:   s.Map.Plan.HostPrefix(v.ID).String(),
		Self:     v.ID == s.Map.Self.ID,
	}
	if v.Underlay.IsValid() {
		h.Underlay = v.Underlay.String()
	}
	for _, b := range v.Blocks {
		h.Blocks = append(h.Blocks, uint32(b))
	}
	return h
}
