package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
)

// traceStub answers every trace.
type traceStub struct {
	ip6dv1connect.UnimplementedAuditServiceHandler
	asked string
}

func (s *traceStub) TraceMachine(_ context.Context, q *connect.Request[ip6dv1.TraceMachineRequest]) (*connect.Response[ip6dv1.TraceMachineResponse], error) {
	s.asked = q.Msg.Machine
	return connect.NewResponse(&ip6dv1.TraceMachineResponse{
		Layers: []*ip6dv1.TracedLayer{{Layer: "truth", Says: "none"}, {Layer: "kernel's moved", Says: "host 3", Disagrees: true}},
		Hops:   []string{"host 1 (this one): to host 3", "host 3: delivers it"},
	}), nil
}

func TestTraceShowsLayersAndHops(t *testing.T) {
	s := &traceStub{}
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewAuditServiceHandler(s))
	socket := serveStub(t, mux)
	got := runLine(t, "", "--socket", socket, "trace", "web1")
	want := strings.Join([]string{
		"truth           none", "kernel's moved  ! host 3", "way             host 1 (this one): to host 3", "then            host 3: delivers it", "",
	}, "\n")
	if got.status != exitOK || got.stdout != want || s.asked != "web1" {
		t.Errorf("trace: %+v, asked for %q, want\n%s", got, s.asked, want)
	}
	got = runLine(t, "", "--socket", socket, "-o", "json", "trace", "web1")
	if want := `{"layers":[{"layer":"truth","says":"none","disagrees":false},{"layer":"kernel's moved","says":"host 3","disagrees":true}],"hops":["host 1 (this one): to host 3","host 3: delivers it"]}` + "\n"; got.stdout != want {
		t.Errorf("in JSON: %s, want %s", got.stdout, want)
	}
}

// With the real daemon: check and trace say what is, by the socket.
func TestCheckAndTraceOfARunningDaemon(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a := h.machine("a", 42)
	var checked struct {
		Differences []struct{ Kind string } `json:"differences"`
	}
	h.run(&checked, "check")
	if len(checked.Differences) != 0 {
		t.Errorf("check reports %+v", checked.Differences)
	}
	var byName, byAddress struct{ Hops []string }
	h.run(&byName, "trace", "a")
	h.run(&byAddress, "trace", a.stable.String())
	if len(byName.Hops) != 1 || !strings.Contains(byName.Hops[0], "into its port") || byAddress.Hops[0] != byName.Hops[0] {
		t.Errorf("traced by name %v, by address %v", byName.Hops, byAddress.Hops)
	}
}
