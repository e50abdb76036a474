package hwmap_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// What can happen to a migration, and the test of each:
//
//	immediate move back                      TestAnImmediateMoveBackWaitsForFinish
//	a move that fails half way               TestMigrationThatMetAnyFaultCanBeAborted, TestSwitchoverNeedsAReadyTarget
//	a second begin to another target         TestBeginIsRefusedWithAReason, TestASecondBeginGoesAnywhereOnceTheFirstIsAborted
//	source or target dies at any step        TestMigrationSurvivesAnyFaultWhenCallsAreRepeated (crash before, crash after)
//	    and stays dead                       TestAMigrationToAHostThatDiesGoesToAnother, TestAMachineWhoseSourceDiedMidMigrationIsClaimedByItsTarget
//	destroy during a move                    TestDestroyIsRefusedDuringAMigration, TestAMachineIsDestroyedOnceItsMoveIsAborted
//	destroy away from home, reuse of the id  TestDestroyAwayFromHomeFreesTheIDAtHome, TestALateRecordOfAnEarlierUserIsRemoved
//	out-of-order events                      TestWhatTheWatchBringsLateDoesNotUndoWhatWasReadUponAHint, TestARecordOfALowerEpochDoesNotUndoAMove
//	cut off from the store for the whole move:
//	    a bystander                          TestABystanderCutOffForAWholeMoveIsToldWhereItSends
//	    the source                           TestASourceCutOffForAWholeMoveKeepsTheMachine
//	    the target                           TestATargetCutOffForAWholeMoveIsForwardedTo
//	in doubt, and minutes later              TestASwitchoverThatArrivesMinutesLaterWinsOnlyIfNoAbortDid
//	the first packet switches over           activate_test.go

func TestASecondBeginGoesAnywhereOnceTheFirstIsAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		if err := f.call(1, begin("web1", 3)); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "2") {
			t.Errorf("a second begin: %v; want an error that names host 2", err)
		}
		f.must(f.call(1, abort("web1")))
		f.migrate("web1", 1, 3)
		f.check(map[string]addr.Host{"web1": 3})
	})
}

func TestAMachineIsDestroyedOnceItsMoveIsAborted(t *testing.T) {
	for _, on := range []addr.Host{1, 2} {
		t.Run(map[addr.Host]string{1: "on the source", 2: "on the target"}[on], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				f.create(1, "web1")
				f.must(f.call(1, begin("web1", 2)))
				f.must(f.call(2, attach("web1")))
				for _, host := range []addr.Host{1, 2} {
					if err := f.call(host, destroy("web1")); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "abort") && !strings.Contains(err.Error(), "migration") {
						t.Errorf("destroy on host %d during a move: %v; want an error that says so", host, err)
					}
				}
				f.must(f.call(on, abort("web1")))
				f.insist("destroy", func() error { return f.call(1, destroy("web1")) })
				f.check(nil)
				time.Sleep(2 * time.Hour)
				if l := f.servers[1].local(1); l.State != hwmap.Free {
					t.Errorf("after the quarantine its id is %s", l.State)
				}
			})
		})
	}
}

func TestABystanderCutOffForAWholeMoveIsToldWhereItSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		id := f.create(1, "web1").ID
		f.settled()
		restore := f.isolate(3)
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.must(f.call(1, switchover("web1")))
		if err := f.call(1, finish("web1")); !errors.Is(err, hwmap.ErrLagging) || !strings.Contains(err.Error(), "[3]") {
			t.Errorf("finish, while host 3 counts as live: %v; want an error that names it", err)
		}
		if to := f.servers[3].sendsTo(id); to != 0 {
			t.Fatalf("host 3 sends to host %d, though it has heard of nothing", to)
		}
		// What it sends home is forwarded there.
		if e, _, _ := f.servers[1].kernel.Machine(id); e.State != nat.Away || e.Host != 2 {
			t.Errorf("the home has %v towards %d", e.State, e.Host)
		}
		f.on(1).Astray(3, id) // which it cannot act upon yet
		f.settled()
		restore()
		f.insist("finish", func() error { return f.call(1, finish("web1")) })
		f.check(map[string]addr.Host{"web1": 2})
		if to := f.servers[3].sendsTo(id); to != 2 {
			t.Errorf("with the store again, host 3 sends to host %d", to)
		}
	})
}

func TestASourceCutOffForAWholeMoveKeepsTheMachine(t *testing.T) {
	for name, abortIt := range map[string]bool{"aborted by the target": true, "gone on with later": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				id := f.create(1, "web1").ID
				f.must(f.call(1, begin("web1", 2)))
				f.must(f.call(2, attach("web1")))
				f.settled()
				restore := f.isolate(1)
				if err := f.call(1, switchover("web1")); !errors.Is(err, hwmap.ErrUnavailable) {
					t.Errorf("switchover: %v", err)
				}
				if err := f.call(1, abort("web1")); !errors.Is(err, hwmap.ErrUnavailable) {
					t.Errorf("abort on the source: %v", err)
				}
				want := map[string]addr.Host{"web1": 2}
				if abortIt {
					f.must(f.call(2, abort("web1")))
					want["web1"] = 1
				}
				time.Sleep(10 * time.Minute)
				if e, _, _ := f.servers[1].kernel.Machine(id); e.State != nat.Delivering {
					t.Errorf("cut off, the source has %v", e.State)
				}
				restore()
				f.settled()
				if !abortIt {
					f.must(f.call(1, switchover("web1")))
					f.must(f.call(1, finish("web1")))
				}
				f.check(want)
			})
		})
	}
}

