package hwmap_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/hwmap"
)

func declareDead(id addr.Host, force bool) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.DeclareDead(ctx, id, force)
		return err
	}
}

func adopt(from, to addr.Host) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.AdoptBlocks(ctx, from, to)
		return err
	}
}

// lose kills a host and declares it dead, on another one.
func (f *fleet) lose(id, on addr.Host) {
	f.t.Helper()
	f.servers[id].kill()
	f.insist("declare dead", func() error { return f.call(on, declareDead(id, false)) })
	f.setLost(id, true) // nobody stops what runs on without a daemon
}

func (f *fleet) adoptBlocks(from, to addr.Host) {
	f.t.Helper()
	f.insist("adopt", func() error { return f.call(to, adopt(from, to)) })
}

func TestOnlyAnotherHostThatIsNotAliveIsDeclaredDeadUnlessForced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		for _, c := range []struct {
			id    addr.Host
			force bool
			want  error
		}{
			{1, true, hwmap.ErrUsage}, {9, true, hwmap.ErrUnknownHost}, {2, false, hwmap.ErrState},
		} {
			if err := f.call(1, declareDead(c.id, c.force)); !errors.Is(err, c.want) {
				t.Errorf("host %d, forced %v: %v, want %v", c.id, c.force, err, c.want)
			}
		}
		if h := f.view().hosts[2]; h.State != hwmap.Joined {
			t.Errorf("host 2 is %+v", h)
		}
		for range 2 {
			f.must(f.call(1, declareDead(2, true)))
		}
		f.check(nil)
		if h := f.view().hosts[2]; h.State != hwmap.Dead || !h.Fenced {
			t.Errorf("host 2 is %+v", h)
		}
		f.say(1, (*hwmap.Map).Revive, 2)
		f.servers[2].kill()
		f.must(f.call(1, declareDead(2, false)))
		if h := f.view().hosts[2]; h.State != hwmap.Dead || h.Fenced {
			t.Errorf("host 2 is %+v", h)
		}
		if _, err := f.on(1).Revive(t.Context(), 1); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("a host that is not dead was revived: %v", err)
		}
	})
}

// A host takes the word from the store, keeps it while it is cut off, and takes it back only on the store's word.
func TestOtherHostsRefuseADeadOneUntilTheStoreSaysThatItIsRevived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.lose(1, 2)
		f.settled()
		refused := func(host addr.Host, want bool) {
			t.Helper()
			s := f.servers[host]
			if got := slices.Contains(s.kernel.deadHosts(), addr.Host(1)); got != want {
				t.Errorf("host %d refuses what host 1 sends: %v, want %v", host, got, want)
			}
			_, hosts := s.devices.content()
			if got := !slices.ContainsFunc(hosts, func(h hwmap.Host) bool { return h.ID == 1 }); got != want {
				t.Errorf("host %d has no way to host 1: %v, want %v", host, got, want)
			}
		}
		refused(2, true)
		refused(3, true)
		f.servers[3].reboot()
		f.cutOff(3)
		f.servers[3].start()
		refused(3, true) // from its cache
		f.servers[3].kill()
		f.servers[1].start()
		f.settled()
		f.say(2, (*hwmap.Map).Revive, 1)
		f.servers[3].start()
		refused(3, true)
		f.inject(nil)
		f.check(nil)
		refused(2, false)
		refused(3, false)
	})
}

// What an earlier daemon left in the kernel's maps of a host that is not dead goes when the store has been listed.
func TestAStaleDeadHostIsForgottenAtAListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.servers[2].kill()
		f.must(f.servers[2].kernel.PutDead(1))
		f.must(f.servers[2].kernel.PutDead(9))
		f.servers[2].start()
		f.check(nil)
	})
}

func TestAMigrationToAHostThatDiesGoesToAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		if err := f.call(1, begin("web1", 3)); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("begin to another target while the first lives: %v", err)
		}
		f.lose(2, 1)
		f.settled()
		f.migrate("web1", 1, 3)
		f.check(map[string]addr.Host{"web1": 3})
		f.servers[2].start()
		f.say(1, (*hwmap.Map).Revive, 2)
		f.check(map[string]addr.Host{"web1": 3})
		if l := f.servers[2].local(1); l.State != "" {
			t.Errorf("the target that came back has %+v", l)
		}
	})
}

func TestAnAuditNamesWhatADeadHostLeavesBehindAndNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.create(1, "web2")
		f.migrate("web2", 1, 2)
		f.migrate("web2", 2, 1)
		reports := func(when string, want ...audit.Kind) {
			t.Helper()
			f.settled()
			found, _ := f.audited(2, false)
			var kinds []audit.Kind
			for _, d := range found {
				kinds = append(kinds, d.Kind)
			}
			slices.Sort(kinds)
			if !slices.Equal(kinds, want) {
				t.Errorf("%s: the audit says %v, want %v", when, found, want)
			}
		}
		reports("before")
		f.lose(1, 2)
		reports("lost", audit.HomeDead, audit.OwnerDead)
		f.adoptBlocks(1, 2)
		reports("adopted", audit.BlockFrozen, audit.OwnerDead)
		f.claim(2, "web2", 2)
		reports("claimed", audit.BlockFrozen)
		f.must(f.servers[2].kernel.DeleteDead(1))
		f.must(f.servers[2].kernel.SetFenced(true))
		reports("tampered with", audit.BlockFrozen, audit.DeadMissing, audit.FenceDiffers)
	})
}
