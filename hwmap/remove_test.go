package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

func remove(host addr.Host) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error { return m.Remove(ctx, host) }
}

// removed removes a host, as often as it takes: one that is not there any more was removed by an earlier call.
func (f *fleet) removed(on, host addr.Host) {
	f.t.Helper()
	f.insist("remove", func() error {
		err := f.call(on, remove(host))
		if errors.Is(err, hwmap.ErrUnknownHost) {
			return nil
		}
		return err
	})
}

// keysOf are the keys of the store that end in the host's number, below prefixes that have a key for each host.
func (f *fleet) keysOf(host string) (of []hwmap.Key) {
	f.t.Helper()
	entries, _, err := f.store.List(f.t.Context(), "")
	f.must(err)
	for _, e := range entries {
		for _, prefix := range []hwmap.Key{"map/hosts/", "applied/", "alive/", "witness/"} {
			if e.Key == prefix+hwmap.Key(host) {
				of = append(of, e.Key)
			}
		}
	}
	return of
}

// emptied cordons a host and hands its blocks over.
func (f *fleet) emptied(host, to addr.Host) {
	f.t.Helper()
	f.say(to, (*hwmap.Map).Cordon, host)
	f.settled()
	f.handOver(host, to)
}

// join does what `ip6d host join` does on that server.
func (f *fleet) join(host addr.Host) error {
	o, _ := f.servers[host].options()
	_, err := hwmap.Join(f.t.Context(), o, false)
	return err
}

func TestARemovedHostLeavesNothingAndItsNumbersNeighboursEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		for _, id := range []addr.Host{11, 12, 111} {
			f.add(id).start()
		}
		f.create(11, "web11")
		f.create(1, "web1")
		f.migrate("web1", 1, 11)
		f.settled()
		f.emptied(1, 2)
		f.removed(2, 1)
		f.settled()
		if left := f.keysOf("1"); len(left) != 0 {
			t.Errorf("of host 1 are left %v", left)
		}
		for _, other := range []string{"11", "12", "111"} {
			if keys := f.keysOf(other); len(keys) != 4 {
				t.Errorf("of host %s are left only %v", other, keys)
			}
		}
		f.servers[1].stop()
		delete(f.servers, 1)
		f.check(map[string]addr.Host{"web1": 11, "web11": 11})
		for id, s := range f.servers {
			if _, hosts := s.devices.content(); len(hosts) != 3 {
				t.Errorf("host %d has routes to %v", id, hosts)
			}
		}
	})
}

func TestARemovedHostIsRefusedWhileSomethingPointsAtIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "here")
		f.create(2, "coming")
		f.create(3, "gone")
		f.must(f.call(2, begin("coming", 1)))
		f.migrate("gone", 3, 1)
		f.settled()
		refused := func(state hwmap.HostState, says ...string) {
			t.Helper()
			err := f.on(2).Remove(t.Context(), 1)
			if !errors.Is(err, hwmap.ErrState) {
				t.Errorf("remove: %v", err)
				return
			}
			for _, s := range says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("it does not say %q: %v", s, err)
				}
			}
			if got := f.state(1); got != state {
				t.Errorf("it is %s, want %s as before", got, state)
			}
		}
		refused(hwmap.Joined, `home of 1 blocks (0)`, `host of 1 machines ("gone")`, `target of 1 moves ("coming")`)
		f.say(2, (*hwmap.Map).BeginDrain, 1)
		f.settled()
		refused(hwmap.Draining, `home of 1 blocks (0)`)
		f.must(f.call(2, abort("coming")))
		f.migrate("here", 1, 3)
		f.handOver(1, 3)
		refused(hwmap.Draining, `host of 1 machines ("gone")`)
		f.destroy(1, "gone")
		f.settled()
		f.must(f.on(2).Remove(t.Context(), 1))
		if err := f.on(2).Remove(t.Context(), 1); !errors.Is(err, hwmap.ErrUnknownHost) {
			t.Errorf("again: %v", err)
		}
	})
}