// The source goes on forwarding until the target has heard: what comes from the source goes into the port.
func TestATargetCutOffForAWholeMoveIsForwardedTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		id := f.create(1, "web1").ID
		f.settled()
		restore := f.isolate(2)
		if err := f.call(1, begin("web1", 2)); err == nil {
			t.Error("begin: a target that cannot read the record has accepted it")
		}
		f.must(f.call(1, abort("web1")))
		restore()
		f.settled()
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.settled()

		restore = f.isolate(2)
		f.must(f.call(1, switchover("web1")))
		if err := f.call(1, finish("web1")); !errors.Is(err, hwmap.ErrLagging) || !strings.Contains(err.Error(), "host 2") {
			t.Errorf("finish before the target delivers: %v; want an error that names host 2", err)
		}
		time.Sleep(10 * time.Minute)
		source, _, _ := f.servers[1].kernel.Machine(id)
		target, _, _ := f.servers[2].kernel.Machine(id)
		if source.State != nat.Away || source.Host != 2 || target.State != nat.Incoming || target.Host != 1 {
			t.Errorf("meanwhile the source has %v towards %d, the target %v from %d", source.State, source.Host, target.State, target.Host)
		}
		restore()
		f.settled()
		f.must(f.call(1, finish("web1")))
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestASwitchoverThatArrivesMinutesLaterWinsOnlyIfNoAbortDid(t *testing.T) {
	for _, c := range []struct {
		name      string
		meanwhile func(f *fleet)
		where     addr.Host
		epoch     uint64
	}{
		{"no abort", func(*fleet) {}, 2, 2},
		{"aborted by the source", func(f *fleet) { f.must(f.call(1, abort("web1"))) }, 1, 1},
		{"aborted by the target", func(f *fleet) { f.must(f.call(2, abort("web1"))) }, 1, 1},
		{"aborted, and begun anew to the same host", func(f *fleet) {
			f.must(f.call(1, abort("web1")))
			f.must(f.call(1, begin("web1", 2)))
			f.must(f.call(2, attach("web1")))
		}, 1, 1},
		{"aborted, and moved elsewhere", func(f *fleet) {
			f.must(f.call(1, abort("web1")))
			f.migrate("web1", 1, 3)
		}, 3, 2},
		{"aborted, moved there and back", func(f *fleet) {
			f.must(f.call(1, abort("web1")))
			f.migrate("web1", 1, 2)
			f.migrate("web1", 2, 1)
		}, 1, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				id := f.create(1, "web1").ID
				f.must(f.call(1, begin("web1", 2)))
				f.must(f.call(2, attach("web1")))
				f.settled()
				f.lateness = 10 * time.Minute
				decide, _ := at(1, delayed, func(what string) bool { return what == "write fleet" })
				f.inject(decide)
				if err := f.call(1, switchover("web1")); !errors.Is(err, errNotCommitted) || !strings.Contains(err.Error(), "in doubt") {
					t.Fatalf("switchover: %v", err)
				}
				f.inject(nil)
				time.Sleep(3 * time.Minute)
				if e, _, _ := f.servers[1].kernel.Machine(id); e.State != nat.Away || e.Host != 2 {
					t.Errorf("in doubt, the source has %v towards %d", e.State, e.Host)
				}
				c.meanwhile(f)
				f.settled()
				before := f.servers[1].local(id.Machine)
				time.Sleep(10 * time.Minute) // it has arrived
				f.settled()
				owner := f.servers[c.where].local(id.Machine)
				if r := f.view().machines[id.Machine]; r.Host != c.where || r.Epoch != c.epoch || owner.Epoch != c.epoch {
					t.Errorf("the record is %+v, on host %d there is %+v; want it there at epoch %d", r, c.where, owner, c.epoch)
				}
				switch {
				case c.where == 2:
					f.must(f.call(1, finish("web1")))
				case before.State == hwmap.Leaving:
					f.must(f.call(1, abort("web1")))
				}
				f.check(map[string]addr.Host{"web1": c.where})
			})
		})
	}
}

// A host whose store was away for long changes in its kernel's maps what has changed, and takes nothing else out of them, not
// for a moment: also where it has to list anew.
func TestCatchingUpTakesNothingElseOutOfTheKernelsMaps(t *testing.T) {
	for name, compacted := range map[string]bool{"by the watch": false, "by a listing, after a compaction": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				names := []string{"web1", "web2", "web3", "web4"}
				for _, name := range names {
					f.create(1, name)
					f.migrate(name, 1, 2)
				}
				moved := addr.ID{Cell: cell, Machine: 1}
				f.create(3, "own")
				f.settled()
				stale := time.Now()
				f.servers[3].kill()
				f.cutOff(3)
				f.servers[3].start()
				time.Sleep(time.Hour)
				s := f.on(3).Status()
				if s.Following || s.StoreErr == nil || s.StaleSince.After(stale) || s.StaleSince.Before(stale.Add(-10*time.Minute)) {
					t.Errorf("an hour later status says stale since %v, want about %v: %+v", s.StaleSince, stale, s)
				}
				f.servers[3].kill()
				f.migrate("web1", 2, 1) // home: its entry goes
				f.must(f.call(2, begin("web2", 1)))
				f.must(f.call(2, abort("web2")))
				if compacted {
					f.memory.compact()
				}
				f.servers[3].kernel.changed()
				f.inject(nil)
				f.servers[3].start()
				f.settled()
				if changes := f.servers[3].kernel.changed(); !slices.Equal(changes, []string{fmt.Sprintf("moved %s gone", moved)}) {
					t.Errorf("changed: %q; want the entry of web1 gone, which is at home again, and nothing else", changes)
				}
				if s := f.on(3).Status(); !s.Following || !s.StaleSince.IsZero() {
					t.Errorf("status: %+v", s)
				}
				f.check(map[string]addr.Host{"web1": 1, "web2": 2, "web3": 2, "web4": 2, "own": 3})
			})
		})
	}
}
