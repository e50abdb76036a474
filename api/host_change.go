package api

import (
	"context"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

func (s *hostServer) CordonHost(ctx context.Context, r *connect.Request[ip6dv1.CordonHostRequest]) (*connect.Response[ip6dv1.CordonHostResponse], error) {
	h, err := s.change(ctx, r.Msg.Host, s.Map.Cordon)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.CordonHostResponse{Host: h}), nil
}

func (s *hostServer) UncordonHost(ctx context.Context, r *connect.Request[ip6dv1.UncordonHostRequest]) (*connect.Response[ip6dv1.UncordonHostResponse], error) {
	h, err := s.change(ctx, r.Msg.Host, s.Map.Uncordon)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.UncordonHostResponse{Host: h}), nil
}

func (s *hostServer) RemoveHost(ctx context.Context, r *connect.Request[ip6dv1.RemoveHostRequest]) (*connect.Response[ip6dv1.RemoveHostResponse], error) {
	id, err := s.Map.FindHost(r.Msg.Host)
	if err == nil {
		err = s.Map.Remove(ctx, id)
	}
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.RemoveHostResponse{Host: uint32(id)}), nil
}

func (s *hostServer) HandOverBlocks(ctx context.Context, r *connect.Request[ip6dv1.HandOverBlocksRequest]) (*connect.Response[ip6dv1.HandOverBlocksResponse], error) {
	var to addr.Host // whoever has the fewest
	if r.Msg.To != "" {
		var err error
		if to, err = s.Map.FindHost(r.Msg.To); err != nil {
			return nil, answer(err)
		}
	}
	blocks, err := s.Map.HandOver(ctx, to)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.HandOverBlocksResponse{Blocks: handedOver(blocks)}), nil
}

// change has the state of a host changed, and returns the host as it is then.
func (s *hostServer) change(ctx context.Context, host string, to func(context.Context, addr.Host) (hwmap.Host, error)) (*ip6dv1.Host, error) {
	id, err := s.Map.FindHost(host)
	if err != nil {
		return nil, err
	}
	h, err := to(ctx, id)
	if err != nil {
		return nil, err
	}
	now := hwmap.HostView{Host: h}
	for _, v := range s.Map.Hosts() {
		if v.ID == id {
			now.Blocks = v.Blocks
		}
	}
	return s.message(now), nil
}
