package hwmap_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// fault is what goes wrong with one step that changes something outside of a daemon.
type fault string

const (
	none        fault = ""
	fails       fault = "fails"             // it is not done, and the daemon is told so
	doubtful    fault = "not done, unknown" // it is not done, and the answer is lost
	lost        fault = "done, unknown"     // it is done, and the answer is lost
	delayed     fault = "done later"        // the answer is lost, and it is done a good while later
	slow        fault = "done, told late"   // it is done, and the answer takes a while
	crashBefore fault = "crash before"      // the daemon dies just before it
	crashAfter  fault = "crash after"       // the daemon dies just after it
)

// answerTime is how long an answer takes that is told late.
const answerTime = 10 * time.Second

var errDead = fmt.Errorf("%w: this daemon is dead", hwmap.ErrUnavailable)

// steps are what one daemon does to its surroundings, each of which can go wrong.
type steps struct {
	next func(host addr.Host, what string) fault
	wait func()
	// released is closed while the host's watch is not held back
	released func() <-chan struct{}
	host     addr.Host
	die      func()
	ahead    func(hwmap.Revision) // fails the test where a witness is told more than is durable

	mu   sync.Mutex // guards dead
	dead bool       // what a dead daemon still tries does not happen
}

func (s *steps) alive() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return errDead
	}
	return nil
}

// bury makes sure that nothing more happens.
func (s *steps) bury() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dead = true
}

func (s *steps) kill() {
	s.bury()
	s.die()
}

// do does one step, or what its fault says. later is nil for a step that cannot be on its way for long.
func (s *steps) do(what string, now func() error, later func()) error {
	if err := s.alive(); err != nil {
		return err
	}
	f := s.next(s.host, what)
	if strings.HasSuffix(what, "fleet") || strings.HasPrefix(what, "ask") || what == "hint" {
		s.wait()
	}
	if f == delayed && later == nil {
		f = lost
	}
	switch f {
	case fails:
		return fmt.Errorf("%w: test fault", hwmap.ErrUnavailable)
	case doubtful:
		return fmt.Errorf("%w: test fault", hwmap.ErrInDoubt)
	case lost:
		_ = now()
		return fmt.Errorf("%w: test fault", hwmap.ErrInDoubt)
	case slow:
		err := now()
		time.Sleep(answerTime)
		return err
	case delayed:
		later()
		return fmt.Errorf("%w: test fault", hwmap.ErrInDoubt)
	case crashBefore:
		s.kill()
		return errDead
	case crashAfter:
		_ = now()
		s.kill()
		return errDead
	}
	return now()
}

// local is do for what is on this server, whose outcome is always known: it was not done, or the daemon died.
func (s *steps) local(what string, now func() error) error {
	return s.do(what, func() error { return now() }, nil)
}

// steppedStore is a store whose writes are steps.
type steppedStore struct {
	hwmap.Store
	*steps
	name  string
	later func(func()) // nil for a local store
}

func (s *steppedStore) ID(ctx context.Context) (string, error) {
	if err := s.read(); err != nil {
		return "", err
	}
	return s.Store.ID(ctx)
}

func (s *steppedStore) Get(ctx context.Context, keys ...hwmap.Key) ([]hwmap.Entry, error) {
	if err := s.read(); err != nil {
		return nil, err
	}
	return s.Store.Get(ctx, keys...)
}

func (s *steppedStore) List(ctx context.Context, prefix hwmap.Key) ([]hwmap.Entry, hwmap.Revision, error) {
	if err := s.read(); err != nil {
		return nil, 0, err
	}
	return s.Store.List(ctx, prefix)
}

// read fails where the fault is that calls fail; otherwise reading changes nothing, and nothing can be in doubt.
func (s *steppedStore) read() error {
	if s.later == nil {
		return s.alive()
	}
	return s.do("read "+s.name, func() error { return nil }, nil)
}

