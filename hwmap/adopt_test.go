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
)

func unfreeze(home addr.Host) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.UnfreezeBlocks(ctx, home)
		return err
	}
}

// machines makes n machines on a host, without ports, and returns them by number.
func (f *fleet) machines(on addr.Host, prefix string, n int) map[addr.Machine]hwmap.MachineView {
	f.t.Helper()
	made := make(map[addr.Machine]hwmap.MachineView)
	for i := range n {
		v, err := f.on(on).Create(f.t.Context(), fmt.Sprintf("%s%d", prefix, i), 7)
		f.must(err)
		made[v.Local.Machine] = v
	}
	return made
}

func TestNothingIsIssuedFromAnAdoptedBlockUntilItIsUnfrozenAndQuarantined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.create(1, "web2")
		f.create(1, "web3")
		f.must(f.call(1, destroy("web3")))
		f.lose(1, 2)
		f.adoptBlocks(1, 2)
		f.claim(2, "web1", 1)
		f.settled()
		block := f.view().blocks[0]
		if want := (hwmap.Block{Home: 2, Epoch: 2, EpochFloor: 1 << 32, Frozen: true, AdoptedFrom: 1}); block != want {
			t.Errorf("the block is %+v, want %+v", block, want)
		}
		none := func(what string) {
			t.Helper()
			for number, v := range f.machines(2, what, 60) {
				if number.Block() == 0 {
					t.Fatalf("%s: machine %d was issued: %+v", what, number, v)
				}
			}
		}
		none("frozen")
		f.must(f.call(1+1, unfreeze(2)))
		f.settled()
		none("quarantined")
		time.Sleep(time.Hour)
		synctest.Wait()
		issued := 0
		for number, v := range f.machines(2, "issued", 300) {
			if number.Block() != 0 {
				continue
			}
			if issued++; v.Epoch != 1<<32+1 {
				t.Errorf("machine %d was issued at epoch %d, want above the floor", number, v.Epoch)
			}
			if number == 1 {
				t.Error("the number of the claimed machine was issued again")
			}
		}
		if issued < addr.BlockSize/2 {
			t.Errorf("%d machines of the block were issued", issued)
		}
		if err := f.call(2, claim("web2", 2)); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("claim of what was given up: %v", err)
		}
		f.servers[1].start()
		f.say(2, (*hwmap.Map).Revive, 1)
		f.settled()
		if here := f.on(1).Status().Machines[hwmap.Here]; here != 0 {
			t.Errorf("the host that came back has %d machines", here)
		}
	})
}

// The home that adopted a block dies, too: what has no record in it is still the first one's.
func TestABlockIsAdoptedFromItsAdopter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.create(1, "web2")
		f.create(2, "web3")
		f.settled()
		f.lose(1, 2)
		f.adoptBlocks(1, 2)
		f.settled()
		f.lose(2, 3)
		f.adoptBlocks(2, 3)
		f.settled()
		if b := f.view().blocks[0]; b.Home != 3 || b.AdoptedFrom != 1 || b.EpochFloor != 2<<32 || !b.Frozen {
			t.Errorf("the block is %+v", b)
		}
		f.claim(3, "web1", 1)
		f.claim(3, "web3", addr.Block(1).First())
		f.servers[1].start()
		f.servers[2].start()
		f.say(3, (*hwmap.Map).Revive, 1)
		f.settled()
		if err := f.call(3, claim("web2", 2)); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "host 1, which is cordoned") {
			t.Errorf("claim from a host that was revived: %v", err)
		}
		f.say(3, (*hwmap.Map).Revive, 2)
		f.check(map[string]addr.Host{"web1": 3, "web2": 1, "web3": 3})
	})
}

