package hwmap_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

func TestMachineMovesAwayOnAndHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		created := f.create(1, "web1")
		for i, move := range [][2]addr.Host{{1, 2}, {2, 3}, {3, 1}} {
			f.migrate("web1", move[0], move[1])
			f.check(map[string]addr.Host{"web1": move[1]})
			v, err := f.on(move[1]).Machine("web1")
			if err != nil || v.Stable != created.Stable || v.Host != move[1] || v.Epoch != uint64(i+2) {
				t.Errorf("after %v: %+v, %v", move, v, err)
			}
		}
	})
}

func TestEachStepOfAMigrationCanBeRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		v := f.create(1, "web1")
		entry := func(host addr.Host, want nat.State, epoch uint64, towards addr.Host) {
			t.Helper()
			e, _, _ := f.servers[host].kernel.Machine(v.ID)
			if e.State != want || e.Epoch != epoch || e.Host != towards {
				t.Errorf("host %d has entry %v at epoch %d towards %d; want %v, %d, %d", host, e.State, e.Epoch, e.Host, want, epoch, towards)
			}
		}
		for range 2 {
			f.must(f.call(1, begin("web1", 2)))
			entry(1, nat.Delivering, 1, 0)
			entry(2, nat.Incoming, 1, 1)
		}
		for range 2 {
			f.must(f.call(2, attach("web1")))
		}
		for range 2 {
			outcome, epoch, err := f.on(1).Switchover(t.Context(), "web1")
			if outcome != hwmap.Committed || epoch != 2 || err != nil {
				t.Fatalf("switchover: %s at epoch %d, %v", outcome, epoch, err)
			}
			entry(1, nat.Away, 1, 2)
			synctest.Wait()
			entry(2, nat.Delivering, 2, 0)
		}
		if err := f.call(1, abort("web1")); !errors.Is(err, hwmap.ErrCommitted) || !strings.Contains(err.Error(), "host 2") {
			t.Errorf("abort after the switchover: %v", err)
		}
		for range 2 {
			f.must(f.call(1, finish("web1")))
			entry(1, 0, 0, 0)
		}
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestEveryHostKnowsWhereAMachineIsAtEachStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web1")
		expect := func(when string, want ...addr.Host) {
			t.Helper()
			f.settled()
			for i, host := range want {
				if got, ok := f.on(addr.Host(i + 1)).HostOf(v.ID); got != host || ok != (host != 0) {
					t.Errorf("%s, host %d says %d, %v, want %d", when, i+1, got, ok, host)
				}
			}
		}
		expect("at home", 1, 1, 1)
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		expect("before the switchover", 1, 1, 1)
		f.must(f.call(1, switchover("web1")))
		expect("after the switchover", 2, 2, 2)
		f.must(f.call(1, finish("web1")))
		expect("after the finish", 2, 2, 2)
		if at, ok := f.on(1).HostOf(addr.ID{Cell: cell + 1, Machine: v.ID.Machine}); ok {
			t.Errorf("a machine of another cell is said to be on host %d", at)
		}
	})
}

func TestAnImmediateMoveBackWaitsForFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.must(f.call(1, switchover("web1")))
		f.settled()
		if err := f.call(2, begin("web1", 1)); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "finish") {
			t.Errorf("begin of the way back: %v", err)
		}
		f.must(f.call(1, finish("web1")))
		f.must(f.call(2, begin("web1", 1))) // the same call again
		f.must(f.call(1, attach("web1")))
		f.must(f.call(2, switchover("web1")))
		f.must(f.call(2, finish("web1")))
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestFinishWaitsUntilEveryLiveHostFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 4)
		f.create(1, "web1")
		f.settled()
		f.servers[3].kernel.limit(-1) // no room for an entry in `moved`
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.must(f.call(1, switchover("web1")))
		if err := f.call(1, finish("web1")); !errors.Is(err, hwmap.ErrLagging) || !strings.Contains(err.Error(), "[3]") {
			t.Errorf("finish while host 3 sends packets the old way: %v", err)
		}
		if s := f.on(3).Status(); s.Following || !errors.Is(s.StoreErr, nat.ErrFull) {
			t.Errorf("host 3 does not say why: %+v", s)
		}
		f.servers[4].kill() // a dead host is waited for until it no longer counts as live
		f.servers[3].kernel.limit(0)
		f.insist("finish", func() error { return f.call(1, finish("web1")) })
		f.servers[4].start()
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestFinishWaitsForItsOwnHostAndForDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		lagging := func(host addr.Host, what string) fault {
			if host == 2 && what == "put machine delivering" || host == 1 && what == "delete moved" {
				return fails
			}
			return none
		}
		f.inject(lagging)
		f.must(f.call(1, switchover("web1")))
		if err := f.call(1, finish("web1")); !errors.Is(err, hwmap.ErrLagging) || !strings.Contains(err.Error(), "host 2 does not deliver") {
			t.Errorf("finish while the target does not deliver: %v", err)
		}
		f.inject(func(host addr.Host, what string) fault {
			if host == 1 && what == "put moved" {
				return fails
			}
			return none
		})
		if err := f.call(1, finish("web1")); err == nil {
			// The entry may have been written before the fault was set: then there is nothing to wait for.
			if moved, _ := f.servers[1].kernel.MovedEntries(); len(moved) != 1 {
				t.Error("finished while this host would have sent packets home, to itself")
			}
		}
		f.inject(nil)
		f.insist("finish", func() error { return f.call(1, finish("web1")) })
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestSwitchoverNeedsAReadyTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		if err := f.call(1, switchover("web1")); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("without begin: %v", err)
		}
		f.must(f.call(1, begin("web1", 2)))
		if err := f.call(1, switchover("web1")); !errors.Is(err, hwmap.ErrNotReady) || !strings.Contains(err.Error(), "attach it there first") {
			t.Errorf("without a port on the target: %v", err)
		}
		f.must(f.call(2, attach("web1")))
		f.servers[2].kill()
		if err := f.call(1, switchover("web1")); !errors.Is(err, hwmap.ErrNotReady) {
			t.Errorf("to a target that is down: %v", err)
		}
		f.servers[2].start()
		f.must(f.call(1, switchover("web1")))
		f.must(f.call(1, finish("web1")))
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestBeginIsRefusedWithAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.create(2, "taken")
		f.create(1, "taken")
		for _, c := range []struct {
			name string
			to   addr.Host
			want error
			says string
		}{
			{"web1", 1, hwmap.ErrUsage, "this host"},
			{"web1", 9, hwmap.ErrUnknownHost, "9"},
			{"web9", 2, hwmap.ErrUnknownMachine, "web9"},
			{"taken", 2, hwmap.ErrNameTaken, "host 2"},
		} {
			if err := f.call(1, begin(c.name, c.to)); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("begin %s to %d: %v; want %v that says %q", c.name, c.to, err, c.want, c.says)
			}
		}
		f.must(f.call(1, abort("taken")))
		f.must(f.call(1, begin("web1", 2)))
		if err := f.call(1, begin("web1", 3)); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "2") {
			t.Errorf("a second begin, to another host: %v", err)
		}
		f.must(f.call(2, abort("web1")))
		synctest.Wait()
		if err := f.call(1, switchover("web1")); !errors.Is(err, errNotCommitted) || !strings.Contains(err.Error(), "aborted") {
			t.Errorf("switchover after the target's abort: %v", err)
		}
		f.settled()
		owners := make(map[string]addr.Host)
		for host, s := range f.servers {
			for _, l := range s.locals() {
				if l.State != hwmap.Here {
					t.Errorf("host %d: %+v", host, l)
				}
				owners[l.Name] = host
			}
		}
	})
}

func TestBeginWithoutTheStoreChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.inject(func(_ addr.Host, what string) fault {
			if strings.HasSuffix(what, "fleet") {
				return fails
			}
			return none
		})
		if err := f.call(1, begin("web1", 2)); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("begin: %v", err)
		}
		if got := f.servers[1].local(1).State; got != hwmap.Here {
			t.Errorf("the machine is %s", got)
		}
		f.create(1, "web2") // creating goes on
		f.inject(nil)
		f.check(map[string]addr.Host{"web1": 1, "web2": 1})
	})
}

func TestStandaloneHasNowhereToMigrateTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleetOn(t, newMemory(), 0)
		s := f.add(1)
		o, _ := s.options()
		o.Fleet, o.Cache, o.Peers = o.Truth, nil, nil
		m, err := hwmap.Open(t.Context(), o)
		f.must(err)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = m.Run(ctx) })
		defer running.Wait()
		defer cancel()
		if _, err := m.Create(ctx, "web1", 7); err != nil {
			t.Error(err)
		}
		if err := begin("web1", 2)(ctx, m); !errors.Is(err, hwmap.ErrStandalone) {
			t.Errorf("begin: %v", err)
		}
		f.must(m.Destroy(ctx, "web1"))
		time.Sleep(time.Hour + time.Minute)
		if got := s.local(1).State; got != hwmap.Free {
			t.Errorf("after the quarantine the id is %s", got)
		}
	})
}

