package hwmap_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

const cell addr.Cell = 1

// tester is a test, be it testing's or rapid's.
type tester interface {
	Helper()
	Log(args ...any)
	Logf(format string, args ...any)
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Context() context.Context
}

// fleet is some servers and the store that they share, in the virtual time of a synctest bubble.
type fleet struct {
	t          tester
	store      hwmap.Store
	memory     *memory // the same, where it is one
	standalone bool    // the store is the only server's truth
	servers    map[addr.Host]*server
	armed      func(host addr.Host, what string) fault // what everyFault injected
	lateness   time.Duration                           // of what is done later; 0: some seconds

	mu         sync.Mutex // guards all below
	fault      func(host addr.Host, what string) fault
	delay      func() time.Duration
	held       map[addr.Host]chan struct{}      // whose watch is held back
	delivering map[addr.ID]map[addr.Host]uint64 // which kernels deliver, and at which epoch
	lost       map[addr.Host]bool               // dead hosts that have not heard of it, and whom nobody hears
}

// server is what survives a daemon. Its kernel and devices are gone after a reboot.
type server struct {
	fleet        *fleet
	id           addr.Host
	identity     string
	truth, cache hwmap.Store
	kernel       *kernel
	witness      *sideFile
	devices      *devices
	quarantine   time.Duration
	ahead        atomic.Int64 // how far its clock is, in nanoseconds
	log          *logs

	turn chan struct{} // holds one who starts or stops the daemon

	mu     sync.Mutex // guards all below
	daemon *hwmap.Map // nil: down
	steps  *steps
	cancel context.CancelFunc
	done   chan error
}

// logs are what a server's daemons say. It is shown with a test that fails.
type logs struct {
	t  tester
	mu sync.Mutex // guards lines

	lines []string
}

func (l *logs) Write(p []byte) (int, error) {
	l.t.Helper()
	line := strings.TrimSpace(string(p))
	l.t.Log(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return len(p), nil
}

// count returns how many lines say text.
func (l *logs) count(text string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// newFleet starts n servers.
func newFleet(t tester, n int) *fleet {
	t.Helper()
	store := newMemory()
	f := newFleetOn(t, store, n)
	synctest.Wait() // until all know each other
	return f
}

func newFleetOn(t tester, store hwmap.Store, n int) *fleet {
	t.Helper()
	f := &fleet{t: t, store: store, servers: make(map[addr.Host]*server), held: make(map[addr.Host]chan struct{}), delivering: make(map[addr.ID]map[addr.Host]uint64), lost: make(map[addr.Host]bool)}
	f.memory, _ = store.(*memory)
	for i := range n {
		f.add(addr.Host(i + 1)).start()
	}
	t.Cleanup(func() {
		for _, s := range f.servers {
			s.stop()
		}
	})
	return f
}

// add makes a server without a daemon.
func (f *fleet) add(id addr.Host) *server {
	s := &server{
		fleet: f, id: id, identity: fmt.Sprintf("identity-%d", id), truth: newMemory(), cache: newMemory(), witness: &sideFile{},
		devices: newDevices(), quarantine: time.Hour, log: &logs{t: f.t}, turn: make(chan struct{}, 1),
	}
	s.kernel = newKernel(id, func(m nat.Machine) { f.seen(id, m) })
	s.kernel.fence = func() { f.setLost(id, false) }
	f.servers[id] = s
	return s
}

// seen watches over what must hold at every moment: one kernel at most delivers a machine.
func (f *fleet) seen(host addr.Host, m nat.Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hosts := f.delivering[m.ID]
	if hosts == nil {
		hosts = make(map[addr.Host]uint64)
		f.delivering[m.ID] = hosts
	}
	delete(hosts, host)
	if m.State == nat.Delivering && !f.lost[host] {
		hosts[host] = m.Epoch
	}
	if len(hosts) > 1 {
		f.t.Errorf("machine %s is delivered on more than one host (host: epoch): %v", m.ID, hosts)
	}
}

// setLost has it not count what a host delivers, until it has heard that it is dead.
func (f *fleet) setLost(host addr.Host, lost bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost[host] = lost
	if lost {
		f.deliversNothing(host)
	}
}

// deliversNothing forgets what a host delivers. The caller holds mu.
func (f *fleet) deliversNothing(host addr.Host) {
	for _, hosts := range f.delivering {
		delete(hosts, host)
	}
}

// inject makes f decide about every step from now on; nil: nothing goes wrong.
func (f *fleet) inject(decide func(host addr.Host, what string) fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault = decide
}

// slow makes each call of the fleet's store and of a peer take its time; nil: none.
func (f *fleet) slow(delay func() time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = delay
}

// hold holds back what the host's watch brings, until release is called.
func (f *fleet) hold(host addr.Host) (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := make(chan struct{})
	f.held[host] = held
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.held, host)
		close(held)
	}
}

