package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"ip6d/hwmap"
)

var models = []claim{
	{"RandomTransactionsMatchTheModel", func(s *store) {
		seed := rand.Uint64()
		s.t.Logf("seed %d (the writers' choices repeat with it, their interleaving does not)", seed)
		check := modelCheck{store: s, seed: seed}
		check.run()
	}},
}

// model is the naive Store: a map, and transactions one after the other.
type model map[hwmap.Key]hwmap.Entry

// apply makes the writes of c and returns what a watch delivers for it. The error says that c must not have been committed.
func (m model) apply(c committed) (hwmap.Batch, error) {
	for _, cond := range c.If {
		if now := m[cond.Key].ModRevision; now != cond.ModRevision {
			return hwmap.Batch{}, fmt.Errorf("revision %d was committed although %q was of revision %d, not %d", c.revision, cond.Key, now, cond.ModRevision)
		}
	}
	b := hwmap.Batch{Revision: c.revision}
	for _, w := range c.Then {
		e := hwmap.Entry{Key: w.Key, Value: w.Value, ModRevision: c.revision}
		if w.Value != nil {
			m[w.Key] = e
		} else if _, there := m[w.Key]; there {
			delete(m, w.Key)
		} else {
			continue // deleting what is not there changes nothing
		}
		b.Entries = append(b.Entries, e)
	}
	return b, nil
}

func (m model) entries() []hwmap.Entry {
	return slices.SortedFunc(maps.Values(m), func(a, b hwmap.Entry) int { return cmp.Compare(a.Key, b.Key) })
}

// committed is a transaction that a writer committed.
type committed struct {
	hwmap.Txn
	revision hwmap.Revision
}

// modelCheck lets writers commit random transactions to the same few keys at once, while watchers come and go on. Put in
// the order of their revisions, the transactions must make sense one by one, and be what every watcher saw.
type modelCheck struct {
	*store
	seed uint64

	mu  sync.Mutex // guards log
	log []committed
}

func (c *modelCheck) run() {
	const (
		writers, each = 4, 60
		watchers      = 6
	)
	var writing sync.WaitGroup
	for w := range writers {
		writing.Add(1)
		c.store.run(func(ctx context.Context) {
			defer writing.Done()
			if err := c.write(ctx, rand.New(rand.NewPCG(c.seed, uint64(w))), each); err != nil {
				c.t.Error(err)
			}
		})
	}
	type joined struct {
		listed []hwmap.Entry
		after  hwmap.Revision
		*watcher
	}
	var views []joined
	for i := range watchers {
		c.wait("transactions of the writers", func() bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.t.Failed() || len(c.log) >= i*writers*each/watchers
		})
		entries, r := c.list("k/")
		views = append(views, joined{entries, r, c.watch("k/", r)})
	}
	writing.Wait()
	if c.t.Failed() {
		return
	}

	slices.SortFunc(c.log, func(a, b committed) int { return cmp.Compare(a.revision, b.revision) })
	m := model{}
	states := [][]hwmap.Entry{nil} // before each transaction, and after the last
	var batches []hwmap.Batch
	for i, t := range c.log {
		if i > 0 && t.revision == c.log[i-1].revision {
			c.t.Fatalf("two transactions have revision %d", t.revision)
		}
		b, err := m.apply(t)
		if err != nil {
			c.t.Fatal(err)
		}
		batches, states = append(batches, b), append(states, m.entries())
	}
	entries, _ := c.list("k/")
	c.wantEntries(entries, m.entries()...)
	for _, v := range views {
		i := slices.IndexFunc(batches, func(b hwmap.Batch) bool { return b.Revision > v.after })
		if i < 0 {
			i = len(batches)
		}
		c.wantEntries(v.listed, states[i]...)
		v.want(batches[i:]...)
	}
}

// write commits n random transactions.
func (c *modelCheck) write(ctx context.Context, random *rand.Rand, n int) error {
	for n > 0 {
		t, err := c.random(ctx, random)
		if err != nil {
			return err
		}
		r, err := c.Commit(ctx, t)
		if errors.Is(err, hwmap.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		n--
		c.mu.Lock()
		c.log = append(c.log, committed{t, r})
		c.mu.Unlock()
	}
	return nil
}

// random makes a transaction that changes something: up to three conditions, most of them true when they were read, and
// up to four writes.
func (c *modelCheck) random(ctx context.Context, random *rand.Rand) (hwmap.Txn, error) {
	var keys []hwmap.Key
	for _, n := range random.Perm(10) {
		keys = append(keys, hwmap.Key(fmt.Sprintf("k/%d", n)))
	}
	read, err := c.Get(ctx, keys[:random.IntN(4)]...)
	if err != nil {
		return hwmap.Txn{}, err
	}
	var t hwmap.Txn
	for _, e := range read {
		if random.IntN(10) == 0 {
			e.ModRevision = max(0, e.ModRevision-1)
		}
		t.If = append(t.If, hwmap.Condition{Key: e.Key, ModRevision: e.ModRevision})
	}
	random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	for i, k := range keys[:1+random.IntN(4)] {
		w := hwmap.Write{Key: k}
		if i == 0 || random.IntN(3) > 0 {
			w.Value = fmt.Append([]byte{}, random.IntN(1000))
		}
		t.Then = append(t.Then, w)
	}
	return t, nil
}