// What comes between the first look and the mark is found by the second; what comes after the mark loses by it. A machine on
// its way keeps its target in the fleet, so a switchover finds it there.
func TestARemovalAndWhatWouldPointAtTheHostAreDecidedByTheStore(t *testing.T) {
	for name, race := range map[string]struct {
		early, prepare func(f *fleet) // before host 3 takes machines, and then
		rival          func(context.Context, *hwmap.Map) error
		always         bool // the rival wins in any case
	}{
		"switchover": {func(*fleet) {}, func(f *fleet) {
			f.must(f.call(1, begin("web1", 3)))
			f.must(f.call(3, attach("web1")))
		}, switchover("web1"), true},
		"begin": {func(*fleet) {}, func(*fleet) {}, begin("web1", 3), false},
		"hand over": {func(f *fleet) {
			f.migrate("web1", 1, 2)
			f.say(1, (*hwmap.Map).Cordon, 1)
		}, func(*fleet) {}, handOver(3), false},
	} {
		for _, removalFirst := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, the removal first: %v", name, removalFirst), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t, 3)
					f.create(1, "web1")
					f.emptied(3, 2)
					race.early(f)
					f.settled()
					release := f.hold(3) // it is not to lease a block
					f.say(2, (*hwmap.Map).Uncordon, 3)
					f.settled()
					race.prepare(f)
					var removal, rival error
					// The one who comes first does so while the other is about to write.
					interrupted := addr.Host(2)
					first, second := func() { rival = f.call(1, race.rival) }, func() { removal = f.call(2, remove(3)) }
					if removalFirst {
						interrupted = 1
						first, second = second, first
					}
					var once sync.Once
					f.inject(func(host addr.Host, what string) fault {
						if host == interrupted && what == "write fleet" {
							f.mu.Unlock()
							once.Do(first)
							f.mu.Lock()
						}
						return none
					})
					second()
					f.inject(nil)
					once.Do(first) // the second had nothing to write
					if (removal == nil) == (rival == nil) || race.always && rival != nil {
						t.Errorf("both won, or none, or the wrong one: the removal %v, the other %v", removal, rival)
					}
					v := f.view()
					_, listed := v.hosts[3]
					for _, r := range v.machines {
						if !listed && (r.Host == 3 || r.MovingTo == 3) {
							t.Errorf("a host that was removed is pointed at by %+v", r)
						}
					}
					for _, b := range v.blocks {
						if !listed && b.Home == 3 {
							t.Errorf("a host that was removed is pointed at by %+v", b)
						}
					}
					release()
				})
			})
		}
	}
}

func TestARemovalSurvivesAnyFaultWhenRepeated(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		f.inject(nil)
		f.emptied(3, 2)
		f.inject(f.armed)
		f.removed(2, 3)
		f.inject(nil)
		f.settled()
		if left := f.keysOf("3"); len(left) != 0 {
			t.Errorf("of host 3 are left %v", left)
		}
		f.servers[3].stop()
		delete(f.servers, 3)
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestARemovedHostStaysOutUntilItJoinsAnew(t *testing.T) {
	for name, during := range map[string]func(s *server){
		"it runs":          func(*server) {},
		"it was down":      func(s *server) { s.kill() },
		"its watch failed": func(s *server) { s.fleet.cutOff(s.id) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				f.emptied(3, 2)
				s := f.servers[3]
				during(s)
				f.removed(2, 3)
				f.inject(nil)
				f.settled()
				out := func() {
					t.Helper()
					if left := f.keysOf("3"); len(left) != 0 {
						t.Fatalf("it wrote %v", left)
					}
				}
				out()
				if _, err := f.daemon(3); err == nil {
					if st := f.on(3).Status(); st.Following || !errors.Is(st.StoreErr, hwmap.ErrRemoved) || !strings.Contains(st.StoreErr.Error(), "ip6d host join") {
						t.Errorf("its status: %+v", st)
					}
					if _, err := f.on(3).Cordon(t.Context(), 1); !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), "removed") {
						t.Errorf("what it writes: %v", err)
					}
					s.kill()
				}
				if err := s.open(); !errors.Is(err, hwmap.ErrRemoved) {
					t.Fatalf("it starts again: %v", err)
				}
				out()
				f.must(f.join(3))
				s.start()
				f.create(3, "web3")
				f.check(map[string]addr.Host{"web3": 3})
			})
		})
	}
}

