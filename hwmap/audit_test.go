package hwmap_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/hwmap"
	"ip6d/nat"
)

// audited returns what an audit of a host finds. false: its daemon died meanwhile.
func (f *fleet) audited(host addr.Host, fleetwide bool) ([]audit.Difference, bool) {
	f.t.Helper()
	m, err := f.daemon(host)
	if err != nil {
		return nil, false
	}
	a := audit.NewAuditor(audit.Options{
		Host: host, Sources: []audit.Source{hwmap.Audit{Map: m}}, Logger: slog.New(slog.DiscardHandler),
		Fleet: func(ctx context.Context) ([]audit.Difference, []audit.Unanswered, error) {
			return hwmap.Audit{Map: m}.LookAtFleet(ctx, f.askLocals)
		},
	})
	check := a.Check
	if fleetwide {
		check = a.CheckFleet
	}
	r, err := check(f.t.Context())
	if now, aliveErr := f.daemon(host); aliveErr != nil || now != m {
		return nil, false
	}
	if err != nil || len(r.Errors) > 0 {
		f.t.Errorf("host %d: audit: %v, %v", host, err, r.Errors)
	}
	return r.Differences, true
}

func (f *fleet) askLocals(_ context.Context, h hwmap.Host) ([]hwmap.Local, error) {
	m, err := f.daemon(h.ID)
	if err != nil {
		return nil, err
	}
	var all []hwmap.Local
	for from, more := addr.Machine(0), true; more; { // in small pages
		var page []hwmap.Local
		if page, more = m.Locals(from, 2); len(page) > 0 {
			from = page[len(page)-1].Machine + 1
			all = append(all, page...)
		}
	}
	return all, nil
}

// Machines are made, moved and destroyed without pause while all hosts are audited: nothing is ever wrong.
func TestAnAuditWhileMachinesMoveReportsNothingFalse(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 3)
				var mu sync.Mutex // guards random
				random := rand.New(rand.NewPCG(seed, 1))
				intn := func(n int) int {
					mu.Lock()
					defer mu.Unlock()
					return random.IntN(n)
				}
				f.slow(func() time.Duration { return time.Duration(intn(300)) * time.Millisecond })
				ctx, stop := context.WithCancel(t.Context())
				var callers, auditors sync.WaitGroup
				for range 4 {
					callers.Go(func() {
						for range 40 {
							f.randomCall(func(n int) int {
								if n == 100 {
									return 1 // no reboots
								}
								return intn(n)
							})
						}
					})
				}
				audits := 0
				for host := range f.servers {
					auditors.Go(func() {
						for i := 0; ctx.Err() == nil; i++ {
							found, ok := f.audited(host, i%2 == 0)
							for _, d := range found {
								if d.Severity != audit.Info {
									t.Errorf("host %d reports %s of %s: %s", host, d.Kind, d.Object, d.Text())
								}
							}
							if ok {
								mu.Lock()
								audits++
								mu.Unlock()
							}
							time.Sleep(time.Second)
						}
					})
				}
				callers.Wait()
				stop()
				auditors.Wait()
				if audits < 10 {
					t.Errorf("only %d audits were made", audits)
				}
			})
		})
	}
}

func TestAnAuditOfTheFleetNamesWhatOnlyAllHostsTogetherKnow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web")
		f.migrate("web", 1, 2)
		f.settled()
		kinds := func() map[audit.Kind]int {
			found, _ := f.audited(3, true)
			return audit.Report{Differences: found}.Count()
		}
		if got := kinds(); len(got) != 0 {
			t.Fatalf("it reports %v before anything is wrong", got)
		}
		key := hwmap.Key(fmt.Sprintf("map/machines/%d", v.Machine))
		put := func(value string) {
			t.Helper()
			if _, err := f.store.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: []byte(value)}}}); err != nil {
				t.Fatal(err)
			}
		}
		// Host 3 is said to have it: it does not, and host 2 still has.
		put(fmt.Sprintf(`{"machine":%d,"name":"web","network":7,"host":1,"epoch":5}`, v.Machine))
		if got := kinds(); got[audit.OwnerDoesNotHave] != 1 || len(got) != 1 {
			t.Errorf("of a machine that its owner does not have it reports %v", got)
		}
		f.servers[2].kill()
		r, _ := f.daemon(3)
		_, unanswered, err := hwmap.Audit{Map: r}.LookAtFleet(t.Context(), f.askLocals)
		if err != nil || len(unanswered) != 1 || unanswered[0].Host != 2 || unanswered[0].Why == "" {
			t.Errorf("without host 2: %v, %v", unanswered, err)
		}
	})
}

func TestATraceFollowsAPacketAndMarksWhatDisagrees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(1, "web")
		f.migrate("web", 1, 2)
		f.settled()
		trace := func(host addr.Host) audit.Trace {
			t.Helper()
			got, err := hwmap.Audit{Map: f.on(host)}.Trace(t.Context(), v.Machine, func(h addr.Host) (string, bool, error) {
				return fmt.Sprintf("way %d", h), h != 9, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		equal(t, "from its host", []string{"host 2 (this one): into its port, device 1"}, trace(2).Hops)
		want := []string{"host 3 (this one): it has moved, so to host 2", "host 3 (this one): by way 2", "host 2: delivers it"}
		got := trace(3)
		equal(t, "from another host", want, got.Hops)
		for _, l := range got.Layers {
			if l.Disagrees {
				t.Errorf("%s is said to disagree: %s", l.Layer, l.Says)
			}
		}
		// Somebody deletes host 3's entry: it goes by the home, which relays.
		if err := f.servers[3].kernel.DeleteMoved(v.ID, 9); err != nil {
			t.Fatal(err)
		}
		got = trace(3)
		want = []string{
			"host 3 (this one): at home on host 1", "host 3 (this one): by way 1",
			"host 1: does not have it; it relays to host 2, where the record says that it is", "host 2: delivers it",
		}
		equal(t, "by its home", want, got.Hops)
		var wrong []string
		for _, l := range got.Layers {
			if l.Disagrees {
				wrong = append(wrong, l.Layer)
			}
		}
		equal(t, "what disagrees", []string{"kernel's moved"}, wrong)
		if err := f.servers[3].kernel.PutMoved(nat.Moved{ID: v.ID, Host: 9, Epoch: 9}); err != nil {
			t.Fatal(err)
		}
		want = []string{"host 3 (this one): it has moved, so to host 9", "host 3 (this one): there is no next hop to host 9: would be dropped as unknown_host"}
		equal(t, "to nowhere", want, trace(3).Hops)
	})
}
