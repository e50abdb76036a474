package hwmap_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ip6d/addr"
	"ip6d/hwmap"
)

// A day and more of a fleet of three hosts, in random steps of which each has one outcome that is right: the model says
// which, and what must hold after every step. The steps are in life_steps_test.go and life_hosts_test.go. A failure is shrunk
// to the fewest steps that show it; -rapid.seed repeats one, -rapid.checks and -rapid.steps do more.
func TestADayOfAFleetGoesAsItsModelSays(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		if err := checks.Value.Set("16"); err != nil { // rapid's own default would take minutes
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		rapid.SyncTest(t, func(t *rapid.T) {
			l := newLife(t)
			t.Repeat(rapid.StateMachineActions(l))
			l.end()
		})
	})
}

// day is how long each life is at least.
const day = 24 * time.Hour

// life is a fleet and what is to be expected of it. Nothing but its steps changes the fleet.
type life struct {
	*fleet
	outage   *outage
	born     time.Time
	made     int
	machines map[string]*lived
	ended    map[addr.Machine]lived // the last users of ids
	down     map[addr.Host]bool     // whose daemon does not run
	states   map[addr.Host]hwmap.HostState
	blocks   map[addr.Block]hwmap.Block // as they were last
}

// lived is a machine.
type lived struct {
	name   string
	number addr.Machine
	epoch  uint64
	host   addr.Host // its owner
	until  time.Time // destroyed: nobody has its id before
}

func newLife(t *rapid.T) *life {
	store := newMemory()
	l := &life{
		outage: newOutage(store), born: time.Now(),
		machines: make(map[string]*lived), ended: make(map[addr.Machine]lived), down: make(map[addr.Host]bool),
		states: make(map[addr.Host]hwmap.HostState), blocks: make(map[addr.Block]hwmap.Block),
	}
	l.fleet = newFleetOn(t, l.outage, 3)
	l.memory = store
	l.inject(l.outage.decide)
	for host := range l.servers {
		l.states[host] = hwmap.Joined
	}
	synctest.Wait()
	return l
}

// end lets what is left of the day pass, and holds the fleet against the model when all that was left half done is done.
func (l *life) end() {
	l.t.Helper()
	l.outage.end()
	time.Sleep(max(0, day-time.Since(l.born)))
	for _, host := range l.hosts(nil) {
		l.startIfDown(host)
	}
	l.settled()
	for _, host := range l.hosts(func(h addr.Host) bool { return l.states[h] == hwmap.Dead }) {
		l.revive(host)
	}
	l.tidy()
	want := make(map[string]addr.Host)
	for name, m := range l.machines {
		want[name] = m.host
	}
	l.check(want)
	l.hold()
}

