package hwmap_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// accepted has the fleet's store restored as another cluster, and accepted.
func (f *fleet) accepted() {
	f.t.Helper()
	f.settled()
	backup := f.memory.copied()
	for id := range f.servers {
		f.fill(id, fmt.Sprintf("filling-%d-", id))
	}
	f.settled()
	f.memory.restore(backup, "another", 0)
	f.settled()
	f.must(f.call(1, acceptStore))
	f.settled()
}

// A first start that fails half way is repeated.
func TestAFirstStartThatFailsInAStoreThatWasAcceptedIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.accepted()
		told := false
		f.add(3)
		f.inject(func(host addr.Host, what string) fault {
			if host == 3 && what == "tell fleet" { // that it has nothing to publish
				told = true
			}
			if host == 3 && what == "read fleet" && told {
				return fails
			}
			return none
		})
		if err := f.servers[3].open(); err == nil {
			t.Fatal("started")
		}
		f.inject(nil)
		f.servers[3].start()
		f.settled()
		if reason := f.on(3).Status().DatabaseSuspect; reason != "" {
			t.Errorf("the database of a new host is suspect: %s", reason)
		}
	})
}

// slowWitness is the fleet's store for one host whose question for its witness takes long, while it says that it has published all.
type slowWitness struct {
	hwmap.Store
	asked func(key hwmap.Key, what string)
}

func (s slowWitness) List(ctx context.Context, prefix hwmap.Key) ([]hwmap.Entry, hwmap.Revision, error) {
	s.asked(prefix, "list")
	return s.Store.List(ctx, prefix)
}

func (s slowWitness) Get(ctx context.Context, keys ...hwmap.Key) ([]hwmap.Entry, error) {
	if len(keys) == 2 {
		s.asked(keys[0], "get")
	}
	return s.Store.Get(ctx, keys...)
}

// Two tasks of one daemon tell the store of its commits; that is no copy in use.
func TestADaemonDoesNotTakeItsOwnWitnessForThatOfACopy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "one")
		f.settled()
		backup := f.memory.copied()
		f.fill(1, "filling-")
		f.settled()
		f.memory.restore(backup, "another", 0)
		f.settled()
		s := f.servers[1]
		s.kill()
		var mu sync.Mutex // guards phase
		phase := 0
		f.store = slowWitness{f.memory, func(key hwmap.Key, what string) {
			mu.Lock()
			now := phase
			switch {
			case now == 1 && key == "map/" && what == "list":
				phase = 2 // it publishes again, which takes a while
			case now == 2 && key == "witness/1" && what == "get":
				phase = 3
			default:
				now = 0
			}
			mu.Unlock()
			switch now {
			case 1:
				time.Sleep(30 * time.Second)
			case 2: // the answer takes until it has published
				if err := f.call(1, create("meanwhile")); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Minute)
			}
		}}
		s.start()
		f.settled()
		mu.Lock()
		phase = 1
		mu.Unlock()
		f.must(f.call(1, acceptStore))
		f.settled()
		mu.Lock()
		if phase != 3 {
			t.Errorf("only came to %d", phase)
		}
		mu.Unlock()
		if reason := f.on(1).Status().DatabaseSuspect; reason != "" {
			t.Errorf("the database is suspect: %s", reason)
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
