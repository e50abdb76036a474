package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ip6d/addr"
	"ip6d/hwmap"
)

// Create makes machines on a host. None waits for the store, whose being away changes nothing until ids run out.
func (l *life) Create(t *rapid.T) {
	host := pick(t, "host", l.hosts(func(h addr.Host) bool { return !l.down[h] }))
	for range rapid.IntRange(1, 60).Draw(t, "machines") {
		l.made++
		l.makes(host, fmt.Sprintf("web%d", l.made))
	}
}

func (l *life) makes(host addr.Host, name string) {
	l.t.Helper()
	status, began := l.on(host).Status(), time.Now()
	var v hwmap.MachineView
	err := l.call(host, func(ctx context.Context, m *hwmap.Map) (err error) {
		v, err = m.Create(ctx, name, 7)
		return err
	})
	waited := time.Since(began)
	switch may := status.Self.State == hwmap.Joined && !status.Fenced; {
	case waited > 0:
		l.t.Errorf("creating %q on host %d waited for %s", name, host, waited)
	case may && status.IDsFree == 0 && l.outage.is():
		if !errors.Is(err, addr.ErrExhausted) {
			l.t.Errorf("create on host %d without ids: %v", host, err)
		}
		return
	case !may:
		if !errors.Is(err, hwmap.ErrState) && !errors.Is(err, hwmap.ErrFenced) {
			l.t.Errorf("create on host %d, which is %s, fenced %v: %v", host, status.Self.State, status.Fenced, err)
		}
		return
	case err != nil:
		l.t.Fatalf("create %q on host %d, which has %d ids free: %v", name, host, status.IDsFree, err)
	}
	m := &lived{name: name, number: v.Local.Machine, epoch: v.Epoch, host: host}
	for _, other := range l.machines {
		if other.number == m.number {
			l.t.Errorf("machine %+v was issued the id of %+v", *m, *other)
		}
	}
	if last, used := l.ended[m.number]; used && (time.Now().Before(last.until) || m.epoch <= last.epoch) {
		l.t.Errorf("machine %+v was issued the id of %+v at %s", *m, last, time.Now())
	}
	l.machines[name] = m
	l.must(l.call(host, attach(name)))
}

// Recreate repeats the creation of a machine.
func (l *life) Recreate(t *rapid.T) {
	m := l.machines[pick(t, "machine", l.living(func(m *lived) bool { return l.up(m.host) }))]
	l.must(l.call(m.host, func(ctx context.Context, on *hwmap.Map) error {
		v, err := on.Create(ctx, m.name, 7)
		if err == nil && (v.Local.Machine != m.number || v.Epoch != m.epoch) {
			err = fmt.Errorf("created again, %+v is %+v", *m, v)
		}
		return err
	}))
}

// Destroy destroys machines of a host: at home without the store, away from home with it.
func (l *life) Destroy(t *rapid.T) {
	host := pick(t, "host", l.hosts(l.up))
	names := l.living(func(m *lived) bool { return m.host == host })
	if len(names) == 0 {
		t.Skip("it has no machine")
	}
	first := rapid.IntRange(0, len(names)-1).Draw(t, "first")
	for _, name := range names[first:min(len(names), first+rapid.IntRange(1, 40).Draw(t, "machines"))] {
		m := l.machines[name]
		if !l.outage.is() {
			l.stays(m)
		}
		local, home := l.servers[host].local(m.number), l.view().blocks[m.number.Block()].Home
		switch err := l.call(host, destroy(name)); {
		case err == nil:
			m.until = time.Now().Add(l.servers[host].quarantine)
			l.ended[m.number] = *m
			delete(l.machines, name)
		case !l.outage.is() || local.State == hwmap.Here && home == host:
			l.t.Fatalf("destroy %+v, which is %+v, home %d: %v", *m, local, home, err)
		case only(err, hwmap.ErrUnavailable, hwmap.ErrState) != nil:
			l.t.Errorf("destroy %+v without the store: %v", *m, err)
		}
	}
}

// stays ends the migration of a machine that has not left.
func (l *life) stays(m *lived) {
	l.t.Helper()
	switch l.servers[m.host].local(m.number).State {
	case hwmap.Leaving, hwmap.Switching:
		l.insist(fmt.Sprintf("abort %+v", *m), func() error { return l.call(m.host, abort(m.name)) })
	}
}

