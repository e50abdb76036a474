package api

import (
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/nat"
)

const (
	here      = ip6dv1.MachineState_MACHINE_STATE_HERE
	leaving   = ip6dv1.MachineState_MACHINE_STATE_LEAVING
	away      = ip6dv1.MachineState_MACHINE_STATE_AWAY
	incoming  = ip6dv1.MachineState_MACHINE_STATE_INCOMING
	elsewhere = ip6dv1.MachineState_MACHINE_STATE_ELSEWHERE
)

// twoHosts starts hosts 1 and 2 of one fleet, which know each other, with the machine web1 on host 1.
func twoHosts(t *testing.T) (source, target *daemon) {
	fleet := database(t)
	source, target = newDaemon(t, 1, fleet), newDaemon(t, 2, fleet)
	eventually(t, "the hosts know each other", func() bool {
		return len(source.hwmap.Hosts()) == 2 && len(target.hwmap.Hosts()) == 2
	})
	call(t, source.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 42})
	call(t, source.Machines.AttachMachine, &ip6dv1.AttachMachineRequest{Name: "web1", Netns: "/run/netns/web1"})
	return source, target
}

// is waits until the machine web1 is in state as d sees it.
func is(t *testing.T, d *daemon, state ip6dv1.MachineState) *ip6dv1.Machine {
	t.Helper()
	var m *ip6dv1.Machine
	eventually(t, "web1 is "+state.String(), func() bool {
		m = call(t, d.Machines.GetMachine, &ip6dv1.GetMachineRequest{Name: "web1"}).Machine
		return m.State == state
	})
	return m
}

func TestAMachineMovesThroughTheAPI(t *testing.T) {
	source, target := twoHosts(t)
	before := is(t, source, here)

	begin := &ip6dv1.BeginMigrationRequest{Name: "web1", To: 2}
	for range 2 { // every step can be repeated
		if got := call(t, source.Migrations.BeginMigration, begin).Stable; got != before.Stable {
			t.Errorf("begin answers %s, want the stable address %s", got, before.Stable)
		}
	}
	if m := is(t, source, leaving); m.Peer != 2 || m.Host != 1 {
		t.Errorf("on the source: %v, want it on host 1, going to 2", m)
	}
	if m := is(t, target, incoming); m.Peer != 1 || m.Host != 1 || m.Port != nil {
		t.Errorf("on the target: %v, want it on host 1, without port", m)
	}

	switchover := &ip6dv1.SwitchoverMigrationRequest{Name: "web1"}
	if text := refused(t, connect.CodeFailedPrecondition, source.Migrations.SwitchoverMigration, switchover); !strings.Contains(text, "attach it there first") {
		t.Errorf("switchover without a port on the target says %q", text)
	}
	call(t, target.Machines.AttachMachine, &ip6dv1.AttachMachineRequest{Name: "web1", Netns: "/run/netns/web1"})
	for range 2 {
		got := call(t, source.Migrations.SwitchoverMigration, switchover)
		if got.Outcome != ip6dv1.Outcome_OUTCOME_COMMITTED || got.Epoch != before.Epoch+1 {
			t.Fatalf("switchover answers %v, want committed at epoch %d", got, before.Epoch+1)
		}
	}
	is(t, source, away)
	after := is(t, target, here)
	if after.Stable != before.Stable || after.Routing == before.Routing || after.Epoch != before.Epoch+1 {
		t.Errorf("moved from %v to %v, want the same stable and another routing address", before, after)
	}
	refused(t, connect.CodeFailedPrecondition, source.Migrations.AbortMigration, &ip6dv1.AbortMigrationRequest{Name: "web1"})

	eventually(t, "finish succeeds", func() bool {
		_, err := source.Migrations.FinishMigration(t.Context(), connect.NewRequest(&ip6dv1.FinishMigrationRequest{Name: "web1"}))
		if err != nil && connect.CodeOf(err) != connect.CodeDeadlineExceeded {
			t.Fatal(err)
		}
		return err == nil
	})
	call(t, source.Migrations.FinishMigration, &ip6dv1.FinishMigrationRequest{Name: "web1"})
	if m := is(t, source, elsewhere); m.Host != 2 || m.Routing != after.Routing || m.Port != nil {
		t.Errorf("the source knows %v, want it on host 2 at %s", m, after.Routing)
	}
	if text := refused(t, connect.CodeNotFound, source.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "web1"}); !strings.Contains(text, "host 2") {
		t.Errorf("destroy on the source says %q, not where the machine is", text)
	}
	call(t, target.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "web1"})
}

