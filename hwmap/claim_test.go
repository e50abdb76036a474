package hwmap_test

import (
	"context"
	"errors"
	"fmt"
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

func claim(name string, number addr.Machine) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		s, err := addr.DefaultPlan.Stable(7, cell, number)
		if err != nil {
			return err
		}
		v, err := m.Claim(ctx, name, 7, s)
		if err == nil && (v.State != hwmap.Here || v.Stable != s) {
			err = fmt.Errorf("claimed, and it is %+v", v)
		}
		return err
	}
}

// claim claims a machine as an orchestrator does, and gives it its port.
func (f *fleet) claim(on addr.Host, name string, number addr.Machine) {
	f.t.Helper()
	f.insist("claim", func() error { return f.call(on, claim(name, number)) })
	f.attach(on, name)
}

func TestAMachineIsClaimedFromADeadHost(t *testing.T) {
	for name, c := range map[string]struct {
		move  []addr.Host // before its host dies
		by    addr.Host
		epoch uint64
	}{
		"that never moved":                       {nil, 2, 1<<32 + 1},
		"that never moved, by another":           {nil, 3, 1<<32 + 1},
		"that came from elsewhere":               {[]addr.Host{2, 1}, 3, 1<<32 + 1},
		"that moved there":                       {[]addr.Host{2}, 3, 3},
		"that moved there, by its home":          {[]addr.Host{2}, 1, 3},
		"that moved there, by where it was last": {[]addr.Host{2, 3}, 2, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				f.create(1, "web1")
				at := addr.Host(1)
				for _, to := range c.move {
					f.migrate("web1", at, to)
					at = to
				}
				f.lose(at, c.by)
				f.adoptBlocks(at, c.by)
				for range 2 {
					f.must(f.call(c.by, claim("web1", 1)))
				}
				f.attach(c.by, "web1")
				f.check(map[string]addr.Host{"web1": c.by})
				if r := f.view().machines[1]; r.Host != c.by || r.Epoch != c.epoch {
					t.Errorf("its record: %+v, want epoch %d", r, c.epoch)
				}
				f.servers[at].start()
				f.say(c.by, (*hwmap.Map).Revive, at)
				f.check(map[string]addr.Host{"web1": c.by})
				f.say(c.by, (*hwmap.Map).Uncordon, at)
				f.settled()
				f.migrate("web1", c.by, at)
				f.check(map[string]addr.Host{"web1": at})
			})
		})
	}
}

func TestAClaimIsRefusedUnlessTheOwnerIsDeadAndTheStoreAgrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1") // stays at home
		f.create(1, "web2") // has a record
		f.create(1, "web3") // moves away
		f.migrate("web2", 1, 2)
		f.migrate("web2", 2, 1)
		f.migrate("web3", 1, 2)
		f.settled()
		before := f.view()
		refused := func(on addr.Host, name string, number addr.Machine, want error, why string) {
			t.Helper()
			err := f.call(on, claim(name, number))
			if !errors.Is(err, want) || !strings.Contains(err.Error(), why) {
				t.Errorf("claim of %s on host %d: %v, want %v that says %q", name, on, err, want, why)
			}
			if l := f.servers[on].local(number); l.State == hwmap.Incoming {
				t.Errorf("it left %+v", l)
			}
		}
		refused(3, "web1", 1, hwmap.ErrState, "host 1, which is joined")
		refused(3, "web2", 2, hwmap.ErrState, "host 1, which is joined")
		f.lose(1, 2)
		refused(3, "web1", 1, hwmap.ErrState, "ip6d host adopt 1")
		refused(3, "web2", 2, hwmap.ErrState, "ip6d host adopt 1")
		f.adoptBlocks(1, 2)
		refused(3, "web3", 3, hwmap.ErrState, "host 2, which is joined")
		refused(3, "web9", 2, hwmap.ErrState, `"web2"`)
		refused(2, "web3", 1, hwmap.ErrNameTaken, "number 3")
		refused(3, "web1", 60000, hwmap.ErrState, "nobody's")
		s, err := addr.DefaultPlan.Stable(8, cell, 2)
		f.must(err)
		if _, err := f.on(3).Claim(t.Context(), "web2", 8, s); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "network 7") {
			t.Errorf("claim for another network: %v", err)
		}
		if _, err := f.on(3).Claim(t.Context(), "web2", 7, s); !errors.Is(err, hwmap.ErrUsage) {
			t.Errorf("claim of an address of another network: %v", err)
		}
		f.say(2, (*hwmap.Map).Cordon, 3)
		f.settled()
		refused(3, "web1", 1, hwmap.ErrState, "takes no machines")
		if now := f.view(); len(now.machines) != len(before.machines) || now.machines[2] != before.machines[2] {
			t.Errorf("records: %+v, before %+v", now.machines, before.machines)
		}
		f.say(2, (*hwmap.Map).Uncordon, 3)
		f.servers[1].start()
		f.settled()
		f.say(2, (*hwmap.Map).Revive, 1)
		refused(3, "web1", 1, hwmap.ErrState, "host 1, which is cordoned")
	})
}

