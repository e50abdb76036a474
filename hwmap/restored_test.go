package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"ip6d/addr"
	"ip6d/hwmap"
)

// restore brings back what the store was at the time of the backup: with the same id or another one, and with revisions that
// go on from raised, where that is not 0.
func (s *memory) restore(backup *memory, id string, raised hwmap.Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id, s.records = id, maps.Clone(backup.records)
	s.revision = max(backup.revision, raised)
	s.floor, s.history = s.revision, nil
	close(s.grown)
	s.grown = make(chan struct{})
}

func acceptStore(ctx context.Context, m *hwmap.Map) error {
	_, err := m.AcceptStore(ctx)
	return err
}

// newcomer is a host that joins after the store was restored.
const newcomer addr.Host = 5

// forwarding is what the kernels of the other servers do.
func (f *fleet) forwarding() map[string]any {
	all := make(map[string]any)
	for id, s := range f.servers {
		if id == newcomer {
			continue
		}
		_, machines, moved, blocks := s.kernel.content()
		all[fmt.Sprint(id, " machines")], all[fmt.Sprint(id, " moved")], all[fmt.Sprint(id, " blocks")] = machines, moved, blocks
	}
	return all
}

// fill creates machines until the host issues from another block.
func (f *fleet) fill(on addr.Host, prefix string) {
	f.t.Helper()
	first := addr.Block(0)
	for i := range 3 * addr.BlockSize {
		v, err := f.on(on).Create(f.t.Context(), fmt.Sprintf("%s%d", prefix, i), 7)
		f.must(err)
		synctest.Wait()
		if b := v.ID.Machine.Block(); i == 0 {
			first = b
		} else if b != first {
			return
		}
	}
	f.t.Fatalf("host %d leased no further block", on)
}

var restores = []struct {
	name, says string
	restore    func(s *memory, backup *memory)
}{
	{"in place", "revision", func(s, backup *memory) { s.restore(backup, s.id, 0) }},
	{"as another cluster", "its records are of store", func(s, backup *memory) { s.restore(backup, "another", 0) }},
	{"in place, with raised revisions", "", func(s, backup *memory) { s.restore(backup, s.id, s.revision+1000) }},
	{"as another cluster, with raised revisions", "its records are of store", func(s, backup *memory) { s.restore(backup, "another", s.revision+1000) }},
	{"lost, and set up anew", "no records of a fleet", func(s, _ *memory) { s.restore(newMemory(), "another", 0) }},
}

func TestARestoredStoreIsSuspectUntilItIsAccepted(t *testing.T) {
	for _, c := range restores {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				f.create(1, "moved")
				f.create(1, "home")
				f.settled()
				backup := f.memory.copied()
				f.migrate("moved", 1, 2)
				f.add(4).start() // it is in no backup, nor are the blocks that it and host 3 lease
				f.create(4, "four")
				f.fill(3, "three-")
				f.settled()
				before := f.forwarding()

				c.restore(f.memory, backup)
				f.settled()
				for id := range f.servers {
					if reason := f.on(id).Status().StoreSuspect; reason == "" || !strings.Contains(reason, c.says) {
						t.Errorf("on host %d the store is suspect because %q; want a reason that says %q", id, reason, c.says)
					}
					if err := f.call(id, create("new")); !errors.Is(err, hwmap.ErrSuspect) || !strings.Contains(err.Error(), "ip6d store accept") {
						t.Errorf("create on host %d: error %v, want ErrSuspect and a remedy", id, err)
					}
				}
				if err := f.call(1, begin("home", 2)); !errors.Is(err, hwmap.ErrSuspect) {
					t.Errorf("begin: %v", err)
				}
				f.servers[2].kill()
				f.servers[2].start()
				f.settled()
				equal(t, "what the kernels forward", before, f.forwarding())
				f.add(newcomer)
				if c.says != "no records of a fleet" { // who has never seen it cannot know
					if err := f.servers[newcomer].open(); !errors.Is(err, hwmap.ErrSuspect) {
						t.Errorf("a host's first start: %v", err)
					}
				}

				f.must(f.call(2, acceptStore))
				f.settled()
				if err := f.call(3, acceptStore); !errors.Is(err, hwmap.ErrState) {
					t.Errorf("accepted again: %v", err)
				}
				equal(t, "what the kernels forward once it is accepted", before, f.forwarding())
				f.servers[newcomer].start()
				f.create(newcomer, "five")
				f.migrate("home", 1, 3)
				f.fill(1, "one-")
				for _, id := range []addr.Host{1, 2, 3, 4, 5} {
					if s := f.on(id).Status(); s.StoreSuspect != "" || len(s.Pending) != 0 {
						t.Errorf("host %d: the store is suspect because %q, hosts %v are waited for", id, s.StoreSuspect, s.Pending)
					}
				}
				want := map[string]addr.Host{"moved": 2, "home": 3, "four": 4, "five": 5}
				for id, s := range f.servers {
					for _, l := range s.locals() {
						if strings.Contains(l.Name, "-") {
							want[l.Name] = id
						}
					}
				}
				f.check(want)
			})
		})
	}
}

