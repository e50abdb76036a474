package integration

import (
	"fmt"
	"os"
	"testing"

	"connectrpc.com/connect"

	"ip6d/integration/lab"
)

func TestWithTheStoreAwayPacketsFlowAndMachinesAreCreatedAndNoneMoves(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	f.must(red2.Move(f.ctx, f.Host(3)))
	k := f.startTalk(red1, red2)
	f.must(f.StopStore())
	k.flow()

	late, err := f.AddMachine(f.ctx, f.Host(1), lab.MachineOptions{Name: "late", Network: lab.RedNetwork, Mobile: true})
	f.must(err)
	f.must(late.Ping(f.ctx, red2))

	for _, m := range []*lab.Machine{red2, late} { // one that has moved before, and one that has not
		_, err = m.Begin(f.ctx, f.Host(2))
		f.mustFail("begin without a store", err, "store")
		if code := connect.CodeOf(err); code != connect.CodeUnavailable {
			t.Errorf("its code is %v, want unavailable: %v", code, err)
		}
		k.flow()
	}

	f.must(f.StartStore(f.ctx))
	f.followed()
	for _, m := range []*lab.Machine{red2, late} {
		f.must(m.Move(f.ctx, f.Host(2)))
	}
	k.flow()
	k.end()
	f.allPairs()
}

func TestASwitchoverWithoutTheStoreChangesNothing(t *testing.T) {
	f := newFleet(t, 2)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startTalk(red2, red1)
	g, err := red1.Begin(f.ctx, f.Host(2))
	f.must(err, g.Attach(f.ctx), f.StopStore())
	err = g.Switchover(f.ctx)
	f.mustFail("switchover without a store", err, "store")
	k.flow()
	f.must(f.StartStore(f.ctx))
	f.followed()
	f.must(g.Switchover(f.ctx), g.Finish(f.ctx))
	k.flow()
	k.end()
}

func TestADaemonStartedWithoutTheStoreGoesOn(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	f.must(red2.Move(f.ctx, f.Host(3)))
	k := f.startTalk(red1, red2)
	f.must(f.StopStore())
	for _, host := range []int{1, 3} {
		f.must(f.Host(host).KillDaemon())
		k.flow()
		f.startAlone(host)
		k.flow()
	}
	late, err := f.AddMachine(f.ctx, f.Host(1), lab.MachineOptions{Name: "late", Network: lab.RedNetwork})
	f.must(err)
	f.must(late.Ping(f.ctx, red2))
	f.must(f.StartStore(f.ctx))
	f.followed()
	f.must(red2.Move(f.ctx, f.Host(2)))
	k.flow()
	k.end()
	f.allPairs()
}

func TestForwardingComesBackFromTheFilesAlone(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	f.must(red2.Move(f.ctx, f.Host(3)))
	f.allPairs()
	f.must(f.StopStore())
	for _, h := range f.Hosts() {
		f.must(h.KillDaemon())
	}
	for _, h := range f.Hosts() {
		// What a reboot does to the datapath. The ports stay, which it would not leave.
		f.must(os.RemoveAll(h.Pins()))
		f.startAlone(h.Number)
	}
	f.allPairs()
	k := f.startTalk(red1, red2)
	k.flow()
	k.end()
}

func TestAMachineThatMovedWhileAHostsDaemonWasDeadIsFound(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startTalk(red1, red2)
	f.must(f.Host(1).KillDaemon())
	g, err := red2.Begin(f.ctx, f.Host(3))
	f.must(err, g.Attach(f.ctx), g.Switchover(f.ctx))
	k.flow() // host 1 still sends to host 2, which forwards
	f.must(f.Host(1).StartDaemon(f.ctx), g.Finish(f.ctx))
	k.flow()
	k.end()
}

// followed waits until every host follows the store.
func (f *fleet) followed() {
	f.t.Helper()
	for _, h := range f.Hosts() {
		f.eventually(h.Name+" follows the store", func() error {
			s, err := h.Status(f.ctx)
			if err == nil && !s.Following {
				err = fmt.Errorf("it does not: %s", s.StoreError)
			}
			return err
		})
	}
}
