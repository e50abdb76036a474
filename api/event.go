package api

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

// eventIdle is how long a stream of events is silent at most, so that both ends know that it lives.
const eventIdle = 15 * time.Second

// eventServer is the EventService of a Map.
type eventServer struct{ *hwmap.Map }

func (s *eventServer) WatchEvents(ctx context.Context, r *connect.Request[ip6dv1.WatchEventsRequest], stream *connect.ServerStream[ip6dv1.WatchEventsResponse]) error {
	o := hwmap.EventsOptions{After: r.Msg.After, Snapshot: r.Msg.Snapshot, Follow: r.Msg.Follow, Idle: eventIdle}
	err := s.Map.WatchEvents(ctx, o, func(e *hwmap.Event, token string) error {
		next := &ip6dv1.WatchEventsResponse{Token: token}
		if e != nil {
			next.Event = eventMessage(*e)
		}
		return stream.Send(next)
	})
	if err != nil {
		return answer(err)
	}
	return nil
}

func (s *eventServer) GetMachineHistory(ctx context.Context, r *connect.Request[ip6dv1.GetMachineHistoryRequest]) (*connect.Response[ip6dv1.GetMachineHistoryResponse], error) {
	events, err := s.History(ctx, r.Msg.Name)
	if err != nil {
		return nil, answer(err)
	}
	history := &ip6dv1.GetMachineHistoryResponse{}
	for _, e := range events {
		history.Events = append(history.Events, eventMessage(e))
	}
	return connect.NewResponse(history), nil
}

// eventMessage is an event as the API describes it.
func eventMessage(e hwmap.Event) *ip6dv1.Event {
	m := &ip6dv1.Event{
		Time: timestamppb.New(e.Time), Kind: string(e.Kind), Name: e.Name, Network: uint32(e.Network), Machine: uint32(e.Machine), Epoch: e.Epoch,
		From: string(e.From), To: string(e.To), Peer: uint32(e.Peer), Host: uint32(e.Host), HostState: string(e.HostState),
	}
	for _, r := range e.Requests {
		m.RequestIds = append(m.RequestIds, r.ID)
	}
	return m
}

// requestIDs gives each call the request id that its caller named it by, where its message has one.
func requestIDs() connect.Interceptor {
	return connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, r connect.AnyRequest) (connect.AnyResponse, error) {
			if named, ok := r.Any().(interface{ GetRequestId() string }); ok {
				var err error
				if ctx, err = hwmap.WithRequestID(ctx, named.GetRequestId()); err != nil {
					return nil, answer(err)
				}
			}
			return next(ctx, r)
		}
	})
}
