package api

import (
	"context"
	"log/slog"
	"net/http"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/hwmap"
)

// maxPeerMessage bounds a request of another host, in bytes: a number or two.
const maxPeerMessage = 1 << 10

// NewPeerHandler serves PeerService, and that alone: what other hosts may ask. It answers living hosts of the fleet's map
// only, which it knows by their underlay address and their key; see NewPeerListener. log takes who asked what.
func NewPeerHandler(m *hwmap.Map, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewPeerServiceHandler(&peerServer{m}, connect.WithReadMaxBytes(maxPeerMessage), connect.WithInterceptors(callLog{log})))
	return &peerGuard{hwmap: m, next: mux, limits: make(map[addr.Host]*peerLimit)}
}

// peerServer is the PeerService of a Map.
type peerServer struct{ *hwmap.Map }

func (s *peerServer) AcceptMachine(ctx context.Context, r *connect.Request[ip6dv1.AcceptMachineRequest]) (*connect.Response[ip6dv1.AcceptMachineResponse], error) {
	if err := s.Accept(ctx, addr.Machine(r.Msg.Machine)); err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.AcceptMachineResponse{}), nil
}

func (s *peerServer) CheckMachine(ctx context.Context, r *connect.Request[ip6dv1.CheckMachineRequest]) (*connect.Response[ip6dv1.CheckMachineResponse], error) {
	v, err := s.Check(ctx, addr.Machine(r.Msg.Machine))
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.CheckMachineResponse{Epoch: v.Epoch, Accepted: v.Accepted, Ready: v.Ready, Here: v.Here, Delivering: v.Delivering, Active: v.Active}), nil
}

func (s *peerServer) ActivateMachine(ctx context.Context, r *connect.Request[ip6dv1.ActivateMachineRequest]) (*connect.Response[ip6dv1.ActivateMachineResponse], error) {
	if err := s.Activate(ctx, addr.Machine(r.Msg.Machine)); err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.ActivateMachineResponse{}), nil
}

func (s *peerServer) RereadMachine(_ context.Context, r *connect.Request[ip6dv1.RereadMachineRequest]) (*connect.Response[ip6dv1.RereadMachineResponse], error) {
	s.Reread(addr.Machine(r.Msg.Machine))
	return connect.NewResponse(&ip6dv1.RereadMachineResponse{}), nil
}

// maxLocals is how many machines a page of ListLocals has.
const maxLocals = 10_000

func (s *peerServer) ListLocals(_ context.Context, r *connect.Request[ip6dv1.ListLocalsRequest]) (*connect.Response[ip6dv1.ListLocalsResponse], error) {
	locals, more := s.Locals(addr.Machine(r.Msg.From), maxLocals)
	page := &ip6dv1.ListLocalsResponse{More: more}
	for _, l := range locals {
		page.Machines = append(page.Machines, &ip6dv1.LocalMachine{Machine: uint32(l.Machine), Epoch: l.Epoch, State: string(l.State)})
	}
	return connect.NewResponse(page), nil
}
