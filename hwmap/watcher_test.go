package hwmap_test

import (
	"context"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// watcher follows the events of a host, and goes on after its last token whenever the daemon was killed.
type watcher struct {
	f        *fleet
	host     addr.Host
	snapshot bool

	mu    sync.Mutex // guards all below
	token string
	told  []hwmap.Event // a snapshot's first
}

// follow starts a watcher, which ends with the test.
func (f *fleet) follow(host addr.Host, snapshot bool) *watcher {
	w := &watcher{f: f, host: host, snapshot: snapshot}
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	f.t.Cleanup(func() {
		end()
		<-done
	})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			w.watch(ctx)
			time.Sleep(time.Second)
		}
	}()
	return w
}

func (w *watcher) watch(ctx context.Context) {
	m, err := w.f.daemon(w.host)
	if err != nil {
		return
	}
	var part []hwmap.Event
	o := hwmap.EventsOptions{After: w.token, Snapshot: w.snapshot && w.token == "", Follow: true, Idle: time.Second}
	_ = m.WatchEvents(ctx, o, func(e *hwmap.Event, token string) error {
		if now, err := w.f.daemon(w.host); err != nil || now != m {
			return errDead
		}
		if e != nil {
			part = append(part, *e)
		}
		if token == "" {
			return nil // a snapshot that is not whole: if it breaks off here, it begins anew
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.token, w.told, part = token, append(w.told, part...), nil
		return nil
	})
}

// nameless are the states of ids that a snapshot does not have.
var nameless = []hwmap.LocalState{"", hwmap.Issued, hwmap.Quarantined, hwmap.Free}

// replay returns the state of each machine after what a watcher was told: from each state to the next, with nothing left out
// and nothing told twice.
func replay(t tester, told []hwmap.Event, snapshot bool) map[addr.Machine]hwmap.LocalState {
	t.Helper()
	now := make(map[addr.Machine]hwmap.LocalState)
	last := uint64(0)
	for _, e := range told {
		if e.Kind != hwmap.EventPresent && e.Seq <= last {
			t.Errorf("event %d comes after event %d", e.Seq, last)
		}
		if last = e.Seq; e.Host != 0 {
			continue
		}
		before, known := now[e.Machine]
		if slices.Contains(nameless, before) && slices.Contains(nameless, e.From) {
			before = e.From // what a home knows of its blocks comes and goes with them, which is no event
		}
		first := !known && snapshot && slices.Contains(nameless, e.From) // the snapshot does not say which of them it was
		if e.Kind != hwmap.EventPresent && e.From != before && !first {
			t.Errorf("machine %d was %q when event %+v came", e.Machine, before, e)
		}
		now[e.Machine] = e.To
	}
	return now
}

// check holds what it was told against the truth.
func (w *watcher) check() {
	w.f.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	now := replay(w.f.t, w.told, w.snapshot)
	for _, l := range w.f.servers[w.host].locals() {
		if got := now[l.Machine]; got != l.State && !slices.Contains(nameless, l.State) {
			w.f.t.Errorf("host %d: machine %d is %s, who watched was told %q last", w.host, l.Machine, l.State, got)
		}
		delete(now, l.Machine)
	}
	for number, state := range now {
		if !slices.Contains(nameless, state) {
			w.f.t.Errorf("host %d: who watched was told last that machine %d is %s, and the truth has nothing of it", w.host, number, state)
		}
	}
}

// checkWhole holds what it was told against all that there is to tell.
func (w *watcher) checkWhole() {
	w.f.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	equal(w.f.t, "events that a watcher was told, and those that a new one is", w.f.events(w.host), w.told)
}
