package hwmap_test

import (
	"context"
	"fmt"
	"strings"
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

// wandering is a store that answers now and then from another cluster, and notices, as package etcd does.
type wandering struct {
	mu    sync.Mutex // guards what follows
	is    *memory
	moved chan struct{} // closed when it answers from another
	was   map[*client]*memory
}

func (w *wandering) move(to *memory) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.is = to
	close(w.moved)
	w.moved = make(chan struct{})
}

// client is one host's Store of it.
type client struct{ w *wandering }

func (c *client) now() (*memory, error) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if was, ok := c.w.was[c]; ok && was != c.w.is {
		return nil, fmt.Errorf("%w: %w: %w: another cluster", hwmap.ErrUnavailable, hwmap.ErrRestored, hwmap.ErrOtherStore)
	}
	c.w.was[c] = c.w.is
	return c.w.is, nil
}

func (c *client) ID(ctx context.Context) (string, error) {
	c.w.mu.Lock()
	delete(c.w.was, c)
	c.w.mu.Unlock()
	s, _ := c.now()
	return s.ID(ctx)
}

func (c *client) Get(ctx context.Context, keys ...hwmap.Key) ([]hwmap.Entry, error) {
	s, err := c.now()
	if err != nil {
		return nil, err
	}
	return s.Get(ctx, keys...)
}

func (c *client) List(ctx context.Context, prefix hwmap.Key) ([]hwmap.Entry, hwmap.Revision, error) {
	s, err := c.now()
	if err != nil {
		return nil, 0, err
	}
	return s.List(ctx, prefix)
}

func (c *client) Commit(ctx context.Context, t hwmap.Txn) (hwmap.Revision, error) {
	s, err := c.now()
	if err != nil {
		return 0, err
	}
	return s.Commit(ctx, t)
}

func (c *client) Watch(ctx context.Context, prefix hwmap.Key, after hwmap.Revision, f func(hwmap.Batch) error) error {
	s, err := c.now()
	if err != nil {
		return err
	}
	c.w.mu.Lock()
	moved := c.w.moved
	c.w.mu.Unlock()
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-moved:
			stop()
		case <-watching.Done():
		}
	}()
	err = s.Watch(watching, prefix, after, f)
	if ctx.Err() == nil && watching.Err() != nil {
		err = fmt.Errorf("%w: connection lost", hwmap.ErrUnavailable)
	}
	return err
}

func (c *client) Hold(ctx context.Context, key hwmap.Key, value []byte, ttl time.Duration) error {
	s, err := c.now()
	if err != nil {
		return err
	}
	return s.Hold(ctx, key, value, ttl)
}

func (c *client) Close() error { return nil }

// "Bring the right one back" is the remedy that is told.
func TestTheRightStoreIsBelievedWhenItComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		right := newMemory()
		w := &wandering{is: right, moved: make(chan struct{}), was: make(map[*client]*memory)}
		f := newFleetOn(t, &client{w}, 2)
		f.create(1, "one")
		f.settled()
		w.move(newMemory())
		f.create(1, "two") // whose truth the store is told of: so it is asked
		f.settled()
		if f.on(1).Status().StoreSuspect == "" {
			t.Error("another store is believed")
		}
		w.move(right)
		f.settled()
		for id := range f.servers {
			if reason := f.on(id).Status().StoreSuspect; reason != "" {
				t.Errorf("host %d: the right store has come back, and is suspect because %s", id, reason)
			}
		}
	})
}

// What one host finds out, and what an operator says of it, all hear, also those that have nothing against the store.
func TestHostsThatFollowHearThatTheStoreIsSuspectAndAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "one")
		f.settled()
		e, err := f.store.Get(t.Context(), "meta")
		f.must(err)
		suspect := strings.TrimSuffix(string(e[0].Value), "}") + `,"suspect":"host 9 says so"}`
		_, err = f.store.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "meta", Value: []byte(suspect)}}})
		f.must(err)
		f.settled()
		for id := range f.servers {
			if f.on(id).Status().StoreSuspect == "" {
				t.Errorf("host %d has not heard that the store is suspect", id)
			}
		}
		f.must(f.call(1, acceptStore))
		f.settled()
		for id := range f.servers {
			if s := f.on(id).Status(); s.StoreSuspect != "" || len(s.Pending) > 0 {
				t.Errorf("host %d, after the store was accepted: suspect because %q, hosts %v are waited for", id, s.StoreSuspect, s.Pending)
			}
		}
		if err := f.call(1, begin("one", 2)); err != nil {
			t.Errorf("begin: %v", err)
		}
	})
}

// What a host remembers of another one that was removed while it was away is no reason to bring that back.
func TestAHostThatWasAwayDoesNotBringARemovedHostBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "one")
		f.settled()
		f.servers[2].kill()
		_, err := f.on(1).Cordon(t.Context(), 3)
		f.must(err)
		f.settled()
		_, err = f.on(3).HandOver(t.Context(), 1)
		f.must(err)
		f.must(f.on(1).Remove(t.Context(), 3))
		f.servers[3].kill()
		f.settled()
		backup := f.memory.copied()
		f.fill(1, "filling-")
		f.settled()
		f.memory.restore(backup, "another", 0)
		f.settled()
		f.must(f.call(1, acceptStore))
		f.settled()
		f.servers[2].start()
		f.settled()
		e, err := f.store.Get(t.Context(), "map/hosts/3")
		f.must(err)
		if e[0].Value != nil {
			t.Errorf("the host that was removed is back: %s", e[0].Value)
		}
		f.servers[1].kill()
		f.servers[1].start()
		f.settled()
		if pending := f.on(1).Status().Pending; len(pending) > 0 {
			t.Errorf("hosts %v are waited for", pending)
		}
	})
}

// A host can be joined before it is set up: it has nothing that it could publish again.
func TestAHostThatWasJoinedAndNeverStartedIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "one")
		f.accepted()
		o, _ := f.add(3).options()
		_, err := hwmap.Join(t.Context(), o, true)
		f.must(err)
		f.servers[1].kill() // or its watch breaks
		f.servers[1].start()
		f.settled()
		if pending := f.on(1).Status().Pending; len(pending) > 0 {
			t.Errorf("hosts %v are waited for", pending)
		}
		f.must(f.call(1, begin("one", 2)))
		f.servers[3].start()
		f.settled()
		f.create(3, "two")
		f.settled()
		if reason := f.on(3).Status().DatabaseSuspect; reason != "" {
			t.Errorf("the database of its first start is suspect: %s", reason)
		}
	})
}
