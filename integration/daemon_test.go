package integration

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func TestPacketsFlowWithoutAnyDaemon(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	f.must(red2.Move(f.ctx, f.Host(3))) // one that is not at home is the harder case
	k := f.startTalk(red1, red2)
	k.flow()
	f.withoutDaemons(k)
	f.must(red2.Move(f.ctx, f.Host(1))) // and what they know is whole
	k.flow()
	k.end()
	f.allPairs()
}

// withoutDaemons kills every daemon while machines talk, and starts them again.
func (f *fleet) withoutDaemons(k *talk) {
	f.t.Helper()
	for _, h := range f.Hosts() {
		f.must(h.KillDaemon())
	}
	k.flow()
	f.allPairs()
	for _, h := range f.Hosts() {
		f.must(h.StartDaemon(f.ctx))
		k.flow()
	}
}

func TestAMigrationGoesOnWhenADaemonWasKilledInBetween(t *testing.T) {
	for _, c := range []struct {
		name   string
		killed int
		after  string // the step
	}{
		{"source, after begin", 1, "begin"},
		{"target, after begin", 2, "begin"},
		{"source, after attach", 1, "attach"},
		{"target, after attach", 2, "attach"},
		{"source, after switchover", 1, "switchover"},
		{"target, after switchover", 2, "switchover"},
		{"a third, after switchover", 3, "switchover"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(t, 3)
			red1, red2 := f.Machine("red1"), f.Machine("red2")
			k := f.startTalk(red2, red1)
			crash := func(step string) {
				t.Helper()
				if step == c.after {
					f.must(f.Host(c.killed).KillDaemon())
					k.flow()
					f.must(f.Host(c.killed).StartDaemon(f.ctx))
				}
				k.flow()
			}
			g, err := red1.Begin(f.ctx, f.Host(2))
			f.must(err)
			crash("begin")
			f.must(g.Attach(f.ctx))
			crash("attach")
			f.must(g.Switchover(f.ctx))
			crash("switchover")
			f.must(g.Finish(f.ctx))
			k.flow()
			k.end()
		})
	}
}

func TestAMigrationIsCalledOffAfterTheSourceWasKilled(t *testing.T) {
	for _, at := range []int{1, 2} {
		t.Run(fmt.Sprintf("on host %d", at), func(t *testing.T) {
			f := newFleet(t, 2)
			red1, red2 := f.Machine("red1"), f.Machine("red2")
			k := f.startTalk(red2, red1)
			g, err := red1.Begin(f.ctx, f.Host(2))
			f.must(err, g.Attach(f.ctx), f.Host(1).KillDaemon())
			k.flow()
			if at == 2 { // the target needs no source for it
				f.must(g.Abort(f.ctx, f.Host(2)), f.Host(1).StartDaemon(f.ctx))
			} else {
				f.must(f.Host(1).StartDaemon(f.ctx), g.Abort(f.ctx, f.Host(1)))
			}
			f.eventually("the source has it as if nothing had been", func() error { return f.stateIs(red1, f.Host(1), ip6dv1.MachineState_MACHINE_STATE_HERE) })
			f.eventually("the target has forgotten it", func() error { return f.portIsGone(red1, f.Host(2)) })
			k.flow()
			k.end()
		})
	}
}

func TestARouteDeletedByHandIsBack(t *testing.T) {
	f := newFleet(t, 2)
	prefix := addr.DefaultPlan.HostPrefix(2)
	to := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 128)}
	routes := func() (found []netlink.Route, err error) {
		err = f.Host(1).Do(func() error {
			found, err = netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{Dst: to}, netlink.RT_FILTER_DST)
			return err
		})
		return found, err
	}
	var before []netlink.Route
	f.eventually("the route is there", func() (err error) {
		before, err = routes()
		if err == nil && len(before) != 1 {
			err = fmt.Errorf("%d routes to %s", len(before), to)
		}
		return err
	})
	f.must(f.Host(1).Do(func() error { return netlink.RouteDel(&before[0]) }))
	f.eventually("the route is back", func() error {
		now, err := routes()
		if err == nil && (len(now) != 1 || !now[0].Gw.Equal(before[0].Gw) || now[0].LinkIndex != before[0].LinkIndex) {
			err = fmt.Errorf("routes to %s: %v, want %v", to, now, before)
		}
		return err
	})
	f.allPairs()
}

// startAlone starts a daemon that cannot reach the store.
func (f *fleet) startAlone(host int) {
	f.t.Helper()
	f.must(f.Host(host).StartDaemonUntil(f.ctx, func(s *ip6dv1.GetStatusResponse) error {
		if s.Following {
			return errors.New("it follows a store that is not there")
		}
		return nil
	}))
}
