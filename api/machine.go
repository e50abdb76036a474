package api

import (
	"context"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

// defaultGuestDevice is the name of the machine's end of a veth pair.
const defaultGuestDevice = "eth0"

// machineServer is the MachineService of a Map.
type machineServer struct{ *hwmap.Map }

func (s *machineServer) CreateMachine(ctx context.Context, r *connect.Request[ip6dv1.CreateMachineRequest]) (*connect.Response[ip6dv1.CreateMachineResponse], error) {
	v, err := s.Create(ctx, r.Msg.Name, addr.Network(r.Msg.Network))
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.CreateMachineResponse{Machine: s.message(v)}), nil
}

func (s *machineServer) AttachMachine(ctx context.Context, r *connect.Request[ip6dv1.AttachMachineRequest]) (*connect.Response[ip6dv1.AttachMachineResponse], error) {
	spec := hwmap.PortSpec{
		Netns:        r.Msg.Netns,
		GuestDevice:  r.Msg.GuestDevice,
		Unconfigured: r.Msg.Unconfigured,
		Existing:     r.Msg.Device,
		GuestMAC:     r.Msg.Mac,
	}
	if spec.Netns != "" && spec.GuestDevice == "" {
		spec.GuestDevice = defaultGuestDevice
	}
	v, err := s.Attach(ctx, r.Msg.Name, spec)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.AttachMachineResponse{Machine: s.message(v)}), nil
}

func (s *machineServer) DetachMachine(ctx context.Context, r *connect.Request[ip6dv1.DetachMachineRequest]) (*connect.Response[ip6dv1.DetachMachineResponse], error) {
	v, err := s.Detach(ctx, r.Msg.Name)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.DetachMachineResponse{Machine: s.message(v)}), nil
}

func (s *machineServer) ListMachines(context.Context, *connect.Request[ip6dv1.ListMachinesRequest]) (*connect.Response[ip6dv1.ListMachinesResponse], error) {
	all, err := s.Machines()
	if err != nil {
		return nil, answer(err)
	}
	list := &ip6dv1.ListMachinesResponse{}
	for _, v := range all {
		list.Machines = append(list.Machines, s.message(v))
	}
	return connect.NewResponse(list), nil
}

func (s *machineServer) GetMachine(_ context.Context, r *connect.Request[ip6dv1.GetMachineRequest]) (*connect.Response[ip6dv1.GetMachineResponse], error) {
	v, err := s.Machine(r.Msg.Name)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.GetMachineResponse{Machine: s.message(v)}), nil
}

func (s *machineServer) DestroyMachine(ctx context.Context, r *connect.Request[ip6dv1.DestroyMachineRequest]) (*connect.Response[ip6dv1.DestroyMachineResponse], error) {
	if err := s.Destroy(ctx, r.Msg.Name); err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.DestroyMachineResponse{}), nil
}

// message is a machine as the API describes it.
func (s *machineServer) message(v hwmap.MachineView) *ip6dv1.Machine {
	m := &ip6dv1.Machine{
		Name:    v.Name,
		Network: uint32(v.Network),
		Cell:    uint32(v.ID.Cell),
		Machine: uint32(v.ID.Machine),
		Stable:  v.Stable.String(),
		Host:    uint32(v.Host),
		Epoch:   v.Epoch,
		State:   stateMessage(v.State),
		Peer:    uint32(v.Peer),
	}
	// A host that is not known leaves the address out: there is no routing form without one.
	if r, err := s.Plan.Encode(v.Stable, v.Host); err == nil {
		m.Routing = r.String()
	}
	if p := v.Port; p != nil {
		m.Port = &ip6dv1.Port{Device: p.Device, Mac: p.MAC, Mtu: uint32(p.MTU), Netns: p.Netns, GuestDevice: p.GuestDevice}
	}
	return m
}

func stateMessage(s hwmap.LocalState) ip6dv1.MachineState {
	switch s {
	case "":
		return ip6dv1.MachineState_MACHINE_STATE_ELSEWHERE
	case hwmap.Here:
		return ip6dv1.MachineState_MACHINE_STATE_HERE
	case hwmap.Leaving:
		return ip6dv1.MachineState_MACHINE_STATE_LEAVING
	case hwmap.Switching:
		return ip6dv1.MachineState_MACHINE_STATE_SWITCHING
	case hwmap.Away:
		return ip6dv1.MachineState_MACHINE_STATE_AWAY
	case hwmap.Incoming:
		return ip6dv1.MachineState_MACHINE_STATE_INCOMING
	case hwmap.Destroying:
		return ip6dv1.MachineState_MACHINE_STATE_DESTROYING
	case hwmap.Quarantined:
		return ip6dv1.MachineState_MACHINE_STATE_QUARANTINED
	}
	return ip6dv1.MachineState_MACHINE_STATE_UNSPECIFIED
}