// What a host leased since the backup, only that host may know.
func TestNobodyLeasesABlockBeforeEveryHostHasPublishedItsOwnAgain(t *testing.T) {
	for _, ending := range []string{"it comes back", "it is declared dead"} {
		t.Run(ending, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				f.settled()
				backup := f.memory.copied()
				f.add(3).start()
				lost := f.create(3, "three").ID.Machine.Block()
				f.settled()
				f.servers[3].kill()
				f.memory.restore(backup, f.memory.id, 0)
				f.settled()
				f.must(f.call(1, acceptStore))
				f.settled()
				f.add(4).start()
				f.settled()
				if pending := f.on(4).Status().Pending; fmt.Sprint(pending) != "[3]" {
					t.Errorf("hosts %v are waited for", pending)
				}
				if err := f.call(4, create("four")); !errors.Is(err, addr.ErrExhausted) {
					t.Errorf("a create without a block: %v", err)
				}
				f.create(1, "one") // from a block that it had
				if err := f.call(1, begin("one", 2)); !errors.Is(err, hwmap.ErrSuspect) || !strings.Contains(err.Error(), "[3]") {
					t.Errorf("begin: %v", err)
				}
				want := map[string]addr.Host{"one": 1, "four": 4}
				if ending == "it comes back" {
					f.servers[3].start()
					want["three"] = 3
				} else {
					f.declareDead(3)
				}
				f.settled()
				if b := f.create(4, "four").ID.Machine.Block(); b == lost {
					t.Errorf("host 4 leased block %d, which host 3 has", b)
				}
				if ending == "it comes back" {
					f.check(want)
				}
			})
		})
	}
}

// declareDead writes an operator's word.
func (f *fleet) declareDead(id addr.Host) {
	f.t.Helper()
	key := hwmap.Key(fmt.Sprintf("map/hosts/%d", id))
	e, err := f.store.Get(f.t.Context(), key)
	f.must(err)
	dead := strings.Replace(string(e[0].Value), `"state":"joined"`, `"state":"dead"`, 1)
	_, err = f.store.Commit(f.t.Context(), hwmap.Txn{
		If: []hwmap.Condition{{Key: key, ModRevision: e[0].ModRevision}}, Then: []hwmap.Write{{Key: key, Value: []byte(dead)}},
	})
	f.must(err)
}

// The source does not know how its switchover ended, and the store has forgotten it.
func TestASwitchoverThatTheStoreForgotIsNotTakenForAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.attach(2, "web1")
		f.settled()
		backup := f.memory.copied()
		f.inject(func(host addr.Host, what string) fault {
			if host == 1 && what == "write fleet" {
				f.mu.Unlock()
				f.cutOff(1)
				f.mu.Lock()
				return lost
			}
			return none
		})
		outcome := f.call(1, switchover("web1"))
		if !errors.Is(outcome, errNotCommitted) {
			t.Fatalf("the switchover: %v", outcome)
		}
		f.settled()
		if v, err := f.on(2).Machine("web1"); err != nil || v.State != hwmap.Here {
			t.Fatalf("on host 2 it is %+v, %v", v, err)
		}
		f.memory.restore(backup, f.memory.id, 0)
		f.settled()
		f.must(f.call(3, acceptStore))
		f.inject(nil)
		f.settled()
		f.must(f.call(1, finish("web1")))
		f.check(map[string]addr.Host{"web1": 2})
	})
}

// Quorum was lost and came back, a member was replaced: what was acknowledged is there.
func TestAStoreThatOnlyWasAwayIsNotSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "a")
		f.settled()
		f.cutOff(1, 2)
		f.settled()
		f.create(1, "b")
		f.servers[2].kill()
		f.memory.compact()
		f.inject(nil)
		f.servers[2].start()
		f.settled()
		for id := range f.servers {
			if reason := f.on(id).Status().StoreSuspect; reason != "" {
				t.Errorf("on host %d the store is suspect because %q", id, reason)
			}
		}
		f.check(map[string]addr.Host{"a": 1, "b": 1})
	})
}

// What the store says while it is suspect must not stop a host either, nor what it does not say.
func TestAHostThatStartsWhileTheStoreIsSuspectGoesOnCarrying(t *testing.T) {
	for _, c := range restores {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				f.create(1, "one")
				f.settled()
				backup := f.memory.copied()
				f.add(3).start() // it is in no backup
				f.create(3, "three")
				f.settled()
				c.restore(f.memory, backup)
				f.settled()
				for id := range f.servers {
					f.servers[id].kill()
					f.servers[id].start()
				}
				f.settled()
				for id := range f.servers {
					if f.servers[id].kernel.closed() {
						t.Errorf("host %d carries nothing, on the word of a suspect store", id)
					}
				}
			})
		})
	}
}