// isolate is cutOff for hosts whose watches bring nothing either, until restore is called.
func (f *fleet) isolate(hosts ...addr.Host) (restore func()) {
	f.cutOff(hosts...)
	restores := []func(){func() { f.inject(nil) }}
	for _, h := range hosts {
		restores = append(restores, f.hold(h))
	}
	return func() {
		for _, restore := range restores {
			restore()
		}
	}
}

// released returns what is closed when the host's watch is not held back.
func (f *fleet) released(host addr.Host) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if held, ok := f.held[host]; ok {
		return held
	}
	free := make(chan struct{})
	close(free)
	return free
}

// wait lets a call take its time. Only what a Map does without holding a mutex may wait: virtual time stands still for a
// goroutine that waits for a mutex.
func (f *fleet) wait() {
	f.mu.Lock()
	var d time.Duration
	if f.delay != nil {
		d = f.delay()
	}
	f.mu.Unlock()
	time.Sleep(d)
}

func (f *fleet) next(host addr.Host, what string) fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault == nil {
		return none
	}
	return f.fault(host, what)
}

// late runs what is long on its way to the store.
func (f *fleet) late(do func()) { time.AfterFunc(cmp.Or(f.lateness, 20*time.Second), do) }

func (f *fleet) daemon(id addr.Host) (*hwmap.Map, error) {
	s, ok := f.servers[id]
	if !ok {
		return nil, fmt.Errorf("%w: no such server", hwmap.ErrUnavailable)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.daemon == nil || s.steps.alive() != nil {
		return nil, fmt.Errorf("%w: host %d is down", hwmap.ErrUnavailable, id)
	}
	return s.daemon, nil
}

// call calls a daemon in bounded time. The answer of one that died meanwhile is none.
func (f *fleet) call(host addr.Host, what func(context.Context, *hwmap.Map) error) error {
	m, err := f.daemon(host)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	err = what(ctx, m)
	if now, aliveErr := f.daemon(host); aliveErr != nil || now != m {
		return errors.Join(err, errDead)
	}
	return err
}

// options are those of a daemon on s, and what it does to its surroundings.
func (s *server) options() (hwmap.Options, *steps) {
	st := &steps{host: s.id, next: s.fleet.next, wait: s.fleet.wait, released: func() <-chan struct{} { return s.fleet.released(s.id) }}
	st.ahead = func(count hwmap.Revision) {
		if _, durable, err := s.truth.List(context.Background(), ""); err != nil || count > durable {
			s.fleet.t.Errorf("host %d: a witness is told of %d commits, the truth has %d (%v)", s.id, count, durable, err)
		}
	}
	o := hwmap.Options{
		Plan: addr.DefaultPlan, Cell: cell,
		Self: hwmap.Host{
			ID: s.id, Name: fmt.Sprintf("host%d", s.id), Identity: s.identity,
			Underlay: netip.MustParseAddr(fmt.Sprintf("fd00:6d::%x", uint32(s.id))),
		},
		Truth:    &steppedStore{Store: s.truth, steps: st, name: "truth"},
		Cache:    &steppedStore{Store: s.cache, steps: st, name: "cache"},
		Fleet:    &steppedStore{Store: s.fleet.store, steps: st, name: "fleet", later: s.fleet.late},
		Datapath: steppedKernel{s.kernel, st},
		Ports:    steppedPorts{s.devices, st},
		Peers:    network{st, s.fleet.daemon},
		Witness:  steppedWitness{s.witness, st},

		Quarantine: s.quarantine, Now: s.now,
		Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelWarn})).With("on", s.id),
	}
	if s.fleet.standalone {
		o.Fleet, o.Cache = o.Truth, nil
	}
	return o, st
}

func (s *server) now() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }

