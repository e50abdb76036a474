package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// The fleet's watch over what is delivered sees each entry as it is written: a host that is fenced delivers nothing.
func TestADeadHostThatComesBackCarriesNothingOfWhatWasClaimed(t *testing.T) {
	for name, restart := range map[string]func(*server){
		"after a restart": (*server).start,
		"after a reboot":  func(s *server) { s.reboot(); s.start() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				f.create(1, "web1")
				f.create(1, "web2")
				f.lose(1, 2)
				f.adoptBlocks(1, 2)
				f.claim(3, "web1", 1)
				restart(f.servers[1])
				f.check(map[string]addr.Host{"web1": 3})

				f.say(2, (*hwmap.Map).Revive, 1)
				f.settled()
				f.attach(1, "web2") // a reboot took its port
				f.check(map[string]addr.Host{"web1": 3, "web2": 1})
				if r := f.view().machines[2]; r.Host != 1 || r.Epoch != 1 {
					t.Errorf("the record of what was not claimed: %+v", r)
				}
				f.migrate("web2", 1, 3)
				f.migrate("web1", 3, 2)
				f.check(map[string]addr.Host{"web1": 2, "web2": 3})
			})
		})
	}
}

func TestAHostThatHearsOfItsDeathStopsEverythingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.settled()
		release := f.hold(1)
		f.must(f.call(2, declareDead(1, true)))
		synctest.Wait()
		if f.servers[1].kernel.closed() {
			t.Fatal("fenced without having heard")
		}
		release()
		synctest.Wait()
		if !f.servers[1].kernel.closed() {
			t.Error("not fenced")
		}
		m := f.on(1)
		_, err := m.Create(t.Context(), "web2", 7)
		for what, err := range map[string]error{
			"begin": f.call(1, begin("web1", 2)), "attach": f.call(1, attach("web1")), "destroy": f.call(1, destroy("web1")),
			"accept": m.Accept(t.Context(), 1), "claim": f.call(1, claim("web3", 300)),
		} {
			if !errors.Is(err, hwmap.ErrFenced) {
				t.Errorf("%s: %v, want ErrFenced", what, err)
			}
		}
		if !errors.Is(err, hwmap.ErrState) {
			t.Errorf("create: %v, want ErrState", err)
		}
		f.must(f.call(1, func(ctx context.Context, m *hwmap.Map) error { // on the host itself, too
			_, err := m.Revive(ctx, 1)
			return err
		}))
		f.check(map[string]addr.Host{"web1": 1})
		f.migrate("web1", 1, 2)
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestAFencedHostStaysSoWithoutTheStore(t *testing.T) {
	for name, lose := range map[string]func(*server){
		"the cache too": func(s *server) { s.cache = newMemory() },
		"nothing else":  func(*server) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				f.create(1, "web1")
				f.must(f.call(2, declareDead(1, true)))
				f.settled()
				s := f.servers[1]
				s.reboot()
				f.cutOff(1)
				err := s.open()
				if err == nil {
					time.Sleep(time.Minute)
				}
				if !s.kernel.closed() {
					t.Errorf("it carries packets, start: %v", err)
				}
				lose(s)
				s.reboot()
				if err := s.open(); err == nil {
					time.Sleep(time.Minute)
				}
				if !s.kernel.closed() {
					t.Error("it carries packets")
				}
				f.inject(nil)
				f.say(2, (*hwmap.Map).Revive, 1)
				s.restart()
				f.settled()
				f.attach(1, "web1")
				f.check(map[string]addr.Host{"web1": 1})
			})
		})
	}
}

// Until it has stopped and said so, others must not take its packets again: it may go on in the name of what they claimed.
func TestADeadHostIsRevivedOnlyOnceItHasStoppedAndThenGivesUpWhatWasClaimed(t *testing.T) {
	for name, cutOff := range map[string]bool{"it was down": false, "it was cut off": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				f.create(1, "web1")
				f.create(1, "web2")
				f.settled()
				release := func() {}
				if cutOff {
					release = f.hold(1)
				} else {
					f.servers[1].kill()
				}
				f.setLost(1, true)
				f.must(f.call(2, declareDead(1, true)))
				f.adoptBlocks(1, 2)
				f.claim(3, "web1", 1)
				if _, err := f.on(2).Revive(t.Context(), 1); !errors.Is(err, hwmap.ErrState) {
					t.Errorf("a host that has not stopped was revived: %v", err)
				}
				release()
				if !cutOff {
					f.servers[1].start()
				}
				f.settled()
				f.say(2, (*hwmap.Map).Revive, 1)
				f.check(map[string]addr.Host{"web1": 3, "web2": 1})
			})
		})
	}
}

