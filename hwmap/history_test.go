package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// history is what a host says of a machine: kinds of events, in order.
func (f *fleet) history(host addr.Host, name string) string {
	f.t.Helper()
	events, err := f.on(host).History(f.t.Context(), name)
	f.must(err)
	var kinds []string
	for _, e := range events {
		kinds = append(kinds, string(e.Kind))
	}
	return strings.Join(kinds, " ")
}

// events are all events that a host has kept without a gap.
func (f *fleet) events(host addr.Host) (events []hwmap.Event) {
	f.t.Helper()
	f.must(f.on(host).WatchEvents(f.t.Context(), hwmap.EventsOptions{}, func(e *hwmap.Event, _ string) error {
		if e != nil {
			events = append(events, *e)
		}
		return nil
	}))
	return events
}

// checkHistory holds what the history says last of each machine against the truth.
func (s *server) checkHistory() {
	s.fleet.t.Helper()
	last := make(map[addr.Machine]hwmap.Event)
	for _, e := range s.fleet.events(s.id) {
		if e.Kind != hwmap.EventHost {
			last[e.Machine] = e
		}
	}
	for _, l := range s.locals() {
		if e := last[l.Machine]; e.To != l.State && !(slices.Contains(nameless, e.To) && slices.Contains(nameless, l.State)) {
			s.fleet.t.Errorf("host %d: machine %d is %s, but its last event is %+v", s.id, l.Machine, l.State, e)
		}
		delete(last, l.Machine)
	}
	for _, e := range last {
		if !slices.Contains(nameless, e.To) {
			s.fleet.t.Errorf("host %d: the truth has nothing of a machine whose last event is %+v", s.id, e)
		}
	}
}

func TestTheHistoryTellsEveryTransition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.must(f.call(2, begin("web1", 1)))
		f.must(f.call(1, abort("web1")))
		f.settled()
		f.destroy(2, "web1")
		f.settled()
		time.Sleep(time.Hour)
		synctest.Wait()
		for host, want := range map[addr.Host]string{
			1: "created attached leaving switching away finished incoming withdrawn quarantined",
			2: "incoming attached arrived leaving aborted destroying destroyed",
		} {
			if got := f.history(host, "web1"); got != want {
				t.Errorf("host %d says %q\nwant %q", host, got, want)
			}
			f.servers[host].checkHistory()
		}
		events, err := f.on(1).History(t.Context(), "web1")
		f.must(err)
		away := events[4]
		want := hwmap.Event{
			Seq: away.Seq, Time: away.Time, Kind: hwmap.EventAway, Machine: away.Machine, Name: "web1", Network: 7, Epoch: 1,
			From: hwmap.Switching, To: hwmap.Away, Peer: 2,
		}
		equal(t, "the event of the move", want, away)
		if all := f.events(1); all[len(all)-1].Kind != hwmap.EventFreed {
			t.Errorf("the last event of the home is %+v", all[len(all)-1])
		}
		if _, err := f.on(1).History(t.Context(), "nobody"); !errors.Is(err, hwmap.ErrUnknownMachine) {
			t.Errorf("history of a machine that never was: error %v", err)
		}
	})
}

func TestTheHistoryTellsWhatBecomesOfHostsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.add(3).start()
		synctest.Wait()
		for _, state := range []hwmap.HostState{hwmap.Cordoned, hwmap.Joined, hwmap.Dead, ""} {
			f.setState(2, state)
			synctest.Wait()
		}
		f.servers[1].kill()
		f.servers[1].start()
		f.settled()
		var got []string
		for _, e := range f.events(1) {
			if e.Kind == hwmap.EventHost {
				got = append(got, fmt.Sprintf("%d %s", e.Host, e.HostState))
			}
		}
		want := []string{"1 joined", "2 joined", "3 joined", "2 cordoned", "2 joined", "2 dead", "2 removed"}
		equal(t, "events of hosts", want, got[:min(len(got), len(want))])
	})
}

// setState writes a host's state into the store; an empty one removes the record.
func (f *fleet) setState(host addr.Host, state hwmap.HostState) {
	f.t.Helper()
	key := hwmap.Key(fmt.Sprintf("map/hosts/%d", host))
	e, err := f.store.Get(f.t.Context(), key)
	f.must(err)
	w := hwmap.Write{Key: key}
	if state != "" {
		h := record[hwmap.Host](f.t, e[0])
		h.State = state
		w.Value = encoded(f.t, h)
	}
	_, err = f.store.Commit(f.t.Context(), hwmap.Txn{Then: []hwmap.Write{w}})
	f.must(err)
}

// spin attaches and detaches a machine n times, which is two events each.
func (f *fleet) spin(host addr.Host, name string, n int) {
	f.t.Helper()
	m := f.on(host)
	for range n {
		_, err := m.Detach(f.t.Context(), name)
		f.must(err)
		f.must(attach(name)(f.t.Context(), m))
	}
}

func TestTheHistoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "quiet")
		f.create(1, "busy")
		f.spin(1, "busy", 40)
		f.settled()
		if n := len(f.events(1)); n != 1+2+2+80 { // the host, two machines
			t.Errorf("%d events are kept of the latest; none of them is to be pruned", n)
		}
		if n := len(strings.Fields(f.history(1, "busy"))); n != 32 {
			t.Errorf("the history of a machine has %d events", n)
		}
		early := f.token(1)
		f.spin(1, "busy", 2100)
		f.settled()
		stored, _, err := f.servers[1].truth.List(t.Context(), "history/")
		f.must(err)
		// The window, and a batch that is not pruned by itself before there is enough of it.
		if n := len(stored); n < 4096 || n > 4096+32+256 {
			t.Errorf("%d events are stored", n)
		}
		if got := f.history(1, "quiet"); got != "created attached" {
			t.Errorf("a machine's few events are %q, because another had many", got)
		}
		if err := f.watch(1, hwmap.EventsOptions{After: early}); !errors.Is(err, hwmap.ErrExpired) {
			t.Errorf("a token of before what was pruned: error %v", err)
		}
		f.must(f.watch(1, hwmap.EventsOptions{After: f.token(1)}))
		f.servers[1].kill()
		f.servers[1].start()
		if err := f.watch(1, hwmap.EventsOptions{After: early}); !errors.Is(err, hwmap.ErrExpired) {
			t.Errorf("after a restart: error %v", err)
		}

		// Virtual time would pass, with all that the daemons do in it; what counts is the clock.
		days := func(n time.Duration) {
			f.servers[1].ahead.Add(int64(n * 24 * time.Hour))
			f.settled()
		}
		days(29)
		f.create(1, "new")
		days(2)
		stored, _, err = f.servers[1].truth.List(t.Context(), "history/")
		f.must(err)
		if n := len(stored); n != 2 {
			t.Errorf("%d events are stored after 31 days, want those of the new machine", n)
		}
		if got := f.history(1, "busy"); got != "" {
			t.Errorf("after 31 days, the history of a machine is %q", got)
		}
		late := f.token(1)
		days(30)
		f.servers[1].kill()
		f.servers[1].start()
		f.must(f.watch(1, hwmap.EventsOptions{After: late})) // nothing happened since
		f.create(1, "newer")
		if got := f.eventsAfter(1, late); len(got) != 2 || got[0].Name != "newer" {
			t.Errorf("after all was pruned, and a restart: events %+v", got)
		}
	})
}

// token is where a host's events end now.
func (f *fleet) token(host addr.Host) (token string) {
	f.t.Helper()
	f.must(f.on(host).WatchEvents(f.t.Context(), hwmap.EventsOptions{}, func(_ *hwmap.Event, t string) error {
		token = t
		return nil
	}))
	return token
}

func (f *fleet) watch(host addr.Host, o hwmap.EventsOptions) error {
	return f.on(host).WatchEvents(f.t.Context(), o, func(*hwmap.Event, string) error { return nil })
}

func (f *fleet) eventsAfter(host addr.Host, token string) (events []hwmap.Event) {
	f.t.Helper()
	f.must(f.on(host).WatchEvents(f.t.Context(), hwmap.EventsOptions{After: token}, func(e *hwmap.Event, _ string) error {
		if e != nil {
			events = append(events, *e)
		}
		return nil
	}))
	return events
}

func TestATokenIsOfOneDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		for token, want := range map[string]error{
			"web1": hwmap.ErrUsage, "": nil, f.token(2): hwmap.ErrExpired, f.token(1): nil, f.token(1) + "0": hwmap.ErrExpired,
		} {
			if err := f.watch(1, hwmap.EventsOptions{After: token}); !errors.Is(err, want) {
				t.Errorf("token %q: error %v, want %v", token, err, want)
			}
		}
	})
}

func TestASlowReaderKeepsNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "web1")
		release := make(chan struct{})
		var names []string
		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			done <- f.on(1).WatchEvents(ctx, hwmap.EventsOptions{After: "", Follow: true}, func(e *hwmap.Event, _ string) error {
				<-release
				if e != nil && e.Kind == hwmap.EventCreated {
					if names = append(names, e.Name); len(names) == 4 {
						cancel()
					}
				}
				return nil
			})
		}()
		synctest.Wait()
		for i := range 3 {
			f.create(1, fmt.Sprintf("web%d", i+2))
		}
		close(release)
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
		equal(t, "what the reader was told", []string{"web1", "web2", "web3", "web4"}, names)

		// One that is so slow that its next events are gone is told so.
		release = make(chan struct{})
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go func() {
			done <- f.on(1).WatchEvents(ctx, hwmap.EventsOptions{Follow: true}, func(*hwmap.Event, string) error {
				<-release
				return nil
			})
		}()
		synctest.Wait()
		f.spin(1, "web1", 2300)
		f.settled()
		close(release)
		if err := <-done; !errors.Is(err, hwmap.ErrExpired) {
			t.Errorf("the watch ended with %v", err)
		}
	})
}

