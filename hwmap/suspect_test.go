package hwmap_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// copied is a copy of what a memory holds, as of a file that was copied while nobody wrote it.
func (s *memory) copied() *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newMemory()
	c.revision, c.floor, c.records = s.revision, s.revision, maps.Clone(s.records)
	return c
}

// forget makes the store say nothing about the truth of host 1, and the host not remember that it told it.
func (f *fleet) forget() {
	f.t.Helper()
	f.erase("witness/1")
	e, err := f.servers[1].cache.Get(f.t.Context(), "store")
	f.must(err)
	if e[0].Value == nil {
		return
	}
	var known hwmap.KnownStore
	f.must(json.Unmarshal(e[0].Value, &known))
	known.Told = hwmap.Mark{}
	value, err := json.Marshal(known)
	f.must(err)
	_, err = f.servers[1].cache.Commit(f.t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "store", Value: value}}})
	f.must(err)
}

// erase deletes a record behind the backs of all.
func (f *fleet) erase(key hwmap.Key) {
	f.t.Helper()
	_, err := f.store.Commit(f.t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: key}}})
	f.must(err)
}

// suspect returns why the host's database is not believed.
func (f *fleet) suspect(id addr.Host) string {
	f.t.Helper()
	return f.on(id).Status().DatabaseSuspect
}

func accept(ctx context.Context, m *hwmap.Map) error {
	_, err := m.AcceptDatabase(ctx)
	return err
}

func create(name string) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.Create(ctx, name, 7)
		return err
	}
}

// witnesses are what may betray a file that was restored, and how each is made to say nothing.
var witnesses = []struct {
	name   string
	silent func(f *fleet, s *server, before hwmap.Mark)
}{
	{"file", func(_ *fleet, s *server, before hwmap.Mark) { _ = s.witness.Raise(before) }}, // it was restored, too
	{"kernel", func(_ *fleet, s *server, _ hwmap.Mark) { _ = s.kernel.PutWitness(nat.Witness{}) }},
	{"store", func(f *fleet, _ *server, _ hwmap.Mark) { f.forget() }},
}

func TestEachWitnessAloneBetraysARestoredDatabase(t *testing.T) {
	for _, witness := range witnesses {
		t.Run(witness.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				known := f.create(1, "known")
				f.settled()
				s := f.servers[1]
				backup := s.truth.(*memory).copied()
				mark, _ := s.witness.Read()
				later := f.create(1, "later")
				f.settled()
				s.kill()
				s.truth = backup.copied()
				for _, other := range witnesses {
					if other.name != witness.name {
						other.silent(f, s, mark)
					}
				}
				s.start()

				says := map[string]string{"file": "the file beside it", "kernel": "the kernel's maps", "store": "the fleet's store"}
				if reason := f.suspect(1); !strings.Contains(reason, says[witness.name]) {
					t.Fatalf("it is suspect because %q; want a reason that says %q", reason, says[witness.name])
				}
				for what, call := range map[string]func(context.Context, *hwmap.Map) error{
					"create": create("new"), "begin": begin("known", 2), "destroy": destroy("known"), "attach": attach("known"),
				} {
					if err := f.call(1, call); !errors.Is(err, hwmap.ErrSuspect) || !strings.Contains(err.Error(), "ip6d db accept") {
						t.Errorf("%s: error %v, want ErrSuspect and a remedy", what, err)
					}
				}
				if v, err := f.on(1).Machine("known"); err != nil || v.Stable != known.Stable {
					t.Errorf("a read answers %+v, %v", v, err)
				}
				for _, v := range []hwmap.MachineView{known, later} {
					if e, ok, _ := s.kernel.Machine(v.ID); !ok || e.State != nat.Delivering || e.Port.Ifindex == 0 {
						t.Errorf("machine %s is not delivered any more: %+v", v.Name, e)
					}
				}
				// Its commits go on counting, past what the witnesses saw.
				for range 20 {
					_, err := s.truth.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "x", Value: []byte("x")}}})
					f.must(err)
				}
				s.kill()
				s.start()
				if f.suspect(1) == "" {
					t.Error("it is believed after a restart")
				}

				f.must(f.call(1, accept))
				f.settled()
				fresh := f.create(1, "new")
				if block := fresh.ID.Machine.Block(); block == known.ID.Machine.Block() {
					t.Errorf("block %d is issued from again", block)
				}
				if err := f.call(1, accept); !errors.Is(err, hwmap.ErrState) {
					t.Errorf("accepted again: %v", err)
				}
				s.kill()
				s.start()
				f.settled()
				if reason := f.suspect(1); reason != "" {
					t.Errorf("after it was accepted, it is suspect because %q", reason)
				}
				// The kernel had it, and nobody knows its name any more.
				if _, ok, _ := s.kernel.Machine(later.ID); ok {
					t.Error("the machine that the database does not know has an entry")
				}
				// Any other copy is of another database now.
				s.kill()
				s.truth = backup.copied()
				s.start()
				if f.suspect(1) == "" {
					t.Error("the same copy again is believed")
				}
			})
		})
	}
}

func TestAnOlderWitnessSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "a")
		s := f.servers[1]
		before, _ := s.witness.Read()
		f.create(1, "b")
		s.kill()
		f.must(s.witness.Raise(before)) // a power loss took the last write
		s.kernel.reboot()
		f.forget()
		s.start()
		f.create(1, "c")
		f.check(map[string]addr.Host{"a": 1, "b": 1, "c": 1})
	})
}

// A commit whose outcome is unknown may not be in the file that the next daemon opens.
func TestACommitInDoubtIsNotWitnessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "a")
		s := f.servers[1]
		before, _ := s.witness.Read()
		f.inject(func(_ addr.Host, what string) fault {
			if what == "write truth" {
				return lost
			}
			return none
		})
		if err := f.call(1, create("b")); !errors.Is(err, hwmap.ErrInDoubt) {
			t.Errorf("create: %v", err)
		}
		if after, _ := s.witness.Read(); after != before {
			t.Errorf("the witness was told of %+v, after %+v", after, before)
		}
		f.inject(nil)
		s.kill()
		s.start()
		f.create(1, "c")
		if reason := f.suspect(1); reason != "" {
			t.Errorf("it is suspect because %q", reason)
		}
	})
}

func TestALostDatabaseIsSuspect(t *testing.T) {
	for _, c := range []struct {
		name, says string
		lose       func(f *fleet, s *server)
	}{
		{"the kernel has its machines", "the kernel's maps", func(*fleet, *server) {}},
		{"the store remembers it", "by the fleet's store there was one", func(_ *fleet, s *server) { s.kernel.reboot() }},
		{"the store has a lease of it", "leased block 0", func(f *fleet, s *server) {
			s.kernel.reboot()
			f.forget()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				v := f.create(1, "a")
				f.settled()
				s := f.servers[1]
				s.kill()
				s.truth, s.cache, s.witness = newMemory(), newMemory(), &sideFile{}
				c.lose(f, s)
				s.start()
				if reason := f.suspect(1); !strings.Contains(reason, c.says) {
					t.Fatalf("it is suspect because %q, want one that says %q", reason, c.says)
				}
				if err := f.call(1, create("b")); !errors.Is(err, hwmap.ErrSuspect) {
					t.Errorf("create: %v", err)
				}
				f.must(f.call(1, accept))
				f.settled()
				if b := f.create(1, "b"); b.Stable == v.Stable || b.ID.Machine.Block() == 0 {
					t.Errorf("b has %s of block %d, a had %s", b.Stable, b.ID.Machine.Block(), v.Stable)
				}
			})
		})
	}
}

func TestADatabaseWithoutItsWitnessFileIsSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "a")
		s := f.servers[1]
		s.reboot()
		s.witness = &sideFile{} // as where the file alone was brought back, on another disk
		f.forget()
		s.start()
		if reason := f.suspect(1); !strings.Contains(reason, "witness file") {
			t.Errorf("it is suspect because %q", reason)
		}
	})
}