// open starts a daemon, or says why it cannot be.
func (s *server) open() error {
	o, st := s.options()
	ctx, cancel := context.WithCancel(context.Background())
	died := make(chan struct{})
	var once sync.Once
	st.die = func() { once.Do(func() { close(died) }); cancel() }
	s.kernel.restart(s.devices)
	m, err := hwmap.Open(ctx, o)
	if err != nil {
		cancel()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	done := make(chan error, 1)
	s.daemon, s.steps, s.cancel, s.done = m, st, cancel, done
	go func() {
		err := m.Run(ctx)
		s.mu.Lock()
		if s.daemon == m {
			s.daemon = nil
		}
		s.mu.Unlock()
		select {
		case <-died:
			// What started the daemon starts it again.
			go s.restart()
		default:
		}
		done <- err
	}()
	return nil
}

// restart starts the daemon, if it is down, until it runs: it may be killed again, or find the store unreachable.
func (s *server) restart() {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	for range 100 {
		if _, err := s.fleet.daemon(s.id); err == nil {
			return
		}
		if err := s.open(); err == nil || errors.Is(err, hwmap.ErrRemoved) { // which stays so, whoever starts it
			return
		}
		time.Sleep(time.Second)
	}
	s.fleet.t.Errorf("host %d does not start again", s.id)
}

func (s *server) start() {
	s.fleet.t.Helper()
	if err := s.open(); err != nil {
		s.fleet.t.Fatalf("start host %d: %v", s.id, err)
	}
}

// stop ends the daemon in order.
func (s *server) stop() {
	s.mu.Lock()
	cancel, done := s.cancel, s.done
	s.cancel = nil
	s.mu.Unlock()
	if cancel == nil {
		return // it is down
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		s.fleet.t.Errorf("host %d: Run returned %v", s.id, err)
	}
}

// kill ends the daemon as SIGKILL does: from here on nothing that it does happens.
func (s *server) kill() { s.killed(func() {}) }

// reboot kills the daemon; kernel and devices go with it.
func (s *server) reboot() {
	s.killed(func() {
		s.kernel.reboot()
		s.devices.reboot()
		s.fleet.mu.Lock()
		defer s.fleet.mu.Unlock()
		s.fleet.deliversNothing(s.id)
		s.fleet.lost[s.id] = false
	})
}

func (s *server) killed(then func()) {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	s.mu.Lock()
	if s.steps != nil {
		s.steps.bury()
	}
	s.mu.Unlock()
	s.stop()
	then()
}

// on returns the daemon of a host, which may have to come up again first.
func (f *fleet) on(id addr.Host) (m *hwmap.Map) {
	f.t.Helper()
	f.insist(fmt.Sprintf("wait for host %d", id), func() (err error) {
		m, err = f.daemon(id)
		return err
	})
	return m
}

func (f *fleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// settled lets pass the time in which all that is repeated has been repeated.
func (f *fleet) settled() {
	time.Sleep(2 * time.Minute)
	synctest.Wait()
}

// patience is how often the orchestrator repeats a call that failed, a second apart.
const patience = 60

// insist repeats a call until it succeeds, as an orchestrator does.
func (f *fleet) insist(what string, call func() error) {
	f.t.Helper()
	var err error
	for range patience {
		if err = call(); err == nil {
			return
		}
		time.Sleep(time.Second)
	}
	f.t.Fatalf("%s: still fails: %v", what, err)
}

func (f *fleet) create(on addr.Host, name string) hwmap.MachineView {
	f.t.Helper()
	var v hwmap.MachineView
	f.insist("create", func() error {
		return f.call(on, func(ctx context.Context, m *hwmap.Map) (err error) {
			v, err = m.Create(ctx, name, 7)
			return err
		})
	})
	f.attach(on, name)
	return v
}

// destroy destroys the machine as an orchestrator does: one that is not there any more was destroyed by an earlier call.
func (f *fleet) destroy(on addr.Host, name string) {
	f.t.Helper()
	f.insist("destroy", func() error {
		err := f.call(on, destroy(name))
		if errors.Is(err, hwmap.ErrUnknownMachine) {
			return nil
		}
		return err
	})
}

func (f *fleet) attach(on addr.Host, name string) {
	f.t.Helper()
	f.insist("attach", func() error { return f.call(on, attach(name)) })
}

func attach(name string) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.Attach(ctx, name, hwmap.PortSpec{Netns: "/run/netns/" + name})
		return err
	}
}

func begin(name string, to addr.Host) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.Begin(ctx, name, to)
		return err
	}
}

func beginOnFirstPacket(name string, to addr.Host) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.BeginOnFirstPacket(ctx, name, to)
		return err
	}
}

var errNotCommitted = errors.New("not committed")

func switchover(name string) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		outcome, _, err := m.Switchover(ctx, name)
		if err == nil && outcome != hwmap.Committed {
			err = fmt.Errorf("%w, but %s", errNotCommitted, outcome)
		}
		return err
	}
}

func abort(name string) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error { return m.Abort(ctx, name) }
}

func finish(name string) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error { return m.Finish(ctx, name) }
}

func destroy(name string) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error { return m.Destroy(ctx, name) }
}

// migrate moves a machine as an orchestrator does: it repeats what fails, from the first call on. After a crash anywhere,
// and after an abort, that must be enough.
func (f *fleet) migrate(name string, from, to addr.Host) {
	f.t.Helper()
	f.insist(fmt.Sprintf("migrate from %d to %d", from, to), func() error {
		var v hwmap.MachineView
		err := f.call(from, func(_ context.Context, m *hwmap.Map) (err error) {
			v, err = m.Machine(name)
			return err
		})
		if err != nil {
			return err
		}
		if v.State == hwmap.Here || v.State == hwmap.Leaving {
			if err := f.call(from, begin(name, to)); err != nil {
				return fmt.Errorf("begin: %w", err)
			}
			if err := f.call(to, attach(name)); err != nil {
				return fmt.Errorf("attach: %w", err)
			}
		}
		if err := f.call(from, switchover(name)); err != nil && !errors.Is(err, hwmap.ErrUnknownMachine) { // finished before
			return fmt.Errorf("switchover: %w", err)
		}
		return f.call(from, finish(name))
	})
}
