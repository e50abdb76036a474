package hwmap_test

import (
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
)

// sendsTo returns where the host's kernel believes the machine to be: 0 for its block's home.
func (s *server) sendsTo(id addr.ID) addr.Host {
	_, _, moved, _ := s.kernel.content()
	return moved[id].Host
}

// counting counts the steps of one kind on a host from now on.
func (f *fleet) counting(host addr.Host, what string) (count func() int) {
	n := 0
	f.inject(func(h addr.Host, w string) fault {
		if h == host && w == what {
			n++
		}
		return none
	})
	return func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return n
	}
}

// switchOver moves a machine without waiting for the hosts that have not followed.
func (f *fleet) switchOver(name string, from, to addr.Host) {
	f.t.Helper()
	f.must(f.call(from, begin(name, to)))
	f.must(f.call(to, attach(name)))
	f.must(f.call(from, switchover(name)))
	synctest.Wait()
}

func TestAHostWhoseWatchStandsStillHealsWhenAnotherTellsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		id := f.create(1, "web1").ID
		f.settled()
		release := f.hold(3)
		f.switchOver("web1", 1, 2)
		if to := f.servers[3].sendsTo(id); to != 0 {
			t.Fatalf("host 3 sends to host %d though it has heard of nothing", to)
		}
		f.on(1).Astray(3, id)
		f.settled()
		if to := f.servers[3].sendsTo(id); to != 2 {
			t.Errorf("host 3 was told, and sends to host %d; want 2", to)
		}
		if sent, heeded := f.on(1).Status().HintsSent, f.on(3).Status().HintsHeeded; sent == 0 || heeded == 0 {
			t.Errorf("host 1 counts %d hints sent, host 3 %d heeded", sent, heeded)
		}
		// It survives a restart without the store, too.
		f.cutOff(3)
		f.servers[3].reboot()
		release()
		f.servers[3].start()
		if to := f.servers[3].sendsTo(id); to != 2 {
			t.Errorf("after a reboot without the store host 3 sends to host %d; want 2", to)
		}
		f.inject(nil)
		f.insist("finish", func() error { return f.call(1, finish("web1")) })
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestWhatTheWatchBringsLateDoesNotUndoWhatWasReadUponAHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		id := f.create(1, "web1").ID
		f.settled()
		release := f.hold(3)
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(1, abort("web1")))
		f.switchOver("web1", 1, 2)
		f.on(2).Astray(3, id)
		f.settled()
		back := make(chan addr.Host, 1)
		f.inject(func(host addr.Host, what string) fault {
			if host == 3 && what == "delete moved" {
				back <- f.servers[3].sendsTo(id)
			}
			return none
		})
		release()
		f.insist("finish", func() error { return f.call(1, finish("web1")) })
		select {
		case to := <-back:
			t.Errorf("host 3 forgot that it sends to host %d", to)
		default:
		}
		f.inject(nil)
		f.check(map[string]addr.Host{"web1": 2})
		if n := f.servers[3].log.count("older than the kernel's maps"); n != 0 {
			t.Errorf("host 3 took what came late for a store that went back in time, %d times", n)
		}
	})
}

func TestAHostThatMissedAMachinesEndHealsWhenAnotherTellsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		id := f.create(1, "web1").ID
		f.migrate("web1", 1, 2)
		f.settled()
		release := f.hold(3)
		f.must(f.call(2, destroy("web1")))
		time.Sleep(2 * time.Hour) // its id is free, its record deleted
		again := f.create(1, "web2").ID
		if again != id {
			t.Fatalf("the id is %s, want that of the earlier machine, %s", again, id)
		}
		if to := f.servers[3].sendsTo(id); to != 2 {
			t.Fatalf("host 3 sends to host %d, want the earlier one's, 2", to)
		}
		f.on(2).Astray(3, id)
		f.settled()
		if to := f.servers[3].sendsTo(id); to != 0 {
			t.Errorf("host 3 was told, and still sends to host %d", to)
		}
		release()
		f.check(map[string]addr.Host{"web2": 1})
	})
}

