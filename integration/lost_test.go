package integration

import (
	"errors"
	"fmt"
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/integration/lab"
)

// refuses waits until a host has refused so many packets more by that name.
func (f *fleet) refuses(h *lab.Host, reason string, more uint64) {
	f.t.Helper()
	count := func() uint64 {
		drops, err := h.Drops(f.ctx)
		f.must(err)
		return drops[reason]
	}
	before := count()
	f.eventually(fmt.Sprintf("%s refuses packets as %s", h.Name, reason), func() error {
		if now := count(); now < before+more {
			return fmt.Errorf("it refused %d, of %d", now-before, more)
		}
		return nil
	})
}

// A host is lost with its machines: one is claimed by another host and talks on, and whatever the lost one still does, or does
// when it comes back, reaches nobody until it is revived.
func TestAMachineOfALostHostIsClaimedAndTheHostIsFencedWhenItIsBack(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2, blue1, blue2 := f.Machine("red1"), f.Machine("red2"), f.Machine("blue1"), f.Machine("blue2")
	lost, home, target := f.Host(1), f.Host(2), f.Host(3)
	f.allPairs()
	claimed, err := lab.StartUDP(red2, red1, 1000)
	f.must(err)
	orphan, err := lab.StartUDP(blue1, blue2, 1000) // of the lost host, and claimed by nobody
	f.must(err)
	f.must(claimed.WaitReceived(f.ctx, 500), orphan.WaitReceived(f.ctx, 500))

	f.must(lost.KillDaemon(), lost.Unplug())
	say := home.Client().Hosts
	_, err = say.DeclareHostDead(f.ctx, connect.NewRequest(&ip6dv1.DeclareHostDeadRequest{Host: lost.Name}))
	f.mustFail("declaring a host dead that was alive just now", err, "is alive")
	f.eventually("the host counts as lost", func() error {
		_, err := say.DeclareHostDead(f.ctx, connect.NewRequest(&ip6dv1.DeclareHostDeadRequest{Host: lost.Name}))
		return err
	})
	_, err = say.AdoptBlocks(f.ctx, connect.NewRequest(&ip6dv1.AdoptBlocksRequest{From: lost.Name}))
	f.must(err)
	f.must(red1.Claim(f.ctx, target))
	f.must(claimed.WaitReceived(f.ctx, 500), red1.Ping(f.ctx, red2), red2.Ping(f.ctx, red1))

	// Its cable is in again, and no daemon tells it anything.
	before := orphan.Received()
	f.must(lost.Plug())
	f.refuses(home, "dead_host", 500)
	f.must(lost.StartDaemonUntil(f.ctx, func(s *ip6dv1.GetStatusResponse) error {
		if !s.Fenced || s.Host.State != "dead" {
			return fmt.Errorf("it is %s, fenced %v", s.Host.State, s.Fenced)
		}
		return nil
	}))
	f.refuses(lost, "fenced", 500)
	leaked, err := home.Drops(f.ctx)
	f.must(err)
	f.refuses(lost, "fenced", 500)
	now, err := home.Drops(f.ctx)
	f.must(err)
	if now["dead_host"] != leaked["dead_host"] {
		t.Errorf("a fenced host sent %d packets", now["dead_host"]-leaked["dead_host"])
	}
	if got := orphan.Received(); got != before {
		t.Errorf("%d packets of the lost host came to %s", got-before, blue2.Name)
	}
	f.must(claimed.WaitReceived(f.ctx, 500))

	_, err = say.ReviveHost(f.ctx, connect.NewRequest(&ip6dv1.ReviveHostRequest{Host: lost.Name}))
	f.must(err)
	f.eventually("the host is taken back, cordoned", func() error {
		s, err := lost.Status(f.ctx)
		if err == nil && (s.Fenced || s.Host.State != "cordoned") {
			err = fmt.Errorf("it is %s, fenced %v", s.Host.State, s.Fenced)
		}
		return err
	})
	f.must(orphan.WaitReceived(f.ctx, 500), claimed.WaitReceived(f.ctx, 500))
	f.eventually("what was claimed has no port there", func() error { return f.portIsGone(red1, lost) })
	f.must(f.stateIs(red1, target, ip6dv1.MachineState_MACHINE_STATE_HERE), f.stateIs(blue1, lost, ip6dv1.MachineState_MACHINE_STATE_HERE))
	for _, s := range []*lab.UDPStream{claimed, orphan} {
		r, err := s.Stop()
		if err := errors.Join(err, r.SendError); err != nil || r.Duplicated+r.Foreign > 0 {
			t.Errorf("UDP %s -> %s: %d twice, %d foreign, %v", r.From, r.To, r.Duplicated, r.Foreign, err)
		}
	}
	_, err = say.UncordonHost(f.ctx, connect.NewRequest(&ip6dv1.UncordonHostRequest{Host: lost.Name}))
	f.must(err)
	var g *lab.Migration
	f.eventually("the host takes machines again, and that is known", func() (err error) {
		g, err = red1.Begin(f.ctx, lost)
		return err
	})
	f.must(g.Attach(f.ctx), g.Switchover(f.ctx), g.Finish(f.ctx))
	f.allPairs()
}
