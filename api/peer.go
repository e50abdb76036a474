package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/hwmap"
)

// maxPeerMessage bounds a request of another host, in bytes: a number or two.
const maxPeerMessage = 1 << 10

// NewPeerHandler serves PeerService, and that alone: what other hosts may ask. It answers hosts of the fleet's map only,
// by the address they come from, which must be their underlay address; and no dead one.
func NewPeerHandler(m *hwmap.Map) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewPeerServiceHandler(&peerServer{m}, connect.WithReadMaxBytes(maxPeerMessage)))
	refusal := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkSource(m, r.RemoteAddr); err != nil {
			if !refusal.IsSupported(r) {
				http.Error(w, err.Error(), http.StatusForbidden)
				return
			}
			// A failure to write it is the caller's loss only.
			_ = refusal.Write(w, r, connect.NewError(connect.CodePermissionDenied, err))
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func checkSource(m *hwmap.Map, remote string) error {
	source, err := netip.ParseAddrPort(remote)
	if err != nil {
		return fmt.Errorf("caller's address %q: %w", remote, err)
	}
	for _, h := range m.Hosts() {
		if h.Underlay != source.Addr() || h.ID == m.Self.ID {
			continue
		}
		if h.State == hwmap.Dead {
			return fmt.Errorf("host %d, at %s, was declared dead", h.ID, h.Underlay)
		}
		return nil
	}
	return fmt.Errorf("%s is the underlay address of no other host that host %d knows", source.Addr(), m.Self.ID)
}

// peerServer is the PeerService of a Map.
type peerServer struct{ *hwmap.Map }

func (s *peerServer) AcceptMachine(ctx context.Context, r *connect.Request[ip6dv1.AcceptMachineRequest]) (*connect.Response[ip6dv1.AcceptMachineResponse], error) {
	if err := s.Accept(ctx, addr.Machine(r.Msg.Machine)); err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.AcceptMachineResponse{}), nil
}

func (s *peerServer) CheckMachine(_ context.Context, r *connect.Request[ip6dv1.CheckMachineRequest]) (*connect.Response[ip6dv1.CheckMachineResponse], error) {
	v, err := s.Check(addr.Machine(r.Msg.Machine))
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.CheckMachineResponse{Epoch: v.Epoch, Ready: v.Ready, Delivering: v.Delivering}), nil
}

func (s *peerServer) RereadMachine(_ context.Context, r *connect.Request[ip6dv1.RereadMachineRequest]) (*connect.Response[ip6dv1.RereadMachineResponse], error) {
	s.Reread(addr.Machine(r.Msg.Machine))
	return connect.NewResponse(&ip6dv1.RereadMachineResponse{}), nil
}