// Migrate moves a machine, as far as it is drawn. Without the store it fails at once.
func (l *life) Migrate(t *rapid.T) {
	m := l.machines[pick(t, "machine", l.living(func(m *lived) bool { return l.up(m.host) }))]
	to := pick(t, "target", l.hosts(func(h addr.Host) bool { return h != m.host && !l.down[h] }))
	l.moves(m, to, rapid.IntRange(1, 4).Draw(t, "calls"))
}

func (l *life) moves(m *lived, to addr.Host, calls int) {
	l.t.Helper()
	from := m.host
	if l.outage.is() {
		began := time.Now()
		err := l.call(from, begin(m.name, to))
		if only(err, hwmap.ErrUnavailable, hwmap.ErrState) != nil || time.Since(began) > 0 {
			l.t.Errorf("begin without the store: %v, after %s", err, time.Since(began))
		}
		return
	}
	l.stays(m)
	err := l.call(from, begin(m.name, to))
	if !l.takes(to) {
		if err == nil {
			l.t.Errorf("begin of %+v to host %d, which is %s, was not refused", *m, to, l.states[to])
		}
		return
	}
	if err != nil {
		l.t.Fatalf("begin of %+v to host %d: %v", *m, to, err)
	}
	if calls > 1 {
		l.must(l.call(to, attach(m.name)))
	}
	if calls > 2 {
		l.must(l.call(from, switchover(m.name)))
		m.host, m.epoch = to, m.epoch+1
	}
	if calls > 3 {
		l.insist(fmt.Sprintf("finish %+v on host %d", *m, from), func() error { return l.call(from, finish(m.name)) })
	}
}

// Abort ends a migration.
func (l *life) Abort(t *rapid.T) {
	m := l.machines[pick(t, "machine", l.living(func(m *lived) bool {
		return l.up(m.host) && l.servers[m.host].local(m.number).State == hwmap.Leaving
	}))]
	err := l.call(m.host, abort(m.name))
	if l.outage.is() {
		err = only(err, hwmap.ErrUnavailable)
	}
	l.must(err)
}

// StoreGoes cuts the store off from all hosts.
func (l *life) StoreGoes(t *rapid.T) {
	if l.outage.is() {
		t.Skip("it is away")
	}
	l.outage.start()
	time.Sleep(time.Minute) // until all have noticed
	l.outage.counted()
}

// StoreReturns ends that. Everybody goes on within a minute, though the store has forgotten its history.
func (l *life) StoreReturns(t *rapid.T) {
	if !l.outage.is() {
		t.Skip("it is here")
	}
	if rapid.Bool().Draw(t, "compacted") {
		l.memory.compact()
	}
	l.outage.end()
	time.Sleep(time.Minute)
	synctest.Wait()
	for _, host := range l.hosts(func(h addr.Host) bool { return !l.down[h] }) {
		if s := l.on(host).Status(); !s.Following {
			l.t.Errorf("host %d does not follow the store: %v", host, s.StoreErr)
		}
	}
}

// callsPerHour is how often a host calls a store that is away, at most, however many machines it has.
const callsPerHour = 4000

// Advance lets time pass. Hosts that are without the store do not call it too often, nor all at the same moment.
func (l *life) Advance(t *rapid.T) {
	d := time.Duration(rapid.IntRange(1, 240).Draw(t, "minutes")) * time.Minute
	l.outage.counted()
	time.Sleep(d)
	synctest.Wait()
	calls, other := l.outage.counted()
	if bound := int(d.Hours()*callsPerHour) + 100; other > bound {
		l.t.Errorf("watches and held keys were asked for %d times in %s, want at most %d", other, d, bound)
	}
	total, moments := 0, make(map[time.Time]addr.Host)
	together := 0
	for host, times := range calls {
		total += len(times)
		if bound := int(d.Hours()*callsPerHour) + 100; len(times) > bound {
			l.t.Errorf("host %d called the store %d times in %s, want at most %d", host, len(times), d, bound)
		}
		for _, at := range slices.Compact(times) {
			if other, met := moments[at]; met && other != host {
				together++
			}
			moments[at] = host
		}
	}
	if together > 20+total/10 {
		l.t.Errorf("of %d calls of the store in %s, hosts made %d at the same moment", total, d, together)
	}
}