// A crash between the kernel's map and the truth leaves the host closed until the store says what it is.
func TestAFenceThatOnlyTheKernelHasHoldsUntilTheStoreAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		s := f.servers[1]
		s.kill()
		f.must(s.kernel.SetFenced(true))
		f.cutOff(1)
		f.must(s.open())
		f.settled()
		if !s.kernel.closed() {
			t.Error("opened without the store's word")
		}
		f.inject(nil)
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestADeadHostWhoseBlocksNobodyAdoptedGoesOnAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.lose(1, 2)
		f.servers[1].start()
		f.check(nil)
		f.say(2, (*hwmap.Map).Revive, 1)
		f.check(map[string]addr.Host{"web1": 1})
		if len(f.view().machines) != 0 {
			t.Errorf("records: %+v", f.view().machines)
		}
		if got := f.state(1); got != hwmap.Cordoned {
			t.Errorf("it is %s", got)
		}
	})
}

// Of which machine nobody can tell whose it is, that one stays silent, also after a restart, until the store tells.
func TestARecordThatCannotBeReadSilencesOneMachineOfARevivedHostAndNotAll(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(f *fleet)
		lost    func(v hwmap.MachineView) hwmap.Key
		damage  any // nil: it is deleted
	}{
		"the machine's record is malformed": {
			prepare: func(f *fleet) {},
			lost:    func(v hwmap.MachineView) hwmap.Key { return hwmap.Key(fmt.Sprintf("map/machines/%d", v.ID.Machine)) },
			damage:  "no record",
		},
		"its block's record has gone, and the home is dead": {
			prepare: func(f *fleet) {
				f.adoptBlocks(1, 2)
				f.settled()
				f.lose(2, 3)
			},
			lost: func(v hwmap.MachineView) hwmap.Key {
				return hwmap.Key(fmt.Sprintf("map/blocks/%d", v.ID.Machine.Block()))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				one := f.create(1, "one")
				f.create(3, "two")
				f.migrate("two", 3, 1)
				if c.damage != nil {
					f.migrate("one", 1, 2)
					f.migrate("one", 2, 1)
				}
				f.lose(1, 2)
				c.prepare(f)
				e, err := f.store.Get(t.Context(), c.lost(one))
				f.must(err)
				s := f.servers[1]
				s.start() // and hears whose its block is
				f.settled()
				f.write(c.lost(one), c.damage)
				f.settled()
				f.say(3, (*hwmap.Map).Revive, 1)
				f.settled()
				for range 2 {
					if s.kernel.closed() {
						t.Error("one record keeps the whole host closed")
					}
					if _, ok, _ := s.kernel.Machine(one.ID); ok {
						t.Error("a machine that may be another host's has an entry")
					}
					if err := f.call(1, attach("one")); !errors.Is(err, hwmap.ErrState) {
						t.Errorf("attach: %v, want ErrState", err)
					}
					f.must(f.call(1, attach("two")))
					s.kill()
					s.start()
					f.settled()
				}
				_, err = f.store.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: e[0].Key, Value: e[0].Value}}})
				f.must(err)
				f.settled()
				f.attach(1, "one")
				f.check(map[string]addr.Host{"one": 1, "two": 1})
			})
		})
	}
}

// Found by the soak: a machine was destroyed on its home, which was cut off, then declared dead, before the store heard of it.
func TestAHostThatWasDeadTellsWhatWasDestroyedBeforeItsBlocksWereAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(1, abort("web1")))
		f.settled()
		f.cutOff(1)
		f.must(f.call(1, destroy("web1")))
		f.servers[1].kill()
		f.inject(nil)
		f.must(f.call(2, declareDead(1, true)))
		f.adoptBlocks(1, 2)
		f.settled()
		f.servers[1].start()
		f.settled()
		f.say(2, (*hwmap.Map).Revive, 1)
		f.settled()
		if r, ok := f.view().machines[v.ID.Machine]; ok && !r.Destroyed {
			t.Errorf("the store has it on host %d", r.Host)
		}
		if l := f.servers[2].local(v.ID.Machine); l.State != hwmap.Quarantined {
			t.Errorf("the new home has %+v, want it in quarantine", l)
		}
		f.check(nil)
	})
}
