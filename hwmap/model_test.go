package hwmap_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// What docs/model found to go wrong, played here step by step.

// once is the fault of the first write of a host to the fleet's store, and then that of all that it asks of the store.
func once(host addr.Host, first, then fault) func(addr.Host, string) fault {
	return func(h addr.Host, what string) fault {
		if h != host || what != "write fleet" && what != "read fleet" {
			return none
		}
		f := then
		if what == "write fleet" {
			f, first = first, then
		} else if first != then {
			return none
		}
		return f
	}
}

// A target whose abort has won, but who has not heard of it, is about to take the port away: it is not ready for the same
// migration begun again.
func TestATargetThatIsAbortingIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.settled()
		f.inject(once(2, slow, none))
		aborted := make(chan error, 1)
		go func() { aborted <- f.call(2, abort("web1")) }()
		synctest.Wait() // the store has it
		shortly, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.on(1).Begin(shortly, "web1", 2); err == nil {
			t.Error("the target accepted it while it was aborting")
		}
		if err := f.call(1, switchover("web1")); !errors.Is(err, hwmap.ErrNotReady) {
			t.Errorf("switchover: %v, want ErrNotReady", err)
		}
		f.must(<-aborted)
		f.insist("abort", func() error { return f.call(1, abort("web1")) })
		f.check(map[string]addr.Host{"web1": 1})
	})
}

// The home may free the id, and issue it again, before the host where the machine was destroyed hears that the store knows.
func TestAMachineDestroyedAwayIsNotThereAgainWhenItsIDHasBeenFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		v := f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.settled()
		f.inject(once(2, lost, fails))
		if err := f.call(2, destroy("web1")); !errors.Is(err, hwmap.ErrInDoubt) {
			t.Fatalf("destroy: %v, want ErrInDoubt", err)
		}
		f.servers[2].reboot()
		time.Sleep(2 * time.Hour)
		if next := f.create(1, "web2"); next.ID != v.ID {
			t.Fatalf("web2 has the id %s, web1 had %s: the test is about one id", next.ID, v.ID)
		}
		if err := f.servers[2].open(); err == nil {
			t.Log("started without the store")
		}
		f.inject(nil)
		f.servers[2].restart()
		f.check(map[string]addr.Host{"web2": 1})
		if l := f.servers[2].local(v.Machine); l.State != "" {
			t.Errorf("host 2 still has %+v", l)
		}
	})
}

// A destroy that the store certainly does not know leaves the machine as it was.
func TestADestroyAwayThatTheStoreRefusedLeavesTheMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.settled()
		f.inject(once(2, fails, none))
		if err := f.call(2, destroy("web1")); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Fatalf("destroy: %v, want ErrUnavailable", err)
		}
		f.inject(nil)
		f.check(map[string]addr.Host{"web1": 2})
	})
}

// A source was declared dead while its switchover was on the way to the store, and revived while its target tried to claim
// the machine: the target still expects it.
func TestATargetThatGivesUpAClaimStillTakesWhatTheSourceHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.settled()
		f.inject(once(1, delayed, none))
		if outcome, _, err := f.on(1).Switchover(t.Context(), "web1"); outcome != hwmap.InDoubt || err != nil {
			t.Fatalf("switchover: %s, %v; want in doubt", outcome, err)
		}
		f.must(f.call(3, declareDead(1, true)))
		f.must(f.call(3, adopt(1, 3)))
		f.inject(func(host addr.Host, what string) fault {
			if host == 2 && what == "write fleet" {
				return fails
			}
			return none
		})
		if err := f.call(2, claim("web1", 1)); !errors.Is(err, hwmap.ErrUnavailable) || !f.servers[2].local(1).Claiming {
			t.Fatalf("claim: %v, want ErrUnavailable; it has %+v", err, f.servers[2].local(1))
		}
		synctest.Wait()
		f.say(3, (*hwmap.Map).Revive, 1)
		f.inject(nil)
		f.check(map[string]addr.Host{"web1": 2})
	})
}