// A machine that went to another host since the copy is there, whatever the copy says.
func TestARestoredDatabaseTakesNoMachineBack(t *testing.T) {
	for _, cache := range []string{"kept", "restored too"} {
		t.Run(cache, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2)
				away, back := f.create(1, "away"), f.create(1, "back")
				f.settled()
				s := f.servers[1]
				truth, oldCache := s.truth.(*memory).copied(), s.cache.(*memory).copied()
				f.migrate("away", 1, 2)
				f.migrate("back", 1, 2)
				f.migrate("back", 2, 1)
				f.settled()
				s.reboot()
				if s.truth = truth; cache != "kept" {
					s.cache = oldCache
				}
				s.start()
				f.settled()
				if f.suspect(1) == "" {
					t.Fatal("it is not suspect")
				}
				if e, ok, _ := s.kernel.Machine(away.ID); ok {
					t.Errorf("host 1 has the entry %+v of a machine that is on host 2", e)
				}
				f.must(f.call(1, accept))
				f.settled()
				if v, err := f.on(1).Machine("back"); err != nil || v.State != hwmap.Here || v.Epoch != 3 {
					t.Errorf("the machine that came back is %+v, %v", v, err)
				}
				f.attach(1, "back")
				s.kill()
				s.start()
				f.settled()
				if e, ok, _ := s.kernel.Machine(back.ID); !ok || e.Epoch != 3 || e.State != nat.Delivering {
					t.Errorf("its entry is %+v", e)
				}
				f.check(map[string]addr.Host{"away": 2, "back": 1})
			})
		})
	}
}

// The store knows what every daemon did with its database last: one that runs with a copy finds out.
func TestACopyInUseElsewhereIsSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "a")
		f.settled()
		e, err := f.store.Get(t.Context(), "witness/1")
		f.must(err)
		ahead := strings.Replace(string(e[0].Value), `"count":`, `"count":9`, 1)
		_, err = f.store.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "witness/1", Value: []byte(ahead)}}})
		f.must(err)
		f.must(f.call(1, create("b")))
		f.settled()
		if reason := f.suspect(1); !strings.Contains(reason, "the fleet's store") {
			t.Errorf("it is suspect because %q", reason)
		}
	})
}

func TestAStandaloneHostIssuesNothingTwiceAfterAnOldCopyWasAccepted(t *testing.T) {
	for _, c := range []struct {
		name   string
		silent func(*server)
	}{
		{"the witnesses saw the leases", func(*server) {}},
		{"no witness is left", func(s *server) {
			s.kernel.reboot()
			s.devices.reboot()
			s.witness = &sideFile{}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fleet{t: t, servers: make(map[addr.Host]*server), delivering: make(map[addr.ID]map[addr.Host]uint64)}
				s := f.add(1)
				f.store = s.truth
				f.standalone = true
				t.Cleanup(func() { s.stop() })
				s.start()
				issued := map[addr.Machine]string{}
				fill := func(prefix string, n int) {
					for i := range n {
						name := fmt.Sprintf("%s%d", prefix, i)
						v, err := f.on(1).Create(t.Context(), name, 7)
						f.must(err)
						if other, twice := issued[v.ID.Machine]; twice {
							t.Fatalf("%s and %s have the number %d", name, other, v.ID.Machine)
						}
						issued[v.ID.Machine] = name
						synctest.Wait() // for the next block
					}
				}
				fill("a", 10)
				backup := s.truth.(*memory).copied()
				fill("b", 800)
				s.kill()
				s.truth, f.store = backup, backup
				c.silent(s)
				s.start()
				if f.suspect(1) == "" {
					t.Fatal("it is not suspect")
				}
				f.must(f.call(1, accept))
				synctest.Wait()
				fill("c", 600)
				s.kill()
				s.start()
				fill("d", 300)
				if reason := f.suspect(1); reason != "" {
					t.Errorf("it is suspect because %q", reason)
				}
			})
		})
	}
}