func TestASnapshotTellsWhatIsAndThenWhatHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.create(1, "web2")
		f.destroy(1, "web2")
		var got []string
		var token string
		f.must(f.on(1).WatchEvents(t.Context(), hwmap.EventsOptions{Snapshot: true}, func(e *hwmap.Event, at string) error {
			if token = at; e != nil {
				got = append(got, fmt.Sprint(e.Kind, e.Host, e.HostState, e.Name, e.To))
			}
			return nil
		}))
		want := []string{"present1joined", "present2joined", "present0web1here"}
		equal(t, "snapshot", want, slices.Clone(got))
		f.destroy(1, "web1")
		if got := f.eventsAfter(1, token); len(got) != 1 || got[0].Kind != hwmap.EventDestroyed {
			t.Errorf("after the snapshot: %+v", got)
		}
	})
}

func TestAnEventThatIsNotWrittenIsTheOneOfWhatDidNotHappen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "web1")
		token := f.token(1)
		f.inject(func(_ addr.Host, what string) fault {
			if strings.Contains(what, "truth") {
				return fails
			}
			return none
		})
		if err := f.call(1, func(ctx context.Context, m *hwmap.Map) error {
			_, err := m.Create(ctx, "web2", 7)
			return err
		}); err == nil {
			t.Error("created without being written")
		}
		f.inject(nil)
		// The number of the event that was not written is given again after a restart, and a token does not skip it.
		between := f.token(1)
		f.servers[1].kill()
		f.servers[1].start()
		f.create(1, "web3")
		for _, token := range []string{token, between} {
			if got := f.eventsAfter(1, token); len(got) != 2 || got[0].Name != "web3" {
				t.Errorf("after %s: %+v", token, got)
			}
		}
	})
}

// With a truth on a disk, many transactions are on their way at once, and are committed in any order.
func TestSnapshotsUnderLoadAreOfOneMoment(t *testing.T) {
	m := openOnDisk(t, filepath.Join(t.TempDir(), "host.db"))
	var watchers, callers sync.WaitGroup
	ended := make(chan struct{})
	for range 4 {
		watchers.Go(func() {
			for running := true; running; {
				var told []hwmap.Event
				ctx, cancel := context.WithCancel(t.Context())
				err := m.WatchEvents(ctx, hwmap.EventsOptions{Snapshot: true, Follow: true}, func(e *hwmap.Event, _ string) error {
					if e != nil {
						told = append(told, *e)
					}
					select {
					case <-ended:
						running = false
					default:
					}
					if len(told) > 500 || !running {
						cancel()
					}
					return nil
				})
				cancel()
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				replay(t, told, true)
			}
		})
	}
	for caller := range 16 {
		callers.Go(func() {
			for i := range 40 {
				name := fmt.Sprintf("web%d", caller)
				if _, err := m.Create(t.Context(), name, 7); err != nil {
					t.Errorf("create %d: %v", i, err)
				}
				if err := m.Destroy(t.Context(), name); err != nil {
					t.Errorf("destroy %d: %v", i, err)
				}
			}
		})
	}
	callers.Wait()
	close(ended)
	if _, err := m.Create(t.Context(), "last", 7); err != nil { // which tells the watchers to look
		t.Fatal(err)
	}
	watchers.Wait()
}

// heldStore holds back transactions that write of a machine of that name.
type heldStore struct {
	hwmap.Store
	name    string
	release chan struct{}
}

func (s *heldStore) Commit(ctx context.Context, t hwmap.Txn) (hwmap.Revision, error) {
	for _, w := range t.Then {
		if strings.Contains(string(w.Value), s.name) {
			<-s.release
			break
		}
	}
	return s.Store.Commit(ctx, t)
}

func TestASnapshotDoesNotTellAgainWhatItHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 0)
		s := f.add(1)
		held := &heldStore{s.truth, "slow", make(chan struct{})}
		s.truth = held
		s.start()
		synctest.Wait()
		created := make(chan error, 1)
		go func() { created <- f.call(1, create("slow")) }()
		synctest.Wait()
		f.must(f.call(1, create("fast"))) // numbered later, durable earlier
		var got []string
		watched := make(chan error, 1)
		go func() {
			watched <- f.on(1).WatchEvents(t.Context(), hwmap.EventsOptions{Snapshot: true}, func(e *hwmap.Event, token string) error {
				if e != nil && e.Host == 0 {
					got = append(got, fmt.Sprint(e.Kind, " ", e.Name, " ", token != ""))
				}
				return nil
			})
		}()
		synctest.Wait()
		close(held.release)
		f.must(<-created)
		f.must(<-watched)
		equal(t, "what was told, and whether with a token", []string{"present fast false", "created slow false"}, got)
	})
}
