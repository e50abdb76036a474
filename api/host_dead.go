package api

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

func (s *hostServer) DeclareHostDead(ctx context.Context, r *connect.Request[ip6dv1.DeclareHostDeadRequest]) (*connect.Response[ip6dv1.DeclareHostDeadResponse], error) {
	h, err := s.change(ctx, r.Msg.Host, func(ctx context.Context, id addr.Host) (hwmap.Host, error) {
		return s.Map.DeclareDead(ctx, id, r.Msg.Force)
	})
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.DeclareHostDeadResponse{Host: h}), nil
}

func (s *hostServer) ReviveHost(ctx context.Context, r *connect.Request[ip6dv1.ReviveHostRequest]) (*connect.Response[ip6dv1.ReviveHostResponse], error) {
	h, err := s.change(ctx, r.Msg.Host, s.Map.Revive)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.ReviveHostResponse{Host: h}), nil
}

func (s *hostServer) AdoptBlocks(ctx context.Context, r *connect.Request[ip6dv1.AdoptBlocksRequest]) (*connect.Response[ip6dv1.AdoptBlocksResponse], error) {
	from, err := s.Map.FindHost(r.Msg.From)
	if err != nil {
		return nil, answer(err)
	}
	to := s.Map.Self.ID
	if r.Msg.To != "" {
		if to, err = s.Map.FindHost(r.Msg.To); err != nil {
			return nil, answer(err)
		}
	}
	blocks, err := s.Map.AdoptBlocks(ctx, from, to)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.AdoptBlocksResponse{Blocks: blockNumbers(blocks), To: uint32(to)}), nil
}

func (s *hostServer) UnfreezeBlocks(ctx context.Context, r *connect.Request[ip6dv1.UnfreezeBlocksRequest]) (*connect.Response[ip6dv1.UnfreezeBlocksResponse], error) {
	blocks, err := s.unfreeze(ctx, r.Msg)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.UnfreezeBlocksResponse{Blocks: blockNumbers(blocks)}), nil
}

func (s *hostServer) unfreeze(ctx context.Context, q *ip6dv1.UnfreezeBlocksRequest) ([]addr.Block, error) {
	if (q.Host == "") == (q.Block == nil) {
		return nil, fmt.Errorf("%w: give either a block or the host that is home of several", hwmap.ErrUsage)
	}
	if q.Block != nil {
		block := addr.Block(*q.Block)
		frozen, err := s.Map.UnfreezeBlock(ctx, block)
		if err != nil || !frozen {
			return nil, err
		}
		return []addr.Block{block}, nil
	}
	home, err := s.Map.FindHost(q.Host)
	if err != nil {
		return nil, err
	}
	return s.Map.UnfreezeBlocks(ctx, home)
}

func blockNumbers(blocks []addr.Block) (numbers []uint32) {
	for _, b := range blocks {
		numbers = append(numbers, uint32(b))
	}
	return numbers
}