func TestAnEntryThatWentMissingByItselfIsMendedUponAHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		id := f.create(1, "web1").ID
		f.migrate("web1", 1, 2)
		f.settled()
		f.must(f.servers[3].kernel.DeleteMoved(id, 99))
		f.on(1).Astray(3, id)
		f.settled()
		if to := f.servers[3].sendsTo(id); to != 2 {
			t.Errorf("host 3 sends to host %d, want 2", to)
		}
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestAHintAboutWhatIsRightChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.create(1, "web2")
		f.migrate("web1", 1, 2)
		f.settled()
		_, machines, moved, blocks := f.servers[3].kernel.content()
		for number := range addr.Machine(40) {
			for _, s := range f.servers {
				f.on(s.id).Reread(number)
			}
		}
		f.settled()
		_, machinesAfter, movedAfter, blocksAfter := f.servers[3].kernel.content()
		if len(machinesAfter) != len(machines) || len(movedAfter) != len(moved) || len(blocksAfter) != len(blocks) {
			t.Errorf("host 3 has now\n%v\n%v\n%v, had\n%v\n%v\n%v", machinesAfter, movedAfter, blocksAfter, machines, moved, blocks)
		}
		f.check(map[string]addr.Host{"web1": 2, "web2": 1})
	})
}

func TestHintsWithoutEndAreNoBurdenToTheStore(t *testing.T) {
	const seconds = 20
	for name, c := range map[string]struct {
		machines addr.Machine // that the hints are about
		most     int          // reads in a second
	}{
		"about one machine":   {1, 1},
		"about every machine": {4096, 64},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				f.settled()
				reads := f.counting(2, "read fleet")
				m := f.on(2)
				for range seconds * 10 {
					for number := range c.machines {
						m.Reread(number)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if n := reads(); n < seconds/2 || n > c.most*(seconds+2) {
					t.Errorf("%d reads in %d seconds, want at most %d a second, and some", n, seconds, c.most)
				}
				f.settled()
				before := reads()
				m.Reread(1)
				synctest.Wait()
				if reads() != before+1 {
					t.Error("a hint after all that is not heeded at once")
				}
			})
		})
	}
}

func TestPacketsAstrayAreToldOfAtALimitedRateToHostsOfTheFleetOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const seconds = 10
		f := newFleet(t, 2)
		f.settled()
		told := f.counting(1, "hint")
		m := f.on(1)
		for range 1000 {
			for _, host := range []addr.Host{0, 1, 9} { // none, itself, unknown
				m.Astray(host, addr.ID{Cell: cell, Machine: 1})
			}
			m.Astray(2, addr.ID{Cell: 9, Machine: 1})
		}
		synctest.Wait()
		if told() != 0 {
			t.Errorf("%d hints to nobody", told())
		}
		for range seconds * 10 {
			for number := range addr.Machine(100) {
				m.Astray(2, addr.ID{Cell: cell, Machine: number})
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := told(); n < 20*seconds/2 || n > 20*(seconds+1) {
			t.Errorf("host 2 was told %d times in %d seconds, want about 20 a second", n, seconds)
		}
	})
}

func TestAHostThatDoesNotAnswerDoesNotGatherHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.settled()
		f.inject(func(host addr.Host, what string) fault {
			if what == "hint" {
				return fails
			}
			return none
		})
		f.slow(func() time.Duration { return time.Minute }) // each hint is as slow as can be
		m := f.on(1)
		for range 600 {
			for number := range addr.Machine(10) {
				m.Astray(2, addr.ID{Cell: cell, Machine: number + 1000})
			}
			time.Sleep(time.Second)
		}
		f.slow(nil)
		if n := m.Status().HintsSent; n != 0 {
			t.Errorf("%d hints count as sent", n)
		}
		told := f.counting(1, "hint")
		f.settled()
		if n := told(); n > 64+16 {
			t.Errorf("%d hints had gathered", n)
		}
	})
}
