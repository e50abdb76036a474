package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

func handOver(to addr.Host) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.HandOver(ctx, to)
		return err
	}
}

// handOver hands a host's blocks over, as often as it takes.
func (f *fleet) handOver(from, to addr.Host) {
	f.t.Helper()
	f.insist("hand over", func() error { return f.call(from, handOver(to)) })
}

// leftBehind checks that a host has nothing more of the blocks that it is not home of.
func (f *fleet) leftBehind(host addr.Host) {
	f.t.Helper()
	blocks := f.view().blocks
	for _, l := range f.servers[host].locals() {
		switch l.State {
		case hwmap.Issued, hwmap.Quarantined, hwmap.Free:
			if home := blocks[l.Machine.Block()].Home; home != host {
				f.t.Errorf("host %d still has %+v, of a block of host %d", host, l, home)
			}
		}
	}
	marks, _, err := f.servers[host].truth.List(f.t.Context(), "homes/")
	f.must(err)
	for _, e := range marks {
		var n addr.Block
		if _, err := fmt.Sscanf(string(e.Key), "homes/%d", &n); err != nil || blocks[n].Home != host {
			f.t.Errorf("host %d still has %s", host, e.Key)
		}
	}
}

// A host with machines of every kind: away on two hosts, destroyed at home, destroyed away, long free.
func newLeaving(t *testing.T) *fleet {
	f := newFleet(t, 3)
	for _, name := range []string{"free", "web1", "web2", "web3", "web4", "quarantined", "destroyed", "back"} {
		f.create(1, name)
	}
	f.destroy(1, "free")
	for name, to := range map[string]addr.Host{"web1": 2, "web2": 2, "web3": 3, "web4": 3, "destroyed": 2, "back": 2} {
		f.migrate(name, 1, to)
	}
	f.migrate("web1", 2, 3)
	f.migrate("web1", 3, 2) // at epoch 4
	f.destroy(2, "destroyed")
	time.Sleep(time.Hour + time.Minute) // "free" and "destroyed" are free
	f.destroy(1, "quarantined")
	f.destroy(2, "back")
	f.settled()
	return f
}

var leavingOwners = map[string]addr.Host{"web1": 2, "web2": 2, "web3": 3, "web4": 3}

func TestBlocksAreHandedOverAndAllIsReachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLeaving(t)
		before := f.view().blocks[0]
		f.say(1, (*hwmap.Map).Cordon, 1)
		blocks, err := f.on(1).HandOver(t.Context(), 2)
		f.must(err)
		want := hwmap.Block{Block: 0, Home: 2, Epoch: before.Epoch + 1, EpochFloor: 4, IssueAfter: f.view().blocks[0].IssueAfter}
		equal(t, "what was handed over", []hwmap.Block{want}, blocks)
		if wait := time.Until(want.IssueAfter); wait != time.Hour {
			t.Errorf("nothing is issued for %s, want an hour", wait)
		}
		f.check(leavingOwners) // entries for those that have moved, by the new home
		f.leftBehind(1)
		if left := f.servers[1].locals(); len(left) != 0 {
			t.Errorf("host 1 still has %+v", left)
		}
		for name, state := range map[string]hwmap.LocalState{"web1": hwmap.Here, "web2": hwmap.Here, "web3": hwmap.Issued, "web4": hwmap.Issued} {
			v, err := f.on(2).Machine(name)
			f.must(err)
			if l := f.servers[2].local(v.ID.Machine); l.State != state {
				t.Errorf("the new home has %s as %+v, want it %s", name, l, state)
			}
		}
		// Moves and destroys go on, with the new home.
		f.migrate("web3", 3, 2)
		f.migrate("web1", 2, 3)
		f.destroy(3, "web4")
		f.destroy(2, "web2")
		f.check(map[string]addr.Host{"web1": 3, "web3": 2})
		time.Sleep(2 * time.Hour)
		f.check(map[string]addr.Host{"web1": 3, "web3": 2})
		if n := len(f.view().machines); n != 2 {
			t.Errorf("%d records are left: %v", n, f.view().machines)
		}
		f.handOver(1, 0) // repeated
	})
}

func TestAHandedOverBlockIssuesAfterAQuarantineAboveItsFloor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newLeaving(t)
		used := make(map[addr.Machine]bool)
		for _, r := range f.view().machines {
			used[r.Machine] = !r.Destroyed
		}
		f.say(1, (*hwmap.Map).Cordon, 1)
		f.handOver(1, 2)
		n := 0
		create := func() hwmap.MachineView {
			t.Helper()
			n++
			var v hwmap.MachineView
			f.insist("create", func() (err error) {
				v, err = f.on(2).Create(t.Context(), fmt.Sprintf("new%d", n), 7)
				return err
			})
			return v
		}
		for range 300 {
			if v := create(); v.ID.Machine.Block() == 0 {
				t.Fatalf("machine %d is of the block that was handed over, within the quarantine", v.ID.Machine)
			}
		}
		for range 2 { // and a restart, without the store, changes nothing
			f.servers[2].kill()
			f.cutOff(2)
			f.servers[2].start()
		}
		if v := create(); v.ID.Machine.Block() == 0 {
			t.Fatalf("machine %d is of the block that was handed over, after a restart", v.ID.Machine)
		}
		time.Sleep(time.Hour)
		f.inject(nil)
		time.Sleep(time.Minute)
		issued := 0
		for range 500 {
			v := create()
			if v.ID.Machine.Block() != 0 {
				continue
			}
			issued++
			if v.Epoch != 5 || used[v.ID.Machine] {
				t.Errorf("machine %d is issued at epoch %d; in use are %v", v.ID.Machine, v.Epoch, used)
			}
		}
		if issued < 200 {
			t.Errorf("%d ids of the block were issued, want all that are free", issued)
		}
		f.leftBehind(1)
	})
}

