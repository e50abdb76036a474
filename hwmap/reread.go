package hwmap

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ip6d/addr"
)

// rereads are the machines that hints of other hosts are about. A host that sends hints without end, or a forger, is not to
// make this one a burden to the store: a machine's record is read at once, and then not again for a pause; what is asked
// for meanwhile is done after it. The zero value is empty, and ready.
type rereads struct {
	waiting queue[addr.Machine]

	mu     sync.Mutex            // guards recent
	recent map[addr.Machine]bool // to be read, or read less than a pause ago; true: asked for again since
}

const (
	rereadPause = time.Second
	maxRereads  = 64 // machines within a pause; hints about more are not heeded
	rereaders   = 8  // how many are read at once
)

// ask puts the machine in, if there is room.
func (r *rereads) ask(number addr.Machine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, busy := r.recent[number]; busy {
		r.recent[number] = true
		return
	}
	if len(r.recent) >= maxRereads {
		return
	}
	if r.recent == nil {
		r.recent = make(map[addr.Machine]bool)
	}
	r.recent[number] = false
	r.waiting.add(number)
}

// rested ends the machine's pause.
func (r *rereads) rested(number addr.Machine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.recent[number] {
		delete(r.recent, number)
		return
	}
	r.recent[number] = false
	r.waiting.add(number)
}

// Reread asks for the machine's record to be read again soon. Nothing depends on it: a hint too many is not heeded.
func (m *Map) Reread(number addr.Machine) { m.rereads.ask(number) }

// heedHints does what Reread asks for, until ctx ends.
func (m *Map) heedHints(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range rereaders {
		g.Go(func() error {
			for {
				number, err := m.rereads.waiting.take(ctx)
				if err != nil {
					return err
				}
				if _, known := m.lookup(number); known {
					m.unsettled.add(number)
				}
				if err := m.reread(ctx, number); err != nil && ctx.Err() == nil {
					// The next packet that goes astray brings another hint.
					m.Logger.Debug("hint not heeded", "machine", number, "error", err)
				}
				g.Go(func() error {
					defer m.rereads.rested(number)
					return pause(ctx, rereadPause)
				})
			}
		})
	}
	return g.Wait()
}

// reread brings the view, the kernel's maps and the cache to what the store says of one machine, without waiting for the
// watch, which may be stalled, or far behind. What the watch brings later and is older than that is then left out.
// Errors: ErrUnavailable, those of Datapath and of the cache.
func (m *Map) reread(ctx context.Context, number addr.Machine) error {
	m.mu.Lock()
	before, existed := m.fleet.machines.get(number)
	m.mu.Unlock()
	// The block too: a machine without a record is at its home.
	read, err := m.Fleet.Get(ctx, machineKey(number), blockKey(number.Block()))
	if err != nil {
		return err
	}
	m.hintsHeeded.Add(1)
	m.mu.Lock()
	now, exists := m.fleet.machines.get(number)
	news := slices.DeleteFunc(read, func(e Entry) bool {
		if e.Value != nil {
			return e.ModRevision <= max(m.fleet.revision, m.fleet.ahead[e.Key])
		}
		// A record that has gone, and was not written again meanwhile: then it would have another epoch.
		return e.Key != machineKey(number) || !existed || !exists || now != before
	})
	err = m.applyAhead(number, news)
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.cache(ctx, news)
}

// applyAhead applies records of a machine that the watch has not brought yet. Where there are none, the kernel's entry is
// put right all the same: it may be wrong by itself. The caller holds mu.
func (m *Map) applyAhead(number addr.Machine, news []Entry) error {
	if err := m.apply(news); err != nil {
		return err
	}
	for _, e := range news {
		if e.Value != nil {
			m.fleet.ahead[e.Key] = e.ModRevision
		}
	}
	if now, exists := m.fleet.machines.get(number); exists {
		return m.routeTo(number, &now, now.Epoch)
	}
	return nil
}

// applyWritten applies what this host has just written to the store, ahead of the watch, so that what it does next goes by it.
func (m *Map) applyWritten(ctx context.Context, written []Entry) error {
	m.mu.Lock()
	news := slices.DeleteFunc(slices.Clone(written), func(e Entry) bool {
		return e.ModRevision <= max(m.fleet.revision, m.fleet.ahead[e.Key]) // the watch was faster
	})
	err := m.apply(news)
	if err == nil { // else whoever repeats it applies it again
		for _, e := range news {
			m.fleet.ahead[e.Key] = e.ModRevision
		}
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.cache(ctx, news)
}

// catchUpWithAhead forgets what the watch has brought by now. What it brought was no news, but only from here on may others
// be told that this host has it. The caller holds mu.
func (m *Map) catchUpWithAhead() {
	for k, r := range m.fleet.ahead {
		if r <= m.fleet.revision {
			delete(m.fleet.ahead, k)
			wish(m.appliedWanted)
		}
	}
}

// notOutdated takes out of entries, which the watch brought, what is older than what was read upon a hint, or written.
// The caller holds mu.
func (m *Map) notOutdated(entries []Entry) []Entry {
	if len(m.fleet.ahead) == 0 {
		return entries
	}
	var current []Entry
	for _, e := range entries {
		if e.ModRevision >= m.fleet.ahead[e.Key] {
			current = append(current, e)
		}
	}
	return current
}