// In doubt means: forwarding, also across a restart, until the outcome is known.
func TestASwitchoverInDoubtForwardsUntilItsOutcomeIsKnown(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault fault
		end   func(f *fleet)
		where addr.Host
	}{
		{"committed, and read later", lost, func(*fleet) {}, 2},
		{"committed late", delayed, func(*fleet) {}, 2},
		{"never sent, and repeated", doubtful, func(f *fleet) { f.insist("switchover", func() error { return f.call(1, switchover("web1")) }) }, 2},
		{"never sent, and aborted", doubtful, func(f *fleet) { f.insist("abort", func() error { return f.call(1, abort("web1")) }) }, 1},
		{"aborted before it could be committed", delayed, func(f *fleet) { f.must(f.call(2, abort("web1"))) }, 1},
	} {
		for _, restart := range []string{"running on", "killed and started again", "rebooted"} {
			t.Run(c.name+", "+restart, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t, 3)
					v := f.create(1, "web1")
					f.must(f.call(1, begin("web1", 2)))
					f.must(f.call(2, attach("web1")))
					f.settled()
					// The answer is lost, and then the store.
					cut := false
					f.inject(func(host addr.Host, what string) fault {
						switch {
						case cut && host == 1 && strings.HasSuffix(what, "fleet"):
							return fails
						case what == "write fleet" && host == 1:
							cut = true
							return c.fault
						}
						return none
					})
					if err := f.call(1, switchover("web1")); !errors.Is(err, errNotCommitted) || !strings.Contains(err.Error(), "in doubt") {
						t.Fatalf("switchover: %v", err)
					}
					forwards := func() {
						t.Helper()
						e, _, _ := f.servers[1].kernel.Machine(v.ID)
						if e.State != nat.Away || e.Host != 2 {
							t.Errorf("while in doubt the source has %v towards %d", e.State, e.Host)
						}
						if s := f.on(1).Status(); len(s.InDoubt) != 1 || s.InDoubt[0] != "web1" {
							t.Errorf("status says in doubt: %v", s.InDoubt)
						}
					}
					forwards()
					switch restart {
					case "killed and started again":
						f.servers[1].kill()
						f.servers[1].start()
						forwards()
					case "rebooted":
						f.servers[1].reboot()
						f.servers[1].start()
						forwards()
					}
					f.inject(nil)
					c.end(f)
					f.settled()
					if c.where == 2 {
						f.insist("finish", func() error { return f.call(1, finish("web1")) })
					} else {
						f.attach(1, "web1") // its port is gone where the host was rebooted
					}
					f.check(map[string]addr.Host{"web1": c.where})
				})
			})
		}
	}
}

// Of an abort and a switchover, one wins, whoever is first.
func TestOfAbortAndSwitchoverOneWins(t *testing.T) {
	outcomes := make(map[string]int)
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, 2)
			f.create(1, "web1")
			f.must(f.call(1, begin("web1", 2)))
			f.must(f.call(2, attach("web1")))
			random := rand.New(rand.NewPCG(seed, 0))
			pauses := []time.Duration{time.Duration(random.IntN(8)), time.Duration(random.IntN(8))}
			f.slow(func() time.Duration { return time.Duration(random.Int64N(3)) })
			var callers sync.WaitGroup
			var switchoverErr, abortErr error
			callers.Go(func() {
				time.Sleep(pauses[0])
				switchoverErr = f.call(1, switchover("web1"))
			})
			callers.Go(func() {
				time.Sleep(pauses[1])
				abortErr = f.call(2, abort("web1"))
			})
			callers.Wait()
			f.slow(nil)
			switch {
			case switchoverErr == nil && (errors.Is(abortErr, hwmap.ErrCommitted) || abortErr == nil):
				// Without an error from abort the machine had arrived: there was nothing to abort.
				outcomes["switchover"]++
				if abortErr == nil && f.servers[2].local(1).State != hwmap.Here {
					t.Fatalf("seed %d: both won", seed)
				}
				f.must(f.call(1, finish("web1")))
				f.check(map[string]addr.Host{"web1": 2})
			case switchoverErr != nil && abortErr == nil:
				outcomes["abort"]++
				f.check(map[string]addr.Host{"web1": 1})
			default:
				t.Fatalf("seed %d: switchover: %v; abort: %v", seed, switchoverErr, abortErr)
			}
		})
	}
	t.Logf("who won: %v", outcomes)
}

func TestAbortOnTheNewOwnerSaysThatItIsTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.migrate("web1", 1, 2)
		if err := f.on(2).Abort(t.Context(), "web1"); !errors.Is(err, hwmap.ErrCommitted) {
			t.Errorf("on the new owner: %v", err)
		}
		if _, err := f.on(2).Begin(t.Context(), "web1", 3); err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"of a migration of its own", "again"} {
			if err := f.on(2).Abort(t.Context(), "web1"); err != nil {
				t.Errorf("abort %s: %v", call, err)
			}
		}
		f.check(map[string]addr.Host{"web1": 2})
	})
}