func TestARemovedHostThatRunsTakesUpWhenItJoinsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.emptied(2, 1)
		f.removed(1, 2)
		f.settled()
		f.must(f.join(2))
		f.settled()
		f.create(2, "web2")
		f.check(map[string]addr.Host{"web2": 2})
		if left := f.keysOf("2"); len(left) != 4 {
			t.Errorf("it has the keys %v", left)
		}
	})
}

func TestJoiningIsIdempotentAndKeepsTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.add(2)
		f.must(f.join(2)) // before its daemon has ever run
		f.say(1, (*hwmap.Map).Cordon, 2)
		before := f.view().entries
		f.must(f.join(2))
		equal(t, "the store", values(before), values(f.view().entries))
		f.servers[2].identity = "another"
		if err := f.join(2); !errors.Is(err, hwmap.ErrClaimed) || !strings.Contains(err.Error(), `"host2"`) {
			t.Errorf("a second claimant: %v", err)
		}
		f.servers[2].identity = "identity-2"
		f.servers[2].start()
		f.check(nil)
		if got := f.state(2); got != hwmap.Cordoned {
			t.Errorf("it is %s", got)
		}
	})
}

// A removal that was interrupted leaves the host removing; it can be called off, or repeated.
func TestAnInterruptedRemovalIsCalledOffByCordon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.emptied(3, 2)
		time.Sleep(time.Minute)
		decide, _ := at(2, fails, func(what string) bool { return what == "write fleet" })
		f.inject(decide)
		if err := f.on(2).Remove(t.Context(), 3); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Fatalf("remove: %v", err)
		}
		if got := f.state(3); got != hwmap.Removing {
			t.Fatalf("it is %s", got)
		}
		f.say(1, (*hwmap.Map).Cordon, 3)
		f.say(1, (*hwmap.Map).Uncordon, 3)
		f.settled()
		f.create(3, "web3")
		f.check(map[string]addr.Host{"web3": 3})
	})
}

// A dead host that was removed knows nothing of either when it comes back: its machines may be anywhere by now.
func TestADeadHostThatWasRemovedComesBackClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(3, "web3")
		f.settled()
		s := f.servers[3]
		s.kill()
		time.Sleep(time.Minute)
		m := f.on(1)
		_, err := m.DeclareDead(t.Context(), 3, true)
		f.must(err)
		_, err = m.AdoptBlocks(t.Context(), 3, 2)
		f.must(err)
		if err := m.Remove(t.Context(), 3); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "adopted") {
			t.Errorf("removed while its machines can be claimed: %v", err)
		}
		_, err = m.UnfreezeBlocks(t.Context(), 2)
		f.must(err)
		f.must(m.Remove(t.Context(), 3))
		if err := s.open(); !errors.Is(err, hwmap.ErrRemoved) {
			t.Errorf("it starts: %v", err)
		}
		if closed, err := s.kernel.Fenced(); err != nil || !closed {
			t.Errorf("it carries packets: %v", err)
		}
		if left := f.keysOf("3"); len(left) != 0 {
			t.Errorf("it wrote %v", left)
		}
		f.must(f.join(3))
		s.start()
		f.settled()
		f.create(3, "new")
		f.check(map[string]addr.Host{"new": 3}) // its block was given away and unfrozen: "web3" is no more
	})
}

func TestAHostWhoseRecordWasLostPublishesItAgain(t *testing.T) {
	for name, while := range map[string]func(s *server, lose func()){
		"while it runs":    func(_ *server, lose func()) { lose() },
		"while it is down": func(s *server, lose func()) { s.kill(); lose(); s.start() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				f.create(2, "web2")
				f.settled()
				while(f.servers[2], func() { f.write("map/hosts/2", nil) })
				f.check(map[string]addr.Host{"web2": 2})
				if got := f.state(2); got != hwmap.Joined {
					t.Errorf("its record says %q", got)
				}
				f.create(2, "new")
				f.migrate("web2", 2, 1)
				f.check(map[string]addr.Host{"web2": 1, "new": 2})
			})
		})
	}
}
