package hwmap_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// write changes the fleet's store by hand, past every host.
func (f *fleet) write(key hwmap.Key, record any) {
	f.t.Helper()
	var value []byte
	if record != nil {
		var err error
		value, err = json.Marshal(record)
		f.must(err)
	}
	_, err := f.store.Commit(f.t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: value}}})
	f.must(err)
}

// cutOff makes the store unreachable for some hosts.
func (f *fleet) cutOff(hosts ...addr.Host) {
	cut := make(map[addr.Host]bool)
	for _, h := range hosts {
		cut[h] = true
	}
	f.inject(func(host addr.Host, what string) fault {
		if cut[host] && (what == "write fleet" || what == "read fleet") {
			return fails
		}
		return none
	})
}

func TestDeletionsMissedAcrossACompactionAreFoundByListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.create(1, "web2")
		f.migrate("web1", 1, 2)
		f.check(map[string]addr.Host{"web1": 2, "web2": 1})
		// Host 3 sees nothing of all this, and then cannot go on from where it was.
		f.servers[3].kill()
		f.migrate("web2", 1, 2)
		f.must(f.call(2, destroy("web1")))
		time.Sleep(2 * time.Hour) // its record is deleted
		f.memory.compact()
		f.servers[3].start()
		f.check(map[string]addr.Host{"web2": 2})
	})
}

func TestACompactedWatchListsAnewAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		// While a host is busy with one batch, the next ones are compacted away.
		f.slow(func() time.Duration { return 100 * time.Millisecond })
		for _, move := range [][2]addr.Host{{1, 2}, {2, 3}} {
			f.migrate("web1", move[0], move[1])
			f.memory.compact()
		}
		f.slow(nil)
		f.check(map[string]addr.Host{"web1": 3})
	})
}

// compacting is a store of which no revision can be watched that was listed.
type compacting struct {
	hwmap.Store
	broken  *atomic.Bool
	watches *atomic.Int64
}

func (s compacting) Watch(ctx context.Context, prefix hwmap.Key, after hwmap.Revision, f func(hwmap.Batch) error) error {
	if prefix != "map/" || !s.broken.Load() {
		return s.Store.Watch(ctx, prefix, after, f)
	}
	if s.watches.Add(1) > 1000 { // the time of a synctest bubble never comes to an end otherwise
		<-ctx.Done()
	}
	return fmt.Errorf("%w: watch after %d", hwmap.ErrCompacted, after)
}

func TestAStoreThatCompactsFasterThanAHostListsIsNotListedWithoutAPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		var watches atomic.Int64
		f := newFleetOn(t, compacting{newMemory(), &broken, &watches}, 1)
		f.create(1, "web1")
		f.settled()
		f.servers[1].kill()
		broken.Store(true)
		f.servers[1].start()
		before := watches.Load()
		time.Sleep(time.Minute)
		if n := watches.Load() - before; n < 5 || n > 15 {
			t.Errorf("listed %d times in a minute", n)
		}
		broken.Store(false)
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestStrayKernelEntriesGoOnlyAfterAListing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.settled()
		f.servers[2].kill()
		k := f.servers[2].kernel
		stray := addr.ID{Cell: cell, Machine: 77}
		f.must(k.PutMoved(nat.Moved{ID: stray, Host: 1, Epoch: 9}))
		f.must(k.PutMoved(nat.Moved{ID: addr.ID{Cell: 9, Machine: 1}, Host: 1, Epoch: 9}))
		f.must(k.PutBlock(nat.Block{Cell: cell, Block: 500, Home: 1}))
		f.must(k.PutMachine(nat.Machine{ID: stray, Network: 7, Epoch: 9, State: nat.Away, Host: 1}))
		f.cutOff(2)
		f.servers[2].start()
		f.settled()
		if moved, _ := k.MovedEntries(); len(moved) != 2 {
			t.Errorf("without a listing, moved entries were deleted: %v are left", moved)
		}
		if blocks, _ := k.Blocks(); len(blocks) != 3 {
			t.Errorf("without a listing, blocks were deleted: %v are left", blocks)
		}
		if _, there, _ := k.Machine(stray); there {
			t.Error("the truth has no such machine, and needs no listing to say so")
		}
		f.inject(nil)
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestARebootWithoutTheStoreRestoresForwardingAndCreatesGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.create(3, "web3")
		f.migrate("web1", 1, 2)
		f.settled()
		f.cutOff(3)
		f.servers[3].reboot()
		f.servers[3].start()
		f.attach(3, "web3") // the orchestrator starts its machines again
		f.create(3, "web4")
		f.settled()
		k := f.servers[3].kernel
		if moved, _ := k.MovedEntries(); len(moved) != 1 || moved[0].Host != 2 {
			t.Errorf("moved entries: %v", moved)
		}
		if blocks, _ := k.Blocks(); len(blocks) != 3 {
			t.Errorf("blocks: %v", blocks)
		}
		if s := f.on(3).Status(); s.Following || s.StoreErr == nil {
			t.Errorf("status does not tell: %+v", s)
		}
		if err := f.call(3, begin("web3", 1)); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("a move: %v", err)
		}
		f.inject(nil)
		f.check(map[string]addr.Host{"web1": 2, "web3": 3, "web4": 3})
		if s := f.on(3).Status(); !s.Following || s.StoreErr != nil {
			t.Errorf("status afterwards: %+v", s)
		}
	})
}

func TestABadRecordStopsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		for _, key := range []hwmap.Key{"map/machines/5", "map/machines/007", "map/machines/x", "map/blocks/9", "map/future/1"} {
			_, err := f.store.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: []byte("{")}}})
			f.must(err)
		}
		f.migrate("web1", 1, 2)
		f.settled()
		if s := f.on(1).Status(); !s.Following {
			t.Errorf("host 1 has stopped following: %v", s.StoreErr)
		}
		if moved, _ := f.servers[1].kernel.MovedEntries(); len(moved) != 1 {
			t.Errorf("moved entries: %v", moved)
		}
		for _, key := range []hwmap.Key{"map/machines/5", "map/machines/007", "map/machines/x", "map/blocks/9", "map/future/1"} {
			f.write(key, nil)
		}
		f.settled()
		f.servers[2].kill()
		f.servers[2].start()
	})
}

// The lower epoch loses, also against a store that was restored from a backup.
func TestARecordOfALowerEpochDoesNotUndoAMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.settled()
		backup := f.view().machines[v.ID.Machine]
		f.migrate("web1", 2, 3)
		f.settled()
		f.write("map/machines/1", backup)
		synctest.Wait()
		if moved, _ := f.servers[1].kernel.MovedEntries(); len(moved) != 1 || moved[0].Host != 3 {
			t.Errorf("host 1 sends to %v", moved)
		}
		f.check(map[string]addr.Host{"web1": 3}) // the owner published it again
	})
}

func TestAMissingRecordFreesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.create(1, "web2")
		f.migrate("web1", 1, 2)
		f.settled()
		for _, e := range f.view().entries {
			if e.Key != "map/hosts/3" {
				f.write(e.Key, nil)
			}
		}
		f.settled()
		v, err := f.on(3).Create(t.Context(), "web3", 7)
		if err != nil || v.ID.Machine/addr.BlockSize == 0 {
			t.Errorf("created %v, %v", v.ID, err)
		}
		for _, s := range f.servers { // and every host lists anew
			s.kill()
			s.start()
		}
		f.check(map[string]addr.Host{"web1": 2, "web2": 1, "web3": 3})
	})
}
