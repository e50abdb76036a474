package hwmap_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// send is a packet of the machine on that host, of which the datapath tells the daemon, if it is up.
func (f *fleet) send(on addr.Host, id addr.ID) {
	if m, err := f.daemon(on); err == nil && f.servers[on].kernel.tells(id) {
		m.Sent(id)
	}
}

// sends reports whether the machine has come to that host, after what it sends there: now, and each time it is asked again.
func (f *fleet) sends(on addr.Host, id addr.ID) func() error {
	return func() error {
		f.send(on, id)
		if l := f.servers[on].local(id.Machine); l.State != hwmap.Here {
			return fmt.Errorf("on host %d it is %q", on, l.State)
		}
		return nil
	}
}

func TestTheFirstPacketOnTheTargetSwitchesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web1")
		f.must(f.call(1, beginOnFirstPacket("web1", 2)))
		f.send(1, v.ID) // on the source it goes on running
		f.must(f.call(2, attach("web1")))
		f.settled()
		if l := f.servers[2].local(v.ID.Machine); l.State != hwmap.Incoming {
			t.Fatalf("before it has sent anything it is %s", l.State)
		}
		f.send(2, v.ID)
		synctest.Wait()
		if l := f.servers[2].local(v.ID.Machine); l.State != hwmap.Here || l.Epoch != 2 || l.OnFirstPacket {
			t.Errorf("after its first packet the target has %+v", l)
		}
		if f.servers[2].kernel.tells(v.ID) {
			t.Error("it is here, and its packets are still awaited")
		}
		f.must(f.call(1, finish("web1")))
		f.check(map[string]addr.Host{"web1": 2})
		// Another migration is another one's word.
		f.must(f.call(2, begin("web1", 1)))
		f.must(f.call(1, attach("web1")))
		f.send(1, v.ID)
		f.settled()
		if l := f.servers[1].local(v.ID.Machine); l.State != hwmap.Incoming {
			t.Errorf("a migration that waits for a switchover has %s", l.State)
		}
	})
}

// Whoever asks, and whenever, the source goes by its own truth and by what the target says.
func TestAWrongOrLateWordOfAFirstPacketChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web1")
		number := v.ID.Machine
		activate := func() error { return f.on(1).Activate(t.Context(), number) }
		unchanged := func(when string, want hwmap.LocalState) {
			t.Helper()
			f.settled()
			if l := f.servers[1].local(number); l.State != want {
				t.Errorf("%s: the source has %s", when, l.State)
			}
		}
		f.must(activate())
		unchanged("without a migration", hwmap.Here)
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		if err := activate(); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("of a migration that waits for a switchover: %v", err)
		}
		f.on(2).Sent(v.ID)
		unchanged("of a migration that waits for a switchover", hwmap.Leaving)
		f.must(f.call(1, beginOnFirstPacket("web1", 2))) // the last word counts
		if err := activate(); !errors.Is(err, hwmap.ErrNotReady) {
			t.Errorf("before there was a packet: %v", err)
		}
		f.on(3).Sent(v.ID)
		unchanged("before there was a packet", hwmap.Leaving)

		// The word of a migration that was aborted does not count for the next one, which has the same epoch.
		f.inject(func(host addr.Host, what string) fault {
			if what == "ask to activate" {
				return fails
			}
			return none
		})
		f.send(2, v.ID)
		f.settled()
		f.must(f.call(2, abort("web1")))
		f.settled()
		f.inject(nil)
		f.must(f.call(1, beginOnFirstPacket("web1", 2)))
		f.must(f.call(2, attach("web1")))
		if err := activate(); !errors.Is(err, hwmap.ErrNotReady) {
			t.Errorf("after an abort: %v", err)
		}
		unchanged("after an abort", hwmap.Leaving)

		f.must(f.call(1, begin("web1", 2))) // and now it is to wait again
		f.send(2, v.ID)
		unchanged("begun again without the option", hwmap.Leaving)
		if f.servers[2].kernel.tells(v.ID) {
			t.Error("its packets are still awaited")
		}
		f.must(f.call(1, switchover("web1")))
		f.must(activate())
		f.must(f.call(1, finish("web1")))
		f.must(activate())
		f.check(map[string]addr.Host{"web1": 2})
	})
}

// A daemon that was down when the first packet came, or has forgotten it, is told by the next one.
func TestAFirstPacketIsNotLostWithADaemon(t *testing.T) {
	for _, c := range []struct {
		name string
		on   addr.Host
		stop func(*server)
	}{
		{"the source is killed", 1, (*server).kill},
		{"the target is killed", 2, (*server).kill},
		{"the source reboots", 1, (*server).reboot},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				v := f.create(1, "web1")
				f.must(f.call(1, beginOnFirstPacket("web1", 2)))
				f.must(f.call(2, attach("web1")))
				f.settled()
				c.stop(f.servers[c.on])
				f.send(2, v.ID)
				f.settled()
				f.servers[c.on].start()
				if c.on == 2 {
					f.settled()
					if l := f.servers[2].local(v.ID.Machine); l.State != hwmap.Incoming {
						t.Fatalf("the target has %s", l.State)
					}
					f.send(2, v.ID)
				}
				f.settled()
				if err := f.sends(2, v.ID)(); err != nil {
					t.Fatal(err)
				}
				f.must(f.call(1, finish("web1")))
				f.check(map[string]addr.Host{"web1": 2})
			})
		})
	}
}

func TestAFirstPacketSwitchesOverOnceTheStoreIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web1")
		f.must(f.call(1, beginOnFirstPacket("web1", 2)))
		f.must(f.call(2, attach("web1")))
		restore := f.isolate(1, 2, 3)
		f.send(2, v.ID)
		time.Sleep(10 * time.Minute)
		if l := f.servers[1].local(v.ID.Machine); l.State != hwmap.Leaving {
			t.Errorf("without the store the source has %s", l.State)
		}
		if n := f.servers[2].log.count("did not switch over"); n == 0 || n > 5 {
			t.Errorf("it is said %d times", n)
		}
		restore()
		f.settled()
		if l := f.servers[2].local(v.ID.Machine); l.State != hwmap.Here {
			t.Errorf("with the store again the target has %s", l.State)
		}
		f.must(f.call(1, finish("web1")))
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestAFirstPacketSwitchesOverWhateverGoesWrong(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		id := addr.ID{Cell: cell, Machine: 1}
		f.insist("migrate", func() error {
			if f.servers[1].local(id.Machine).State == hwmap.Here || f.servers[1].local(id.Machine).State == hwmap.Leaving {
				if err := f.call(1, beginOnFirstPacket("web1", 2)); err != nil {
					return err
				}
				if err := f.call(2, attach("web1")); err != nil {
					return err
				}
			}
			return f.sends(2, id)()
		})
		f.insist("finish", func() error { return f.call(1, finish("web1")) })
		f.check(map[string]addr.Host{"web1": 2})
	})
}