func TestAnAbortLeavesTheMachineWhereItWas(t *testing.T) {
	for _, on := range []string{"source", "target"} {
		t.Run(on, func(t *testing.T) {
			source, target := twoHosts(t)
			call(t, source.Migrations.BeginMigration, &ip6dv1.BeginMigrationRequest{Name: "web1", To: 2})
			d := map[string]*daemon{"source": source, "target": target}[on]
			call(t, d.Migrations.AbortMigration, &ip6dv1.AbortMigrationRequest{Name: "web1"})
			if m := is(t, source, here); m.Host != 1 || m.Peer != 0 || m.Port == nil {
				t.Errorf("after the abort: %v, want it on host 1 with its port", m)
			}
			is(t, target, elsewhere)
			call(t, source.Migrations.AbortMigration, &ip6dv1.AbortMigrationRequest{Name: "web1"})
		})
	}
}

func TestBeginTellsWhatTheTargetSaid(t *testing.T) {
	source, target := twoHosts(t)
	call(t, target.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 7})
	text := refused(t, connect.CodeAlreadyExists, source.Migrations.BeginMigration, &ip6dv1.BeginMigrationRequest{Name: "web1", To: 2})
	if !strings.Contains(text, `another machine "web1"`) {
		t.Errorf("begin says %q, not what the target refused", text)
	}
	call(t, source.Migrations.AbortMigration, &ip6dv1.AbortMigrationRequest{Name: "web1"})
	is(t, source, here)
}

func TestBeginToAnUnknownHostChangesNothing(t *testing.T) {
	source, _ := twoHosts(t)
	if text := refused(t, connect.CodeNotFound, source.Migrations.BeginMigration, &ip6dv1.BeginMigrationRequest{Name: "web1", To: 9}); !strings.Contains(text, "9") {
		t.Errorf("begin says %q, not which host", text)
	}
	refused(t, connect.CodeInvalidArgument, source.Migrations.BeginMigration, &ip6dv1.BeginMigrationRequest{Name: "web1", To: 1})
	is(t, source, here)
}

func TestATargetWithoutRoomExhaustsAResource(t *testing.T) {
	source, target := twoHosts(t)
	full := fmt.Errorf("%w: machines has 2 entries, raise sizes.machines", nat.ErrFull)
	_ = target.datapath.locked(func() { target.datapath.broken = full })
	text := refused(t, connect.CodeResourceExhausted, source.Migrations.BeginMigration, &ip6dv1.BeginMigrationRequest{Name: "web1", To: 2})
	if !strings.Contains(text, "raise sizes.machines") {
		t.Errorf("it says %q, not what to do", text)
	}
	_ = source.datapath.locked(func() { source.datapath.broken = full })
	refused(t, connect.CodeResourceExhausted, source.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "b", Network: 1})
}

func TestWhetherATargetIsReadyCanBeAsked(t *testing.T) {
	source, target := twoHosts(t)
	check := &ip6dv1.CheckMigrationRequest{Name: "web1"}
	refused(t, connect.CodeFailedPrecondition, source.Migrations.CheckMigration, check)
	refused(t, connect.CodeNotFound, source.Migrations.CheckMigration, &ip6dv1.CheckMigrationRequest{Name: "web9"})
	call(t, source.Migrations.BeginMigration, &ip6dv1.BeginMigrationRequest{Name: "web1", To: 2})
	if got := call(t, source.Migrations.CheckMigration, check); got.Ready || !strings.Contains(got.Problem, "host 2 has no port") {
		t.Errorf("without a port on the target: %v", got)
	}
	call(t, source.Machines.DetachMachine, &ip6dv1.DetachMachineRequest{Name: "web1"})
	if got := call(t, source.Migrations.CheckMigration, check); !got.Ready || got.Problem != "" {
		t.Errorf("with no port on the source either: %v", got)
	}
	call(t, source.Migrations.SwitchoverMigration, &ip6dv1.SwitchoverMigrationRequest{Name: "web1"})
	is(t, target, here)
	eventually(t, "the source forgets it, without a port on the target", func() bool {
		_, err := source.Migrations.FinishMigration(t.Context(), connect.NewRequest(&ip6dv1.FinishMigrationRequest{Name: "web1"}))
		return err == nil
	})
}