func TestBlocksAreAdoptedOnlyFromTheDeadAndByWhoTakesMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.must(f.call(3, func(ctx context.Context, m *hwmap.Map) error {
			_, err := m.Cordon(ctx, 3)
			return err
		}))
		f.settled()
		refused := func(from, to addr.Host, want error) {
			t.Helper()
			if err := f.call(2, adopt(from, to)); !errors.Is(err, want) {
				t.Errorf("host %d adopts the blocks of %d: %v, want %v", to, from, err, want)
			}
		}
		refused(1, 2, hwmap.ErrState)
		f.lose(1, 2)
		refused(1, 1, hwmap.ErrUsage)
		refused(1, 3, hwmap.ErrState)
		refused(1, 9, hwmap.ErrUnknownHost)
		refused(9, 2, hwmap.ErrUnknownHost)
		if b := f.view().blocks[0]; b.Home != 1 || b.Epoch != 1 {
			t.Errorf("the block is %+v", b)
		}
		if _, err := f.on(2).UnfreezeBlock(t.Context(), 77); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("a block that nobody has was unfrozen: %v", err)
		}
		frozen, err := f.on(2).UnfreezeBlock(t.Context(), 0)
		if frozen || err != nil || f.view().blocks[0].Epoch != 1 {
			t.Errorf("a block that was not frozen: %v, %v, and it is %+v", frozen, err, f.view().blocks[0])
		}
	})
}

// The operator gives a machine up while its host is revived: it goes on there, or its number is issued again, never both.
func TestAnUnfreezeThatRacesWithTheDeadHostsReturnIssuesNoNumberTwice(t *testing.T) {
	kept := make(map[bool]int)
	for seed := range uint64(40) {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, 2)
			f.create(1, "web1")
			f.settled()
			f.servers[2].kill()
			f.servers[2].quarantine = time.Millisecond
			f.servers[2].start()
			f.lose(1, 2)
			f.servers[1].start()
			f.adoptBlocks(1, 2)
			f.settled()
			random := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex // guards random
			shortly := func() time.Duration {
				mu.Lock()
				defer mu.Unlock()
				return time.Duration(random.IntN(1000)) * time.Millisecond
			}
			f.slow(shortly)
			var callers sync.WaitGroup
			callers.Go(func() {
				time.Sleep(4 * shortly())
				f.insist("unfreeze", func() error { return f.call(2, unfreeze(2)) })
			})
			callers.Go(func() {
				time.Sleep(shortly())
				f.say(2, (*hwmap.Map).Revive, 1)
			})
			callers.Wait()
			f.slow(nil)
			f.settled()
			made := f.machines(2, "web2-", 400)
			f.settled()
			_, twice := made[1]
			at, here := f.owners()["web1"]
			if twice == here || here && at != 1 {
				t.Fatalf("seed %d: web1 is on host %d (%v), its number was issued again: %v", seed, at, here, twice)
			}
			kept[here]++
		})
	}
	if kept[true] == 0 || kept[false] == 0 {
		t.Errorf("kept, or given up: %v: the race has one winner", kept)
	}
}

// What the dead host writes of a machine that it takes up again may arrive when the machine's number is another's.
func TestAMachineIsNotTakenUpOnceItsBlockWasUnfrozen(t *testing.T) {
	outcomes := make(map[bool]int)
	for n := 1; n <= 4; n++ { // its record is one of the first that the host writes
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, 2)
			f.create(1, "web1")
			f.settled()
			f.servers[2].kill()
			f.servers[2].quarantine = time.Millisecond
			f.servers[2].start()
			f.lose(1, 2)
			f.servers[1].start()
			f.adoptBlocks(1, 2)
			f.settled()
			f.onItsWay(1, n)
			f.say(2, (*hwmap.Map).Revive, 1)
			time.Sleep(time.Second)
			f.must(f.call(2, unfreeze(2)))
			time.Sleep(10 * time.Second) // the quarantine of all is over
			synctest.Wait()
			made := f.machines(2, "web2-", 400)
			time.Sleep(time.Minute)
			f.inject(nil)
			f.settled()
			_, again := made[1]
			_, here := f.owners()["web1"]
			_, recorded := f.view().machines[1]
			if again == here || here != recorded {
				t.Errorf("write %d: the number was issued again %v, the machine is here %v, and recorded %v", n, again, here, recorded)
			}
			if f.servers[1].kernel.closed() {
				t.Error("the host that was revived is fenced")
			}
			outcomes[here]++
		})
	}
	if outcomes[true] == 0 || outcomes[false] == 0 {
		t.Errorf("kept, or given up: %v: not every case was met", outcomes)
	}
}
