package integration

import (
	"fmt"
	"os/exec"
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/integration/lab"
)

// A host is drained while its machines talk, with the orchestrator's part done by what the drain streams; switched off; and back.
func TestAHostIsDrainedWhileItsMachinesTalkSwitchedOffAndComesBack(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	drained, other := f.Host(1), f.Host(2)
	issued := make(map[string]string) // addresses, and the names that have them
	create := func(h *lab.Host, name string) {
		t.Helper()
		answer, err := h.Client().Machines.CreateMachine(f.ctx, connect.NewRequest(&ip6dv1.CreateMachineRequest{Name: name, Network: 1}))
		f.must(err)
		if who, twice := issued[answer.Msg.Machine.Stable]; twice {
			t.Errorf("%s is the address of %s and of %s", answer.Msg.Machine.Stable, who, name)
		}
		issued[answer.Msg.Machine.Stable] = name
	}
	for _, m := range f.Machines() {
		issued[m.Stable.String()] = m.Name
	}
	_, err := drained.Client().Machines.DestroyMachine(f.ctx, connect.NewRequest(&ip6dv1.DestroyMachineRequest{Name: "blue1"})) // it cannot move
	f.must(err)
	create(drained, "stopped1")
	create(drained, "stopped2")
	k := f.startTalk(red2, red1)
	k.flow()

	stream, err := drained.Client().Hosts.DrainHost(f.ctx, connect.NewRequest(&ip6dv1.DrainHostRequest{Host: drained.Name}))
	f.must(err)
	var done *ip6dv1.DrainHostResponse
	for stream.Receive() {
		r := stream.Msg()
		switch {
		case r.Done:
			done = r
		case r.Machine.GetName() == "stopped2":
			// By the command that a small fleet has for all of it.
			out, err := exec.Command(setup.ip6d, "--socket", drained.Socket(), "migrate", "run", "stopped2", "--to", fmt.Sprint(r.To), "--hook", `test -z "$IP6D_PORT"`).CombinedOutput()
			if err != nil {
				t.Fatalf("migrate run: %v\n%s", err, out)
			}
		case r.Machine.GetName() == "stopped1":
			m := drained.Client().Migrations
			_, err := m.BeginMigration(f.ctx, connect.NewRequest(&ip6dv1.BeginMigrationRequest{Name: "stopped1", To: r.To}))
			f.must(err)
			_, err = m.SwitchoverMigration(f.ctx, connect.NewRequest(&ip6dv1.SwitchoverMigrationRequest{Name: "stopped1"}))
			f.must(err)
			_, err = m.FinishMigration(f.ctx, connect.NewRequest(&ip6dv1.FinishMigrationRequest{Name: "stopped1"}))
			f.must(err)
		case r.Machine != nil:
			k.flow()
			f.must(f.Machine(r.Machine.Name).Move(f.ctx, f.Host(int(r.To))))
		}
	}
	f.must(stream.Err(), stream.Close())
	if done == nil || len(done.Blocks) != 1 || done.Blocks[0].Home == 1 {
		t.Fatalf("it ends with %v", done)
	}
	if red1.Host() == drained {
		t.Errorf("red1 is on %s", red1.Host().Name)
	}
	k.flow()

	f.must(drained.KillDaemon(), drained.Unplug())
	for i := range 20 { // nor is an id issued that the drained host has issued
		create(f.Host(int(done.Blocks[0].Home)), fmt.Sprintf("new%d", i))
	}
	k.flow()
	f.must(drained.Plug(), drained.StartDaemon(f.ctx))
	_, err = other.Client().Hosts.UncordonHost(f.ctx, connect.NewRequest(&ip6dv1.UncordonHostRequest{Host: drained.Name}))
	f.must(err)
	f.eventually("the host takes machines again", func() error {
		s, err := drained.Status(f.ctx)
		if err == nil && (s.Host.State != "joined" || len(s.Host.Blocks) == 0) {
			err = fmt.Errorf("it is %s, with blocks %v", s.Host.State, s.Host.Blocks)
		}
		return err
	})
	for i := range 20 {
		create(drained, fmt.Sprintf("back%d", i))
	}
	var g *lab.Migration
	f.eventually("that is known", func() (err error) {
		g, err = red1.Begin(f.ctx, drained)
		return err
	})
	f.must(g.Attach(f.ctx), g.Switchover(f.ctx), g.Finish(f.ctx))
	k.flow()
	k.end()
	f.must(red1.Ping(f.ctx, f.Machine("red3")), red2.Ping(f.ctx, red1))
}
