package hwmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ip6d/addr"
)

// DrainOptions say how this host is to be emptied.
type DrainOptions struct {
	To   []addr.Host   // where its machines are to go; none: to any host that takes machines, the emptiest first
	Ask  AskLocals     // how many machines are there already; nil: go by those that have ever moved
	Idle time.Duration // how long to be silent at most; 0: for ever
}

// DrainStep is what a drain tells: a machine that is to go, one that has gone, or the end.
type DrainStep struct {
	Machine *MachineView // on this host still
	To      addr.Host    // where it is to go; 0: it is only coming, and cannot arrive: its migration is to be aborted

	Gone   string  // the name of a machine that is not on this host any more
	Left   int     // how many are
	Whole  bool    // every machine that was here at the begin has been told of
	Done   bool    // the host is empty, home of no block, and cordoned
	Blocks []Block // Done: what was handed over
}

var errEmpty = errors.New("nothing is left")

// Drain has this host emptied: it marks the host draining, tells f of each machine and where it is to go, waits until whoever
// was told has moved them all, hands the host's blocks over, and leaves it cordoned. What it knows is in the records: after
// an error it stays draining, and the same again goes on. Errors: ErrStandalone, ErrSuspect, ErrFenced, ErrUsage and
// ErrState for targets that take no machines, ErrState when the drain is called off meanwhile, those of BeginDrain and
// HandOver, of f and of ctx.
func (m *Map) Drain(ctx context.Context, o DrainOptions, f func(DrainStep) error) error {
	if m.standalone {
		return fmt.Errorf("%w: there is no other host to move machines to", ErrStandalone)
	}
	if err := m.mayChange(); err != nil {
		return err
	}
	d := &drain{m: m, f: f, left: make(map[addr.Machine]string), load: make(map[addr.Host]int)}
	if err := d.findTargets(ctx, o); err != nil {
		return err
	}
	if _, err := m.BeginDrain(ctx, m.Self.ID); err != nil {
		return err
	}
	err := m.WatchEvents(ctx, EventsOptions{Snapshot: true, Follow: true, Idle: o.Idle}, d.take)
	if !errors.Is(err, errEmpty) {
		return err
	}
	blocks, err := m.handOverDrained(ctx, o.To)
	if err != nil {
		return err
	}
	if _, err := m.EndDrain(ctx, m.Self.ID); err != nil {
		return err
	}
	return f(DrainStep{Done: true, Whole: true, Blocks: blocks})
}

// drain is one that goes on.
type drain struct {
	m     *Map
	f     func(DrainStep) error
	left  map[addr.Machine]string // machines that are on this host, and their names
	load  map[addr.Host]int       // the hosts that machines may go to, and how many they have or are to have
	whole bool
}

// findTargets finds the hosts that machines may go to.
func (d *drain) findTargets(ctx context.Context, o DrainOptions) error {
	m := d.m
	m.mu.Lock()
	var targets []Host
	for id, h := range m.fleet.hosts {
		if id != m.Self.ID && h.State == Joined && (len(o.To) == 0 || slices.Contains(o.To, id)) {
			targets = append(targets, h)
			d.load[id] = 0
		}
	}
	for _, r := range m.fleet.machines.all() {
		if _, ok := d.load[r.Host]; ok && !r.Destroyed {
			d.load[r.Host]++
		}
	}
	m.mu.Unlock()
	for _, id := range o.To {
		if h, err := m.host(id); err != nil {
			return err
		} else if id == m.Self.ID {
			return fmt.Errorf("%w: host %d is the one that is drained", ErrUsage, id)
		} else if h.State != Joined {
			return refusedIn(h, "takes no machines")
		}
	}
	for _, h := range targets {
		if o.Ask == nil {
			break
		}
		has, err := o.Ask(ctx, h)
		switch {
		case err == nil:
			d.load[h.ID] = 0
			for _, l := range has {
				if l.State.stays() {
					d.load[h.ID]++
				}
			}
		case len(o.To) == 0:
			m.Logger.Warn("host does not answer, no machine is sent there", "host", h.ID, "error", err)
			delete(d.load, h.ID)
		}
	}
	if len(d.load) == 0 {
		return fmt.Errorf("%w: no other host of the fleet takes machines and answers; `ip6d host list` tells their states", ErrState)
	}
	return nil
}

// stays reports whether a machine in that state keeps its host from being switched off.
func (s LocalState) stays() bool {
	switch s {
	case "", Issued, Quarantined, Free:
		return false
	}
	return true
}

// take takes in what has happened.
func (d *drain) take(e *Event, _ string) error {
	if state := d.m.ownState(); state != Draining && state != "" {
		return fmt.Errorf("%w: the drain was called off: this host is %s", ErrState, state)
	}
	if e == nil {
		d.whole = true
		if err := d.f(DrainStep{Left: len(d.left), Whole: true}); err != nil || len(d.left) > 0 {
			return err
		}
		return errEmpty
	}
	if e.Kind == EventHost {
		return nil
	}
	name, known := d.left[e.Machine]
	switch {
	case e.To.stays() && !known:
		return d.leave(e)
	case !e.To.stays() && known:
		delete(d.left, e.Machine)
		return d.f(DrainStep{Gone: name, Left: len(d.left), Whole: d.whole})
	}
	return nil
}

// leave tells of a machine that is to go.
func (d *drain) leave(e *Event) error {
	l, _ := d.m.lookup(e.Machine)
	if !l.State.stays() || l.Name != e.Name {
		return nil // it has gone since: that is told next
	}
	v, err := d.m.view(l)
	if err != nil {
		return err
	}
	d.left[e.Machine] = e.Name
	return d.f(DrainStep{Machine: &v, To: d.target(l), Left: len(d.left), Whole: d.whole})
}

// target is where a machine is to go: where it is going already, if it can arrive there.
func (d *drain) target(l Local) addr.Host {
	switch l.State {
	case Incoming:
		return 0
	case Switching, Away:
		return l.Peer
	case Leaving:
		if h, err := d.m.host(l.Peer); err == nil && h.State == Joined {
			return l.Peer
		}
	}
	var best addr.Host
	for id, load := range d.load {
		if best == 0 || cmp.Or(cmp.Compare(load, d.load[best]), cmp.Compare(id, best)) < 0 {
			best = id
		}
	}
	d.load[best]++
	return best
}

func (m *Map) ownState() HostState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// handOverPatience is how long a drain repeats a hand over: what was moved last may not be settled yet.
const handOverPatience = time.Minute

func (m *Map) handOverDrained(ctx context.Context, to []addr.Host) (all []Block, err error) {
	home := addr.Host(0) // for each block, the host that has the fewest
	if len(to) == 1 {
		home = to[0]
	}
	until := m.Now().Add(handOverPatience)
	for {
		blocks, err := m.HandOver(ctx, home)
		all = append(all, blocks...)
		if err == nil || m.Now().After(until) || pause(ctx, retryPause) != nil {
			return all, err
		}
	}
}