// The port that was attached for the migration is the one that the machine has.
func TestAMachineWhoseSourceDiedMidMigrationIsClaimedByItsTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		port := *f.servers[2].local(1).Port
		f.lose(1, 3)
		f.adoptBlocks(1, 3)
		f.must(f.call(2, claim("web1", 1)))
		if l := f.servers[2].local(1); l.State != hwmap.Here || l.Port == nil || *l.Port != port || l.Claiming {
			t.Errorf("at the target: %+v, want the port %+v", l, port)
		}
		if e, _, _ := f.servers[2].kernel.Machine(v.ID); e.State != nat.Delivering || e.Port.Ifindex == 0 {
			t.Errorf("its entry: %+v", e)
		}
		f.check(map[string]addr.Host{"web1": 2})
		if err := f.call(2, abort("web1")); !errors.Is(err, hwmap.ErrCommitted) {
			t.Errorf("abort after it: %v", err)
		}
		f.servers[1].start()
		f.say(2, (*hwmap.Map).Revive, 1)
		f.check(map[string]addr.Host{"web1": 2})
	})
}

// The source of a finished switchover still has the machine's port: it takes it back from a target that died.
func TestTheSourceTakesBackAMachineWhoseTargetDiedBeforeFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.must(f.call(1, switchover("web1")))
		f.settled()
		f.lose(2, 1)
		f.must(f.call(1, claim("web1", 1)))
		if l := f.servers[1].local(1); l.State != hwmap.Here || l.Epoch != 3 || l.Port == nil {
			t.Errorf("at the source: %+v", l)
		}
		f.check(map[string]addr.Host{"web1": 1})
		f.servers[2].start()
		f.say(1, (*hwmap.Map).Revive, 2)
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestADeadHostsMachinesAreClaimedWhateverGoesWrong(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		f.lose(1, 2)
		f.adoptBlocks(1, 2)
		f.claim(3, "web1", 1)
		f.check(map[string]addr.Host{"web1": 3})
		f.servers[1].restart()
		f.check(map[string]addr.Host{"web1": 3})
		f.say(2, (*hwmap.Map).Revive, 1)
		f.check(map[string]addr.Host{"web1": 3})
	})
}

