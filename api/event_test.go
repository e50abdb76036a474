package api

import (
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// watched are the events that a daemon tells, and the last token.
func watched(t *testing.T, d *daemon, q *ip6dv1.WatchEventsRequest) (kinds []string, token string, err error) {
	t.Helper()
	stream, err := d.Events.WatchEvents(t.Context(), connect.NewRequest(q))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	for stream.Receive() {
		if e := stream.Msg().Event; e != nil && e.Host == 0 {
			kinds = append(kinds, e.Kind+" "+e.Name)
		}
		token = stream.Msg().Token
	}
	return kinds, token, stream.Err()
}

func TestEventsGoOnAfterAToken(t *testing.T) {
	d := newDaemon(t, 1, nil)
	call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 7})
	kinds, token, err := watched(t, d, &ip6dv1.WatchEventsRequest{})
	if len(kinds) != 1 || kinds[0] != "created web1" || err != nil {
		t.Errorf("events %q, error %v", kinds, err)
	}
	call(t, d.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "web1"})
	kinds, _, err = watched(t, d, &ip6dv1.WatchEventsRequest{After: token})
	if len(kinds) != 1 || kinds[0] != "destroyed web1" || err != nil {
		t.Errorf("after %s: events %q, error %v", token, kinds, err)
	}
	call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web2", Network: 7})
	if kinds, _, err = watched(t, d, &ip6dv1.WatchEventsRequest{Snapshot: true}); len(kinds) != 1 || kinds[0] != "present web2" || err != nil {
		t.Errorf("snapshot: events %q, error %v", kinds, err)
	}
	for after, want := range map[string]connect.Code{"x": connect.CodeInvalidArgument, token + "0": connect.CodeOutOfRange} {
		if _, _, err := watched(t, d, &ip6dv1.WatchEventsRequest{After: after}); connect.CodeOf(err) != want {
			t.Errorf("after %q: error %v, want %v", after, err, want)
		}
	}
	history := call(t, d.Events.GetMachineHistory, &ip6dv1.GetMachineHistoryRequest{Name: "web1"})
	if len(history.Events) != 2 || history.Events[1].Kind != "destroyed" {
		t.Errorf("history %v", history)
	}
	refused(t, connect.CodeNotFound, d.Events.GetMachineHistory, &ip6dv1.GetMachineHistoryRequest{Name: "nobody"})
}

func TestARequestIDMakesACallHappenOnce(t *testing.T) {
	d := newDaemon(t, 1, nil)
	call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 7})
	call(t, d.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "web1", RequestId: "1"})
	call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 7})
	call(t, d.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "web1", RequestId: "1"})
	if m := call(t, d.Machines.GetMachine, &ip6dv1.GetMachineRequest{Name: "web1"}); m.Machine.State != ip6dv1.MachineState_MACHINE_STATE_HERE {
		t.Errorf("a late copy of a destroy made the machine %v", m)
	}
	refused(t, connect.CodeAlreadyExists, d.Machines.DetachMachine, &ip6dv1.DetachMachineRequest{Name: "web1", RequestId: "1"})
	refused(t, connect.CodeInvalidArgument, d.Machines.DetachMachine, &ip6dv1.DetachMachineRequest{Name: "web1", RequestId: "a b"})
}
