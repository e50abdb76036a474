package integration

import (
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/integration/lab"
)

func TestAMachineMovesWhileItTalksAndNothingIsLost(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startTalk(red1, red2)
	f.moveAround(k, red2)
}

// moveAround moves the second machine of a talk away from its home 2, next to its peer on 1, and home, and ends the talk.
func (f *fleet) moveAround(k *talk, mover *lab.Machine) {
	f.t.Helper()
	for _, to := range []int{3, 1, 2} {
		k.flow()
		f.must(mover.Move(f.ctx, f.Host(to)))
	}
	k.flow()
	k.end()
	f.allPairs()
}

func TestBothMachinesOfATalkMove(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startTalk(red1, red2)
	peer := f.startTalk(red2, red1)
	for _, m := range []struct {
		machine *lab.Machine
		to      int
	}{{red1, 3}, {red2, 3}, {red1, 2}, {red2, 1}} {
		k.flow()
		f.must(m.machine.Move(f.ctx, f.Host(m.to)))
	}
	k.flow()
	peer.flow()
	k.end()
	peer.end()
	f.allPairs()
}

func TestAMachineKeepsItsAddressAndItsEpochGrowsByOneAtEachMove(t *testing.T) {
	f := newFleet(t, 2)
	red1 := f.Machine("red1")
	get := func() *ip6dv1.Machine {
		t.Helper()
		answer, err := red1.Host().Client().Machines.GetMachine(f.ctx, connect.NewRequest(&ip6dv1.GetMachineRequest{Name: red1.Name}))
		f.must(err)
		return answer.Msg.Machine
	}
	first := get()
	for move, to := range []int{2, 1} {
		f.must(red1.Move(f.ctx, f.Host(to)))
		now := get()
		if now.Stable != first.Stable || now.Host != uint32(to) || now.Epoch != first.Epoch+uint64(move)+1 {
			t.Errorf("after move %d it is %v; want address %s, host %d, epoch %d", move+1, now, first.Stable, to, first.Epoch+uint64(move)+1)
		}
	}
}

func TestSwitchoverWaitsForTheTargetsPort(t *testing.T) {
	f := newFleet(t, 2)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startTalk(red2, red1)
	g, err := red1.Begin(f.ctx, f.Host(2))
	f.must(err)
	err = g.Switchover(f.ctx)
	f.mustFail("switchover without a port on the target", err, "attach")
	if code := connect.CodeOf(err); code != connect.CodeFailedPrecondition {
		t.Errorf("its code is %v, want failed_precondition", code)
	}
	k.flow()
	f.must(g.Attach(f.ctx), g.Switchover(f.ctx), g.Finish(f.ctx))
	k.flow()
	k.end()
}

func TestAMigrationIsCalledOffOnEitherSide(t *testing.T) {
	for _, c := range []struct {
		name     string
		at       int
		attached bool
	}{
		{"on the source, before the target has a port", 1, false},
		{"on the source", 1, true},
		{"on the target, before it has a port", 2, false},
		{"on the target", 2, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(t, 2)
			red1, red2 := f.Machine("red1"), f.Machine("red2")
			k := f.startTalk(red2, red1)
			g, err := red1.Begin(f.ctx, f.Host(2))
			f.must(err)
			if c.attached {
				f.must(g.Attach(f.ctx))
			}
			f.must(g.Abort(f.ctx, f.Host(c.at)))
			k.flow()
			f.eventually("the source has it as if nothing had been", func() error { return f.stateIs(red1, f.Host(1), ip6dv1.MachineState_MACHINE_STATE_HERE) })
			f.eventually("the target has forgotten it", func() error { return f.portIsGone(red1, f.Host(2)) })
			f.must(red1.Move(f.ctx, f.Host(2))) // nothing stands in the way of the next
			k.flow()
			k.end()
		})
	}
}