// As many hosts as like may claim, while the dead one is revived, and its blocks are adopted by several: the machine is on
// one host in the end, and no two delivered it at any moment.
func TestClaimsThatRaceWithEachOtherAndWithTheDeadHostsReturnLeaveOneOwner(t *testing.T) {
	owners := make(map[addr.Host]int)
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, 4)
			random := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex // guards random
			shortly := func() time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(random.IntN(1000)) * time.Millisecond
			}
			f.create(1, "web1")
			if seed%2 == 1 {
				f.migrate("web1", 1, 4)
				f.migrate("web1", 4, 1)
			}
			f.lose(1, 2)
			f.servers[1].start()
			f.settled()
			f.slow(shortly)
			var callers sync.WaitGroup
			for _, host := range []addr.Host{2, 3, 4} {
				callers.Go(func() {
					time.Sleep(shortly())
					_ = f.call(host, adopt(1, 2+addr.Host(seed)%3))
					_ = f.call(host, claim("web1", 1))
				})
			}
			callers.Go(func() {
				time.Sleep(4 * shortly())
				f.say(4, (*hwmap.Map).Revive, 1)
			})
			callers.Wait()
			f.slow(nil)
			f.settled()
			at := f.owners()["web1"]
			if at == 0 {
				t.Fatalf("seed %d: it is nowhere", seed)
			}
			f.check(map[string]addr.Host{"web1": at})
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
			owners[at]++
		})
	}
	if len(owners) < 3 {
		t.Errorf("owners are %v: the races have one winner", owners)
	}
}

// onItsWay has the nth transaction of a host be long on its way, and cuts the host off from then on, until nothing is injected.
func (f *fleet) onItsWay(host addr.Host, n int) {
	f.inject(func(on addr.Host, what string) fault {
		if on != host || what != "write fleet" && what != "read fleet" {
			return none
		}
		if what == "write fleet" {
			n--
		}
		switch {
		case n == 0 && what == "write fleet":
			return delayed
		case n <= 0:
			return fails
		}
		return none
	})
}

func TestAClaimThatWasBegunIsPursuedWithoutItsCaller(t *testing.T) {
	for _, fault := range []fault{fails, doubtful, lost, delayed, crashBefore, crashAfter} {
		t.Run(string(fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				f.create(1, "web1")
				f.migrate("web1", 1, 2)
				f.lose(2, 1)
				decide, hit := at(1, fault, func(what string) bool { return what == "write fleet" })
				f.inject(decide)
				err := f.call(3, claim("web1", 1))
				if _, was := hit(); err == nil || !was {
					t.Fatalf("claim: %v, and the fault was %v", err, was)
				}
				f.settled()
				f.attach(3, "web1")
				f.check(map[string]addr.Host{"web1": 3})
			})
		})
	}
}

func TestAClaimThatIsLongOnItsWayLosesAgainstTheDeadHostsReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.lose(2, 1)
		f.onItsWay(3, 1)
		if err := f.call(3, claim("web1", 1)); !errors.Is(err, hwmap.ErrInDoubt) {
			t.Fatalf("claim: %v", err)
		}
		if l := f.servers[3].local(1); l.State != hwmap.Incoming || !l.Claiming {
			t.Errorf("what is in doubt: %+v", l)
		}
		f.servers[2].start()
		f.say(1, (*hwmap.Map).Revive, 2)
		f.settled() // the transaction has arrived
		if err := f.call(3, abort("web1")); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("abort of what may still be claimed: %v", err)
		}
		f.inject(nil)
		f.check(map[string]addr.Host{"web1": 2})
		if l := f.servers[3].local(1); l.State != "" {
			t.Errorf("the claim that lost: %+v", l)
		}
	})
}

// A machine that was destroyed away from home is not there any more, whoever is home of its block by then.
func TestADestroyedMachineOfADeadHostsBlockIsNotClaimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 4)
		v := f.create(1, "one")
		f.migrate("one", 1, 2)
		f.servers[1].kill()
		f.settled()
		_, err := f.on(2).DeclareDead(t.Context(), 1, true)
		f.must(err)
		_, err = f.on(2).AdoptBlocks(t.Context(), 1, 3)
		f.must(err)
		f.settled()
		f.must(f.on(2).Destroy(t.Context(), "one"))
		for range 60 {
			f.settled()
		}
		e, err := f.store.Get(t.Context(), hwmap.Key(fmt.Sprintf("map/machines/%d", v.ID.Machine)))
		f.must(err)
		t.Logf("record: %s", e[0].Value)
		for _, id := range []addr.Host{3, 4} {
			if _, err := f.on(id).Claim(t.Context(), "one", 7, v.Stable); err == nil {
				t.Errorf("host %d has claimed a machine that was destroyed", id)
			}
		}
	})
}
