package api

import (
	"context"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

// suspectServer is the SuspectService of a Map.
type suspectServer struct{ hwmap *hwmap.Map }

func (s *suspectServer) AcceptStore(ctx context.Context, _ *connect.Request[ip6dv1.AcceptStoreRequest]) (*connect.Response[ip6dv1.AcceptStoreResponse], error) {
	generation, err := s.hwmap.AcceptStore(ctx)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.AcceptStoreResponse{Generation: generation}), nil
}

func (s *suspectServer) AcceptDatabase(ctx context.Context, _ *connect.Request[ip6dv1.AcceptDatabaseRequest]) (*connect.Response[ip6dv1.AcceptDatabaseResponse], error) {
	accepted, err := s.hwmap.AcceptDatabase(ctx)
	if err != nil {
		return nil, answer(err)
	}
	m := &ip6dv1.AcceptDatabaseResponse{Reason: accepted.Reason}
	for _, b := range accepted.Frozen {
		m.FrozenBlocks = append(m.FrozenBlocks, uint32(b))
	}
	for _, id := range accepted.Ended {
		m.EndedMachines = append(m.EndedMachines, id.String())
	}
	return connect.NewResponse(m), nil
}
