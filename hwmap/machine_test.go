package hwmap_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

func TestCreateIsIdempotentByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		m := f.on(1)
		first, err := m.Create(t.Context(), "web1", 7)
		if err != nil {
			t.Fatal(err)
		}
		again, err := m.Create(t.Context(), "web1", 7)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "the same name again", first.Stable.String(), again.Stable.String())
		if _, err := m.Create(t.Context(), "web1", 8); !errors.Is(err, hwmap.ErrNameTaken) || !strings.Contains(err.Error(), "network 7") {
			t.Errorf("in another network: %v", err)
		}
		other, err := m.Create(t.Context(), "web2", 7)
		if err != nil || other.Stable == first.Stable {
			t.Errorf("another name: %v, %v", other.Stable, err)
		}
	})
}

func TestCreateRefusesWhatIsNoNameOrNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newFleet(t, 1).on(1)
		for _, c := range []struct {
			name    string
			network addr.Network
			says    string
		}{
			{"", 7, `""`},
			{"a b", 7, `"a b"`},
			{"a\x00", 7, `\x00`},
			{"a\xff", 7, `\xff`},
			{strings.Repeat("x", 256), 7, "255"},
			{"web1", 0, "network 0"},
		} {
			if _, err := m.Create(t.Context(), c.name, c.network); !errors.Is(err, hwmap.ErrUsage) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("name %q, network %d: error %v; want one that says %s", c.name, c.network, err, c.says)
			}
		}
		if all, err := m.Machines(); err != nil || len(all) != 0 {
			t.Errorf("something was made: %v, %v", all, err)
		}
	})
}

func TestConcurrentCreatesNeverShareANameOrAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		var (
			callers sync.WaitGroup
			mu      sync.Mutex
			names   = make(map[addr.Stable]string)
		)
		for caller := range 8 {
			m := f.on(addr.Host(caller%2 + 1))
			callers.Go(func() {
				for i := range 40 {
					name := fmt.Sprintf("host%d-%d", m.Self.ID, i)
					v, err := m.Create(t.Context(), name, 7)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if other, taken := names[v.Stable]; taken && other != name {
						t.Errorf("%s is %s and %s", v.Stable, other, name)
					}
					names[v.Stable] = name
					mu.Unlock()
				}
			})
		}
		callers.Wait()
		if len(names) != 80 {
			t.Errorf("%d addresses for 80 names", len(names))
		}
	})
}

func TestCreateIsDurableBeforeItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		v, err := f.on(1).Create(t.Context(), "web1", 7)
		if err != nil {
			t.Fatal(err)
		}
		f.servers[1].reboot()
		f.servers[1].start()
		again, err := f.on(1).Create(t.Context(), "web1", 7)
		if err != nil || again.Stable != v.Stable {
			t.Errorf("after a reboot: %v, %v; want %v", again.Stable, err, v.Stable)
		}
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestCreateThatFailsLeavesNothing(t *testing.T) {
	for what, want := range map[string]error{"write truth": hwmap.ErrUnavailable, "put machine delivering": hwmap.ErrUnavailable} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 1)
				decide, _ := at(1, fails, func(s string) bool { return s == what })
				f.inject(decide)
				if _, err := f.on(1).Create(t.Context(), "web1", 7); !errors.Is(err, want) {
					t.Errorf("create: %v", err)
				}
				f.check(nil)
				if v := f.create(1, "web2"); v.ID.Machine != 1 {
					t.Errorf("the first id is not free again: got %d", v.ID.Machine)
				}
			})
		})
	}
}

func TestCreateOnAFullKernelMapFailsAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "web1")
		f.servers[1].kernel.limit(1)
		if _, err := f.on(1).Create(t.Context(), "web2", 7); !errors.Is(err, nat.ErrFull) {
			t.Errorf("create: %v", err)
		}
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestDestroyedIDIsQuarantinedThenIssuedAboveItsEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		first := f.create(1, "web1")
		f.must(f.call(1, destroy("web1")))
		if second := f.create(1, "web1"); second.Stable == first.Stable {
			t.Error("the address is issued again at once")
		}
		f.servers[1].kill()
		f.servers[1].start() // the quarantine survives
		if third := f.create(1, "web3"); third.Stable == first.Stable {
			t.Error("the address is issued again after a restart")
		}
		time.Sleep(time.Hour + time.Minute)
		fourth := f.create(1, "web4")
		if fourth.Stable != first.Stable || fourth.Epoch <= first.Epoch {
			t.Errorf("after the quarantine: %s at epoch %d; want %s above epoch %d", fourth.Stable, fourth.Epoch, first.Stable, first.Epoch)
		}
		f.check(map[string]addr.Host{"web1": 1, "web3": 1, "web4": 1})
	})
}

func TestDestroyAwayFromHomeFreesTheIDAtHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		first := f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.must(f.call(2, destroy("web1")))
		if err := f.on(2).Destroy(t.Context(), "web1"); !errors.Is(err, hwmap.ErrUnknownMachine) {
			t.Errorf("again: %v", err)
		}
		f.check(nil)
		if got := f.servers[1].local(1).State; got != hwmap.Quarantined {
			t.Errorf("at home the id is %q", got)
		}
		if second := f.create(1, "web2"); second.Stable == first.Stable {
			t.Error("the address is issued again at once")
		}
		time.Sleep(time.Hour + time.Minute)
		f.check(map[string]addr.Host{"web2": 1})
		if len(f.view().machines) != 0 {
			t.Errorf("records of freed ids: %v", f.view().machines)
		}
		third := f.create(1, "web3")
		if third.Stable != first.Stable || third.Epoch != 3 {
			t.Errorf("after the quarantine: %s at epoch %d", third.Stable, third.Epoch)
		}
	})
}

func TestDestroySurvivesAnyFaultWhenRepeated(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		f.inject(nil)
		f.migrate("web1", 1, 2)
		time.Sleep(time.Minute)
		f.inject(f.armed)
		f.destroy(2, "web1")
		f.check(nil)
		if got := f.servers[1].local(1).State; got != hwmap.Quarantined {
			t.Errorf("at home the id is %q", got)
		}
	})
}

func TestDestroyIsRefusedDuringAMigration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		for host := range f.servers {
			if err := f.on(host).Destroy(t.Context(), "web1"); !errors.Is(err, hwmap.ErrState) {
				t.Errorf("on host %d: %v", host, err)
			}
		}
	})
}

func TestAnswersSayWhereAMachineIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.settled()
		for _, host := range []addr.Host{1, 3} {
			m := f.on(host)
			if v, err := m.Machine("web1"); err != nil || v.Host != 2 || v.State != "" {
				t.Errorf("host %d knows it as %+v, %v", host, v, err)
			}
			for what, err := range map[string]error{
				"destroy": m.Destroy(t.Context(), "web1"),
				"abort":   m.Abort(t.Context(), "web1"),
			} {
				if !errors.Is(err, hwmap.ErrUnknownMachine) || !strings.Contains(err.Error(), "host 2") {
					t.Errorf("%s on host %d: %v; want an error that names host 2", what, host, err)
				}
			}
		}
		if _, err := f.on(1).Machine("web9"); !errors.Is(err, hwmap.ErrUnknownMachine) || !strings.Contains(err.Error(), "web9") {
			t.Errorf("a machine that there is not: %v", err)
		}
	})
}

func TestANameThatIsKnownOnAnotherHostIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.settled()
		for _, network := range []addr.Network{7, 8} {
			if _, err := f.on(3).Create(t.Context(), "web1", network); !errors.Is(err, hwmap.ErrNameTaken) {
				t.Errorf("in network %d: %v", network, err)
			}
		}
		f.check(map[string]addr.Host{"web1": 2})
	})
}