// hosts are those of which is says so, ordered.
func (l *life) hosts(is func(addr.Host) bool) (hosts []addr.Host) {
	for _, host := range slices.Sorted(maps.Keys(l.servers)) {
		if is == nil || is(host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

func (l *life) up(h addr.Host) bool    { return !l.down[h] && l.states[h] != hwmap.Dead }
func (l *life) takes(h addr.Host) bool { return l.up(h) && l.states[h] == hwmap.Joined }
func (l *life) healthy() bool {
	return !l.outage.is() && len(l.hosts(l.up)) == len(l.servers)
}

// living are the names of the machines of which is says so, ordered.
func (l *life) living(is func(*lived) bool) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(l.machines)) {
		if is(l.machines[name]) {
			names = append(names, name)
		}
	}
	return names
}

// pick draws one of them, or skips the step where there is none.
func pick[T any](t *rapid.T, what string, from []T) T {
	if len(from) == 0 {
		t.Skip("there is no ", what)
	}
	return rapid.SampledFrom(from).Draw(t, what)
}

// Check holds what must hold after every step.
func (l *life) Check(*rapid.T) {
	l.t.Helper()
	synctest.Wait()
	l.hold()
}

func (l *life) hold() {
	l.t.Helper()
	has := make(map[addr.Host]map[addr.Machine]hwmap.Local)
	for host, s := range l.servers {
		has[host] = make(map[addr.Machine]hwmap.Local)
		for _, local := range s.locals() {
			has[host][local.Machine] = local
		}
	}
	for name, m := range l.machines {
		for host := range l.servers {
			local := has[host][m.number]
			here := local.State == hwmap.Here || local.State == hwmap.Leaving || local.State == hwmap.Switching
			switch {
			case host == m.host && (!here || local.Name != name || local.Epoch != m.epoch):
				l.t.Errorf("host %d has %+v of machine %+v", host, local, *m)
			case host != m.host && l.states[host] != hwmap.Dead && here && local.State != hwmap.Switching:
				l.t.Errorf("host %d has %+v of machine %+v, which is another's", host, local, *m)
			}
		}
	}
	view := l.view()
	for number, b := range view.blocks {
		before, known := l.blocks[number]
		switch {
		case b.Epoch < before.Epoch, b.EpochFloor < before.EpochFloor, b.IssueAfter.Before(before.IssueAfter):
			l.t.Errorf("block %d went back: it is %+v, and was %+v", number, b, before)
		case known && b.Home != before.Home && b.Epoch == before.Epoch:
			l.t.Errorf("block %d has another home at the same epoch: it is %+v, and was %+v", number, b, before)
		}
		l.blocks[number] = b
	}
	equal(l.t, "blocks that there were, and those that there are", keys(l.blocks), keys(view.blocks))
	for host, want := range l.states {
		if got := view.hosts[host].State; got != want {
			l.t.Errorf("host %d is %s, want %s", host, got, want)
		}
	}
	if !l.outage.is() {
		for _, host := range l.hosts(l.takes) {
			l.leasesInTime(host, view)
		}
	}
}

// leasesInTime checks that a quarter of the ids that a host may issue is free.
func (l *life) leasesInTime(host addr.Host, view stored) {
	l.t.Helper()
	size := 0
	for _, b := range view.blocks {
		if b.Home == host && !b.Frozen && time.Since(b.IssueAfter) > time.Minute {
			size += addr.BlockSize
		}
	}
	if s := l.on(host).Status(); s.IDsFree*4 < size || s.IDsFree == 0 || s.Fenced {
		l.t.Errorf("host %d has %d ids free in blocks of %d, and is fenced: %v", host, s.IDsFree, size, s.Fenced)
	}
}

// outage is a store that can be cut off from every host, with the watches and the held keys.
type outage struct {
	hwmap.Store

	mu    sync.Mutex // guards all below
	up    context.Context
	begin context.CancelFunc
	calls map[addr.Host][]time.Time // while it was cut off
	other int                       // of watches and held keys: so many
}

func newOutage(store hwmap.Store) *outage {
	o := &outage{Store: store, calls: make(map[addr.Host][]time.Time)}
	o.end()
	return o
}

func (o *outage) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.up == nil || o.up.Err() != nil {
		o.up, o.begin = context.WithCancel(context.Background())
	}
}

func (o *outage) start() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.begin()
}

func (o *outage) is() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.up.Err() != nil
}

// decide is what becomes of a host's step.
func (o *outage) decide(host addr.Host, what string) fault {
	if what != "read fleet" && what != "write fleet" || !o.is() {
		return none
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls[host] = append(o.calls[host], time.Now())
	return fails
}

// counted returns what was counted since it was asked last.
func (o *outage) counted() (calls map[addr.Host][]time.Time, other int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	calls, other = o.calls, o.other
	o.calls, o.other = make(map[addr.Host][]time.Time), 0
	return calls, other
}

var errAway = fmt.Errorf("%w: the store is away", hwmap.ErrUnavailable)

func (o *outage) Watch(ctx context.Context, prefix hwmap.Key, after hwmap.Revision, f func(hwmap.Batch) error) error {
	return o.stream(ctx, func(ctx context.Context) error { return o.Store.Watch(ctx, prefix, after, f) })
}

func (o *outage) Hold(ctx context.Context, key hwmap.Key, value []byte, ttl time.Duration) error {
	return o.stream(ctx, func(ctx context.Context) error { return o.Store.Hold(ctx, key, value, ttl) })
}

// stream does what lasts until the store is cut off.
func (o *outage) stream(ctx context.Context, do func(context.Context) error) error {
	o.mu.Lock()
	up := o.up
	if up.Err() != nil {
		o.other++
	}
	o.mu.Unlock()
	if up.Err() != nil {
		return errAway
	}
	broken, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(up, cancel)()
	err := do(broken)
	if up.Err() != nil && ctx.Err() == nil {
		return errAway
	}
	return err
}

// only returns an error that is not one of these.
func only(err error, these ...error) error {
	for _, e := range these {
		if errors.Is(err, e) {
			return nil
		}
	}
	return err
}
