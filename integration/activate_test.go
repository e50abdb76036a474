package integration

import (
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/integration/lab"
)

// Nobody asks for the switchover: the machine sends on the target, and what it talks of goes on there.
func TestAMachineThatSendsOnTheTargetHasMovedThereAndNothingIsLost(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startTalk(red1, red2)
	for _, to := range []int{3, 1, 2} {
		k.flow()
		g, err := red2.BeginOnFirstPacket(f.ctx, f.Host(to))
		f.must(err, g.Attach(f.ctx))
		k.flow() // having a port there is not sending
		f.incoming(red2, f.Host(to))
		f.must(g.Resume(f.ctx), g.Finish(f.ctx))
	}
	k.flow()
	k.end()
	f.allPairs()
}

func TestAFirstPacketIsToldAgainToADaemonThatWasDead(t *testing.T) {
	f := newFleet(t, 2)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startTalk(red2, red1)
	g, err := red1.BeginOnFirstPacket(f.ctx, f.Host(2))
	f.must(err, g.Attach(f.ctx))
	for _, host := range []int{1, 2} {
		f.must(f.Host(host).KillDaemon(), f.Host(host).StartDaemon(f.ctx))
	}
	k.flow()
	f.incoming(red1, f.Host(2))
	f.must(g.Resume(f.ctx), g.Finish(f.ctx))
	k.flow()
	k.end()
	f.allPairs()
}

// incoming fails the test unless the machine is on its way to the host.
func (f *fleet) incoming(m *lab.Machine, h *lab.Host) {
	f.t.Helper()
	answer, err := h.Client().Machines.GetMachine(f.ctx, connect.NewRequest(&ip6dv1.GetMachineRequest{Name: m.Name}))
	f.must(err)
	if s := answer.Msg.Machine.State; s != ip6dv1.MachineState_MACHINE_STATE_INCOMING {
		f.t.Fatalf("%s is %s on %s, must be incoming", m.Name, s, h.Name)
	}
}
