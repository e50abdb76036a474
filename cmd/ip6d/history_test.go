package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// happened is what every stub tells.
var happened = []*ip6dv1.Event{
	{Time: timestamppb.New(time.Unix(1, 0)), Kind: "away", Name: "web1", Network: 42, Epoch: 1, From: "switching", To: "away", Peer: 2, RequestIds: []string{"r1"}},
	{Time: timestamppb.New(time.Unix(2, 0)), Kind: "host", Host: 2, HostState: "cordoned"},
}

func (s *stub) GetMachineHistory(_ context.Context, q *connect.Request[ip6dv1.GetMachineHistoryRequest]) (*connect.Response[ip6dv1.GetMachineHistoryResponse], error) {
	return reply(s, q, &ip6dv1.GetMachineHistoryResponse{Events: happened[:1]})
}

func (s *stub) WatchEvents(_ context.Context, q *connect.Request[ip6dv1.WatchEventsRequest], to *connect.ServerStream[ip6dv1.WatchEventsResponse]) error {
	s.asked = q.Msg
	for _, e := range happened {
		if err := to.Send(&ip6dv1.WatchEventsResponse{Event: e, Token: "t." + e.Kind}); err != nil {
			return err
		}
	}
	return to.Send(&ip6dv1.WatchEventsResponse{Token: "t.end"})
}

func TestCommandsShowWhatHappened(t *testing.T) {
	s := &stub{}
	socket := startStub(t, s)
	const away = `{"time":"1970-01-01T00:00:01Z","kind":"away","name":"web1","network":42,"machine":0,"epoch":1,"from":"switching","to":"away","peer":2,"request_ids":["r1"]}`
	const host = `{"time":"1970-01-01T00:00:02Z","kind":"host","host":2,"host_state":"cordoned"}`
	for line, want := range map[string]string{
		"-o json machine history web1": "[" + away + "]\n",
		"-o json events":               `{"event":` + away + `,"token":"t.away"}` + "\n" + `{"event":` + host + `,"token":"t.host"}` + "\n" + `{"token":"t.end"}` + "\n",
	} {
		got := runLine(t, "", append([]string{"--socket", socket}, strings.Fields(line)...)...)
		if got.status != exitOK || got.stdout != want {
			t.Errorf("ip6d %s: %+v\nwant %s", line, got, want)
		}
	}
	got := runLine(t, "", "--socket", socket, "events", "--after", "t.1", "--follow")
	if q, ok := s.asked.(*ip6dv1.WatchEventsRequest); !ok || q.After != "t.1" || !q.Follow || q.Snapshot {
		t.Errorf("events asks for %v", s.asked)
	}
	if got.status != exitOK || strings.Count(got.stdout, "\n") != 2 || !strings.Contains(got.stdout, "away  web1  away  host 2  r1") || !strings.Contains(got.stdout, "host 2  cordoned") {
		t.Errorf("ip6d events: %+v", got)
	}
	got = runLine(t, "", "--socket", socket, "machine", "destroy", "web1", "--request-id", "r2")
	if q, ok := s.asked.(*ip6dv1.DestroyMachineRequest); !ok || q.RequestId != "r2" || got.status != exitOK {
		t.Errorf("destroy asks for %v: %+v", s.asked, got)
	}
}