func TestAHandOverSurvivesAnyFaultWhenRepeated(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		f.inject(nil)
		f.create(1, "web2")
		f.migrate("web1", 1, 2)
		f.migrate("web2", 1, 3)
		f.create(1, "web3")
		f.destroy(1, "web3")
		f.say(2, (*hwmap.Map).Cordon, 1)
		time.Sleep(time.Minute)
		f.inject(f.armed)
		f.handOver(1, 3)
		f.check(map[string]addr.Host{"web1": 2, "web2": 3})
		f.leftBehind(1)
		f.inject(nil)
		if b := f.view().blocks[0]; b.Home != 3 || b.Epoch != 2 || b.EpochFloor != 2 {
			t.Errorf("the block: %+v", b)
		}
		f.migrate("web1", 2, 3)
		f.destroy(3, "web1")
		f.check(map[string]addr.Host{"web2": 3})
		f.say(1, (*hwmap.Map).Uncordon, 1)
		f.settled()
		if v := f.create(1, "web4"); v.ID.Machine.Block() == 0 {
			t.Errorf("the old home issues %d, of a block that it has handed over", v.ID.Machine)
		}
		f.check(map[string]addr.Host{"web2": 3, "web4": 1})
	})
}

func TestANewHomeThatIsDownTakesOverWhenItComes(t *testing.T) {
	for name, away := range map[string]time.Duration{"within the quarantine": time.Minute, "long after it": 5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newLeaving(t)
				f.say(1, (*hwmap.Map).Cordon, 1)
				f.servers[3].kill()
				f.handOver(1, 3)
				f.must(f.call(2, destroy("web2")))
				time.Sleep(away)
				f.servers[3].start()
				f.check(map[string]addr.Host{"web1": 2, "web3": 3, "web4": 3})
				f.leftBehind(1)
				used := make(map[addr.Machine]bool)
				for _, r := range f.view().machines {
					used[r.Machine] = true
				}
				for i := range 400 {
					f.insist("create", func() error {
						v, err := f.on(3).Create(t.Context(), fmt.Sprintf("new%d", i), 7)
						if err == nil && used[v.ID.Machine] {
							t.Errorf("machine %d is issued, which is in use", v.ID.Machine)
						}
						return err
					})
				}
			})
		})
	}
}

func TestABlockStaysWhileOnlyItsHomeKnowsOfAMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		for _, name := range []string{"here", "leaving", "away", "moved", "back"} {
			f.create(1, name)
		}
		f.must(f.call(1, begin("leaving", 2)))
		f.must(f.call(1, begin("away", 2)))
		f.must(f.call(2, attach("away")))
		f.must(f.call(1, switchover("away")))
		f.migrate("moved", 1, 2)
		f.migrate("back", 1, 2)
		f.migrate("back", 2, 1)
		refused := func(says ...string) {
			t.Helper()
			f.settled()
			blocks, err := f.on(1).HandOver(t.Context(), 0)
			if !errors.Is(err, hwmap.ErrState) || len(blocks) != 0 {
				t.Fatalf("handed over %v, %v", blocks, err)
			}
			for _, s := range says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("it does not say %s: %v", s, err)
				}
			}
		}
		refused("cordon 1")
		f.say(2, (*hwmap.Map).Cordon, 1)
		refused(`"here" is on this host`, `"leaving" is leaving`, `"away" is away`)
		f.must(f.call(1, abort("leaving")))
		f.must(f.call(1, finish("away")))
		refused(`"here" is on this host`) // "leaving" has a record now
		f.migrate("here", 1, 3)
		f.settled()
		f.handOver(1, 0)
		f.check(map[string]addr.Host{"here": 3, "leaving": 1, "away": 2, "moved": 2, "back": 1})
		f.leftBehind(1)
		f.migrate("back", 1, 2)
		f.destroy(1, "leaving")
		f.check(map[string]addr.Host{"here": 3, "away": 2, "moved": 2, "back": 2})
	})
}

func TestBlocksGoWhereThereAreFewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 4)
		for b := addr.Block(10); b < 14; b++ {
			f.write(hwmap.Key(fmt.Sprintf("map/blocks/%d", b)), hwmap.Block{Block: b, Home: 1, Epoch: 1})
		}
		f.write("map/blocks/20", hwmap.Block{Block: 20, Home: 2, Epoch: 1})
		f.say(1, (*hwmap.Map).Cordon, 4)
		f.say(1, (*hwmap.Map).Cordon, 1)
		f.settled()
		f.handOver(1, 0)
		homes := make(map[addr.Host]int)
		for _, b := range f.view().blocks {
			homes[b.Home]++
		}
		equal(t, "blocks of each host", map[addr.Host]int{2: 4, 3: 4, 4: 1}, homes)
		for to, want := range map[addr.Host]error{1: hwmap.ErrUsage, 2: nil} {
			if err := f.call(1, handOver(to)); !errors.Is(err, want) {
				t.Errorf("to host %d: %v, want %v", to, err, want)
			}
		}
		f.say(3, (*hwmap.Map).Cordon, 3)
		f.settled()
		for to, want := range map[addr.Host]error{4: hwmap.ErrState, 9: hwmap.ErrUnknownHost} {
			if err := f.call(3, handOver(to)); !errors.Is(err, want) {
				t.Errorf("to host %d: %v, want %v", to, err, want)
			}
		}
	})
}

// A record may be missing when the block changes hands, and come later: its id was never free.
func TestARecordThatComesAfterItsBlockIsTakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web1")
		f.migrate("web1", 1, 3)
		f.settled()
		f.say(1, (*hwmap.Map).Cordon, 1)
		f.settled()
		release := f.hold(3)
		f.write("map/machines/1", nil)
		if err := f.call(1, handOver(2)); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "has gone") {
			t.Errorf("hand over: %v", err)
		}
		f.write("map/blocks/0", hwmap.Block{Block: 0, Home: 2, Epoch: 2, EpochFloor: 9}) // as a dead host's block is
		f.settled()
		release()
		f.settled()
		f.servers[3].kill()
		f.servers[3].start() // a listing: it publishes what is missing
		f.check(map[string]addr.Host{"web1": 3})
		if l := f.servers[2].local(v.ID.Machine); l.State != hwmap.Issued || l.Name != "web1" {
			t.Errorf("the new home has %+v", l)
		}
		f.leftBehind(1)
	})
}

// A hand over that was very long on its way must not take a block from a host that issues again.
func TestAnUncordonedHostKeepsItsBlockFromALateHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.say(1, (*hwmap.Map).Cordon, 1)
		f.settled()
		decide, _ := at(1, delayed, func(what string) bool { return what == "write fleet" })
		f.inject(decide)
		if err := f.call(1, handOver(2)); !errors.Is(err, hwmap.ErrInDoubt) {
			t.Fatalf("hand over: %v", err)
		}
		f.say(1, (*hwmap.Map).Uncordon, 1)
		synctest.Wait()
		v := f.create(1, "web1")
		f.check(map[string]addr.Host{"web1": 1})
		if home := f.view().blocks[v.ID.Machine.Block()].Home; home != 1 {
			t.Errorf("its block has home %d", home)
		}
	})
}

// Found by the soak: the new home had been the machine's owner, and its move away was not finished when the machine was destroyed.
func TestAMachineThatWasDestroyedBeforeItsBlockCameKeepsNoId(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.must(f.call(2, begin("web1", 1)))
		f.attach(1, "web1")
		f.must(f.call(2, switchover("web1")))
		f.settled()
		f.destroy(1, "web1")
		time.Sleep(time.Hour + time.Minute)
		if r, ok := f.view().machines[1]; ok {
			t.Fatalf("the record is still there: %+v", r)
		}
		f.say(1, (*hwmap.Map).Cordon, 1)
		f.handOver(1, 2)
		f.settled()
		f.must(f.call(2, finish("web1")))
		f.settled()
		if l := f.servers[2].local(1); l.State != hwmap.Quarantined || l.Epoch != 3 {
			t.Errorf("the new home has %+v, want it in quarantine, at epoch 3", l)
		}
		f.say(2, (*hwmap.Map).Cordon, 2)
		f.handOver(2, 3) // which needs to know of each id whether it is in use
		f.check(nil)
		f.leftBehind(2)
	})
}

// A record that has gone frees nothing, whoever the home is.
func TestALostRecordFreesNoIDOfABlockThatWasHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		id := f.create(1, "one").ID
		f.migrate("one", 1, 2)
		_, err := f.on(3).Cordon(t.Context(), 1)
		f.must(err)
		f.settled()
		_, err = f.on(1).HandOver(t.Context(), 3)
		f.must(err)
		f.settled()
		f.servers[2].kill() // its machines run on
		_, err = f.store.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: hwmap.Key(fmt.Sprintf("map/machines/%d", id.Machine))}}})
		f.must(err)
		time.Sleep(3 * time.Hour)
		for i := range 2 * addr.BlockSize {
			v, err := f.on(3).Create(t.Context(), fmt.Sprintf("new-%d", i), 7)
			f.must(err)
			synctest.Wait()
			if v.ID == id {
				t.Fatalf("%s is issued to %q, and machine one of host 2 has it", id, v.Name)
			}
		}
	})
}
