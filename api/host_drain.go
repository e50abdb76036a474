package api

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

// drainIdle is how long a drain is silent at most, so that both ends know that it lives.
const drainIdle = 15 * time.Second

func (s *hostServer) DrainHost(ctx context.Context, r *connect.Request[ip6dv1.DrainHostRequest], stream *connect.ServerStream[ip6dv1.DrainHostResponse]) error {
	if err := s.drain(ctx, r.Msg, stream.Send); err != nil {
		return answer(err)
	}
	return nil
}

func (s *hostServer) drain(ctx context.Context, q *ip6dv1.DrainHostRequest, send func(*ip6dv1.DrainHostResponse) error) error {
	id, err := s.Map.FindHost(q.Host)
	if err != nil {
		return err
	}
	if id != s.Map.Self.ID {
		return fmt.Errorf("%w: host %d is drained through its own daemon, and this is that of host %d", hwmap.ErrUsage, id, s.Map.Self.ID)
	}
	o := hwmap.DrainOptions{Idle: drainIdle}
	for _, name := range q.To {
		to, err := s.Map.FindHost(name)
		if err != nil {
			return err
		}
		o.To = append(o.To, to)
	}
	if peers, ok := s.Map.Peers.(interface {
		Locals(context.Context, hwmap.Host) ([]hwmap.Local, error)
	}); ok {
		o.Ask = peers.Locals
	}
	return s.Map.Drain(ctx, o, func(step hwmap.DrainStep) error {
		next := &ip6dv1.DrainHostResponse{To: uint32(step.To), Gone: step.Gone, Left: uint32(step.Left), Whole: step.Whole, Done: step.Done, Blocks: handedOver(step.Blocks)}
		if step.Machine != nil {
			next.Machine = (&machineServer{s.Map}).message(*step.Machine)
		}
		return send(next)
	})
}

func handedOver(blocks []hwmap.Block) (handed []*ip6dv1.HandedOverBlock) {
	for _, b := range blocks {
		handed = append(handed, &ip6dv1.HandedOverBlock{Block: uint32(b.Block), Home: uint32(b.Home)})
	}
	return handed
}
