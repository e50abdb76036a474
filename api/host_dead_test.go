package api

import (
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// The whole of it through the API: a host is lost, its machine claimed, and the host taken back.
func TestAMachineOfALostHostIsClaimedThroughTheAPI(t *testing.T) {
	fleet := database(t)
	lost, d := newDaemon(t, 2, fleet), newDaemon(t, 1, fleet)
	eventually(t, "host 1 knows host 2", func() bool { return len(call(t, d.Hosts.ListHosts, &ip6dv1.ListHostsRequest{}).Hosts) == 2 })
	web := call(t, lost.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 7}).Machine
	claim := &ip6dv1.ClaimMachineRequest{Name: "web1", Network: 7, Stable: web.Stable}

	refused(t, connect.CodeInvalidArgument, d.Hosts.DeclareHostDead, &ip6dv1.DeclareHostDeadRequest{Host: "host1", Force: true})
	refused(t, connect.CodeNotFound, d.Hosts.DeclareHostDead, &ip6dv1.DeclareHostDeadRequest{Host: "9"})
	eventually(t, "host 2 is alive", func() bool {
		_, err := d.Hosts.DeclareHostDead(t.Context(), connect.NewRequest(&ip6dv1.DeclareHostDeadRequest{Host: "host2"}))
		return connect.CodeOf(err) == connect.CodeFailedPrecondition
	})
	refused(t, connect.CodeFailedPrecondition, d.Hosts.ReviveHost, &ip6dv1.ReviveHostRequest{Host: "host2"})
	refused(t, connect.CodeFailedPrecondition, d.Hosts.AdoptBlocks, &ip6dv1.AdoptBlocksRequest{From: "host2"})
	refused(t, connect.CodeFailedPrecondition, d.Migrations.ClaimMachine, claim)

	if h := call(t, d.Hosts.DeclareHostDead, &ip6dv1.DeclareHostDeadRequest{Host: "host2", Force: true}).Host; h.State != "dead" {
		t.Errorf("it is %s", h.State)
	}
	status := func() *ip6dv1.GetStatusResponse { return call(t, lost.Hosts.GetStatus, &ip6dv1.GetStatusRequest{}) }
	eventually(t, "host 2 is fenced", func() bool { return status().Fenced })
	refused(t, connect.CodeFailedPrecondition, lost.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "web1"})
	// Its question is refused as one that nobody answers: it may be revived.
	refuses(t, "a question of a dead host", asks(t, d.hwmap.Self, lost.hwmap.Self.Underlay.String(), lost.identity), "declared dead")

	refused(t, connect.CodeFailedPrecondition, d.Migrations.ClaimMachine, claim)
	if r := call(t, d.Hosts.AdoptBlocks, &ip6dv1.AdoptBlocksRequest{From: "host2"}); r.To != 1 || len(r.Blocks) != 1 {
		t.Errorf("adopted: %v", r)
	}
	for _, wrong := range []*ip6dv1.ClaimMachineRequest{
		{Name: "web1", Network: 7, Stable: "nonsense"}, {Name: "web1", Network: 7, Stable: "fdab::1"}, {Name: "web1", Network: 8, Stable: web.Stable},
	} {
		refused(t, connect.CodeInvalidArgument, d.Migrations.ClaimMachine, wrong)
	}
	for range 2 {
		if m := call(t, d.Migrations.ClaimMachine, claim).Machine; m.Stable != web.Stable || m.Host != 1 {
			t.Errorf("claimed: %v", m)
		}
	}
	call(t, d.Hosts.ReviveHost, &ip6dv1.ReviveHostRequest{Host: "host2"})
	eventually(t, "host 2 is not fenced", func() bool { return !status().Fenced })
	if s := status(); s.Host.State != "cordoned" || s.Machines["here"] != 0 {
		t.Errorf("host 2 is %v", s)
	}
	refused(t, connect.CodeInvalidArgument, d.Hosts.UnfreezeBlocks, &ip6dv1.UnfreezeBlocksRequest{})
	for i, want := range []int{1, 0} {
		if r := call(t, d.Hosts.UnfreezeBlocks, &ip6dv1.UnfreezeBlocksRequest{Host: "host1"}); len(r.Blocks) != want {
			t.Errorf("unfrozen in call %d: %v", i, r.Blocks)
		}
	}
}