// Watch brings nothing while the host's watch is held back.
func (s *steppedStore) Watch(ctx context.Context, prefix hwmap.Key, after hwmap.Revision, f func(hwmap.Batch) error) error {
	return s.Store.Watch(ctx, prefix, after, func(b hwmap.Batch) error {
		select {
		case <-s.released():
			return f(b)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func (s *steppedStore) Commit(ctx context.Context, t hwmap.Txn) (revision hwmap.Revision, err error) {
	commit := func() error {
		revision, err = s.Store.Commit(ctx, t)
		return err
	}
	what := "write " + s.name
	if len(t.Then) == 1 && strings.HasPrefix(string(t.Then[0].Key), "witness/") {
		what = "tell " + s.name // at any time, and so not what a test makes fail that is about something else
	}
	if s.later == nil {
		err = s.local(what, commit)
	} else {
		err = s.do(what, commit, func() {
			s.later(func() { _, _ = s.Store.Commit(context.Background(), t) }) // refused or not, nobody hears of it
		})
	}
	return revision, err
}

// steppedKernel is a kernel whose writes are steps.
type steppedKernel struct {
	hwmap.Datapath
	*steps
}

func (k steppedKernel) AttachPort(ifindex int, s addr.Stable) error {
	return k.local("attach program", func() error { return k.Datapath.AttachPort(ifindex, s) })
}
func (k steppedKernel) DetachPort(ifindex int) error {
	return k.local("detach program", func() error { return k.Datapath.DetachPort(ifindex) })
}
func (k steppedKernel) AwaitPacket(ifindex int, await bool) error {
	return k.local("await packet", func() error { return k.Datapath.AwaitPacket(ifindex, await) })
}
func (k steppedKernel) PutMachine(m nat.Machine) error {
	return k.local("put machine "+m.State.String(), func() error { return k.Datapath.PutMachine(m) })
}
func (k steppedKernel) DeleteMachine(id addr.ID, epoch uint64) error {
	return k.local("delete machine", func() error { return k.Datapath.DeleteMachine(id, epoch) })
}
func (k steppedKernel) Flip(id addr.ID, to addr.Host, epoch uint64) error {
	return k.local("flip", func() error { return k.Datapath.Flip(id, to, epoch) })
}
func (k steppedKernel) PutMoved(entries ...nat.Moved) error {
	return k.local("put moved", func() error { return k.Datapath.PutMoved(entries...) })
}
func (k steppedKernel) DeleteMoved(id addr.ID, epoch uint64) error {
	return k.local("delete moved", func() error { return k.Datapath.DeleteMoved(id, epoch) })
}
func (k steppedKernel) PutBlock(b nat.Block) error {
	return k.local("put block", func() error { return k.Datapath.PutBlock(b) })
}

func (k steppedKernel) PutWitness(w nat.Witness) error {
	k.ahead(hwmap.Revision(w.Count))
	return k.local("put witness", func() error { return k.Datapath.PutWitness(w) })
}

// steppedWitness is a witness whose writes are steps.
type steppedWitness struct {
	hwmap.Witness
	*steps
}

func (w steppedWitness) Begin(m hwmap.Mark) error {
	return w.local("begin witness", func() error { return w.Witness.Begin(m) })
}
func (w steppedWitness) Raise(m hwmap.Mark) error {
	w.ahead(m.Count)
	return w.local("raise witness", func() error { return w.Witness.Raise(m) })
}

func (k steppedKernel) PutDead(h addr.Host) error {
	return k.local("put dead", func() error { return k.Datapath.PutDead(h) })
}
func (k steppedKernel) DeleteDead(h addr.Host) error {
	return k.local("delete dead", func() error { return k.Datapath.DeleteDead(h) })
}
func (k steppedKernel) SetFenced(fenced bool) error {
	return k.local("set fenced", func() error { return k.Datapath.SetFenced(fenced) })
}

// steppedPorts are devices whose making and removing are steps.
type steppedPorts struct {
	hwmap.Ports
	*steps
}

func (p steppedPorts) Attach(s addr.Stable, spec hwmap.PortSpec) (l hwmap.LocalPort, port nat.Port, err error) {
	err = p.local("make port", func() error {
		l, port, err = p.Ports.Attach(s, spec)
		return err
	})
	return l, port, err
}

func (p steppedPorts) Detach(s addr.Stable, l hwmap.LocalPort) error {
	return p.local("remove port", func() error { return p.Ports.Detach(s, l) })
}

// network connects the daemons of a fleet.
type network struct {
	*steps
	daemon func(addr.Host) (*hwmap.Map, error)
}

func (n network) ask(what string, h hwmap.Host, f func(*hwmap.Map) error) error {
	var answer error
	err := n.do(what, func() error {
		m, err := n.daemon(h.ID)
		if err == nil {
			err = f(m)
		}
		answer = err
		return err
	}, nil)
	if err != nil && err != answer {
		return fmt.Errorf("%w: %v", hwmap.ErrUnavailable, err) // nobody answered
	}
	return err
}

func (n network) Accept(ctx context.Context, h hwmap.Host, number addr.Machine) error {
	return n.ask("ask to accept", h, func(m *hwmap.Map) error { return m.Accept(ctx, number) })
}

func (n network) Check(ctx context.Context, h hwmap.Host, number addr.Machine) (v hwmap.PeerView, err error) {
	err = n.ask("ask to check", h, func(m *hwmap.Map) error {
		v, err = m.Check(ctx, number)
		return err
	})
	return v, err
}

func (n network) Reread(_ context.Context, h hwmap.Host, number addr.Machine) error {
	return n.ask("hint", h, func(m *hwmap.Map) error {
		m.Reread(number)
		return nil
	})
}

func (n network) Activate(ctx context.Context, h hwmap.Host, number addr.Machine) error {
	return n.ask("ask to activate", h, func(m *hwmap.Map) error { return m.Activate(ctx, number) })
}
