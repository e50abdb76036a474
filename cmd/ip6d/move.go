package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

// mover takes machines from the host whose daemon is called to others, every step of it. All that it knows of a move it
// reads from the daemon, so that whoever comes later can take it up where it was left.
type mover struct {
	client *api.Client
	c      *cli
	hosts  map[uint32]string // the names of the fleet's hosts
	source uint32

	hook string        // see hookHelp
	wait time.Duration // how long the target may take to be ready, and then the other hosts to follow
	keep bool          // what fails is not called off
	// retarget calls off a migration that has begun, and is to another host.
	retarget bool
	say      func(machine, text string)
}

// newMover asks the daemon for the hosts of the fleet. The caller closes its client.
func newMover(ctx context.Context, c *cli) (*mover, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	m := &mover{client: client, c: c, hosts: make(map[uint32]string)}
	r, err := ask(ctx, m, client.Hosts.ListHosts, &ip6dv1.ListHostsRequest{})
	if err != nil {
		client.Close()
		return nil, c.explain(err)
	}
	for _, h := range r.Hosts {
		m.hosts[h.Host] = h.Name
		if h.Self {
			m.source = h.Host
		}
	}
	return m, nil
}

// ask puts one question to the daemon. Its errors have a code.
func ask[Q, A any](ctx context.Context, m *mover, method unary[Q, A], question *Q) (*A, error) {
	ctx, cancel := context.WithTimeout(ctx, m.c.patience)
	defer cancel()
	r, err := method(ctx, connect.NewRequest(question))
	if err != nil {
		return nil, err
	}
	return r.Msg, nil
}

// movedAnswer is the answer of `migrate run`.
type movedAnswer struct {
	Name   string `json:"name"`
	Stable string `json:"stable"`
	From   uint32 `json:"from"`
	To     uint32 `json:"to"`
	Epoch  uint64 `json:"epoch"` // of the machine after it
}

// move is the move of one machine.
type move struct {
	*mover
	name string
	to   uint32
	now  *ip6dv1.Machine // as the source had it when the move began, or was taken up

	waited string // what was said last that it waits for
}

// errRepeat says what to do after a failure that leaves a move where it is.
var errRepeat = errors.New("the same command again goes on from there")

// move moves a machine, or takes up its move. A failure before the switchover calls it off; but for that, and where ctx ends,
// it stays as it is.
func (m *mover) move(ctx context.Context, name string, to uint32) (movedAnswer, error) {
	v := &move{mover: m, name: name, to: to}
	epoch, err := v.run(ctx)
	if err != nil {
		return movedAnswer{}, err
	}
	return movedAnswer{Name: name, Stable: v.now.Stable, From: m.source, To: to, Epoch: epoch}, nil
}

func (v *move) run(ctx context.Context) (epoch uint64, err error) {
	r, err := ask(ctx, v.mover, v.client.Machines.GetMachine, &ip6dv1.GetMachineRequest{Name: v.name})
	if err != nil {
		return 0, v.c.explain(err)
	}
	v.now = r.Machine
	state := v.now.State
	if v.retarget && state == ip6dv1.MachineState_MACHINE_STATE_LEAVING && v.now.Peer != v.to {
		if _, err := ask(ctx, v.mover, v.client.Migrations.AbortMigration, &ip6dv1.AbortMigrationRequest{Name: v.name}); err != nil {
			return 0, v.c.explain(err)
		}
		v.said("its migration to %s was called off", v.host(v.now.Peer))
		state = ip6dv1.MachineState_MACHINE_STATE_HERE
	}
	switch state {
	case ip6dv1.MachineState_MACHINE_STATE_HERE:
	case ip6dv1.MachineState_MACHINE_STATE_LEAVING, ip6dv1.MachineState_MACHINE_STATE_SWITCHING, ip6dv1.MachineState_MACHINE_STATE_AWAY:
		if v.now.Peer != v.to {
			return 0, fmt.Errorf("machine %q is %s, to %s: end that migration first", v.name, word(state.String(), "MACHINE_STATE_"), v.host(v.now.Peer))
		}
		v.said("the migration to %s goes on", v.host(v.to))
	case ip6dv1.MachineState_MACHINE_STATE_ELSEWHERE:
		if v.now.Host != v.to {
			return 0, fmt.Errorf("machine %q is on %s: migrate it from there", v.name, v.host(v.now.Host))
		}
		v.said("it is on %s", v.host(v.to))
		return v.now.Epoch, v.end(ctx)
	default:
		return 0, fmt.Errorf("machine %q is %s on this host: it cannot be migrated from here", v.name, word(state.String(), "MACHINE_STATE_"))
	}
	epoch = v.now.Epoch + 1
	if state != ip6dv1.MachineState_MACHINE_STATE_AWAY {
		if epoch, err = v.switchOver(ctx); err != nil {
			return 0, v.giveUp(ctx, err)
		}
		v.said("on %s, at epoch %d", v.host(v.to), epoch)
	}
	if err = v.runHook(ctx, stepSwitched); err == nil {
		err = v.finish(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("machine %q is on %s, and not all is done: %w; %w", v.name, v.host(v.to), err, errRepeat)
	}
	v.said("finished")
	return epoch, v.end(ctx)
}

// errMoved is that of a machine that has moved all the same.
var errMoved = errors.New("the machine has moved")

// end tells the hook that all is done.
func (v *move) end(ctx context.Context) error {
	if err := v.runHook(ctx, stepFinished); err != nil {
		return fmt.Errorf("%w; but %w; %w", errMoved, err, errRepeat)
	}
	return nil
}

// The outcomes of a switchover that are none.
var (
	errInDoubt = errors.New("the switchover is in doubt: this host sends the machine's packets to the target")
	errAborted = errors.New("the migration was called off by somebody else")
)

// switchOver goes on until the target is the owner, and returns the machine's epoch then. It ends in time.
func (v *move) switchOver(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, v.wait, fmt.Errorf("not within %s", v.wait))
	defer cancel()
	if v.now.State != ip6dv1.MachineState_MACHINE_STATE_SWITCHING {
		if err := v.begin(ctx); err != nil {
			return 0, err
		}
		v.said("%s has accepted it", v.host(v.to))
		if err := v.runHook(ctx, stepAttach); err != nil {
			return 0, err
		}
		if err := v.waitReady(ctx); err != nil {
			return 0, err
		}
	}
	for p := newPoll(); ; {
		r, err := ask(ctx, v.mover, v.client.Migrations.SwitchoverMigration, &ip6dv1.SwitchoverMigrationRequest{Name: v.name})
		switch {
		case err == nil && r.Outcome == ip6dv1.Outcome_OUTCOME_COMMITTED:
			return r.Epoch, nil
		case err == nil && r.Outcome == ip6dv1.Outcome_OUTCOME_ABORTED:
			return 0, errAborted
		case err == nil:
			err = errInDoubt
		case !transient(err):
			return 0, err
		}
		if over := p.pause(ctx); over != nil {
			return 0, fmt.Errorf("%w: %w", over, v.c.explain(err))
		}
	}
}

// begin has the target accept the machine. Where the store or the target cannot be reached it fails at once.
func (v *move) begin(ctx context.Context) error {
	for p := newPoll(); ; {
		_, err := ask(ctx, v.mover, v.client.Migrations.BeginMigration, &ip6dv1.BeginMigrationRequest{Name: v.name, To: v.to})
		if err == nil || connect.CodeOf(err) != connect.CodeAborted || p.pause(ctx) != nil {
			return err
		}
	}
}

// waitReady waits until the target is ready for the switchover.
func (v *move) waitReady(ctx context.Context) error {
	for p := newPoll(); ; {
		r, err := ask(ctx, v.mover, v.client.Migrations.CheckMigration, &ip6dv1.CheckMigrationRequest{Name: v.name})
		switch {
		case err == nil && r.Ready, connect.CodeOf(err) == connect.CodeFailedPrecondition: // what it has come to, the switchover says
			return nil
		case err == nil:
			err = errors.New(r.Problem)
		case !transient(err):
			return err
		}
		v.waits(err)
		if over := p.pause(ctx); over != nil {
			return fmt.Errorf("%w: %w", over, v.c.explain(err))
		}
	}
}

// finish waits until all hosts have followed, and has the source forget the machine.
func (v *move) finish(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, v.wait, fmt.Errorf("not within %s", v.wait))
	defer cancel()
	for p := newPoll(); ; {
		_, err := ask(ctx, v.mover, v.client.Migrations.FinishMigration, &ip6dv1.FinishMigrationRequest{Name: v.name})
		if err == nil {
			return nil
		}
		if !transient(err) {
			return v.c.explain(err)
		}
		v.waits(err)
		if over := p.pause(ctx); over != nil {
			return fmt.Errorf("%w: %w", over, v.c.explain(err))
		}
	}
}

// giveUp calls off a move that has failed before its switchover, and says so.
func (v *move) giveUp(ctx context.Context, why error) error {
	failed := fmt.Errorf("migrate %q to %s: %w", v.name, v.host(v.to), v.c.explain(why))
	switch {
	case errors.Is(why, errAborted):
		return errors.Join(failed, v.runHook(ctx, stepAborted))
	case ctx.Err() != nil || v.keep || errors.Is(why, errInDoubt):
		return fmt.Errorf("%w; %w", failed, errRepeat)
	}
	if _, err := ask(ctx, v.mover, v.client.Migrations.AbortMigration, &ip6dv1.AbortMigrationRequest{Name: v.name}); err != nil {
		return fmt.Errorf("%w; and it is not called off: %w; %w", failed, v.c.explain(err), errRepeat)
	}
	return errors.Join(fmt.Errorf("%w; it was called off, and the machine is still on this host", failed), v.runHook(ctx, stepAborted))
}

// runHook runs the hook for one step.
func (v *move) runHook(ctx context.Context, step string) error {
	return hook{v.hook, func(line string) { v.said("hook %s: %s", step, line) }}.run(ctx, step, []string{
		"IP6D_MACHINE=" + v.name,
		fmt.Sprintf("IP6D_NETWORK=%d", v.now.Network),
		"IP6D_ADDRESS=" + v.now.Stable,
		"IP6D_PORT=" + v.now.GetPort().GetDevice(),
		"IP6D_SOURCE=" + v.hosts[v.source],
		"IP6D_TARGET=" + v.hosts[v.to],
		fmt.Sprintf("IP6D_SOURCE_ID=%d", v.source),
		fmt.Sprintf("IP6D_TARGET_ID=%d", v.to),
	})
}

func (v *move) said(format string, args ...any) { v.say(v.name, fmt.Sprintf(format, args...)) }

// waits says what is waited for, once.
func (v *move) waits(why error) {
	if text := oneLine(v.c.explain(why).Error()); text != v.waited {
		v.said("waiting: %s", text)
		v.waited = text
	}
}

// host is a host for people.
func (m *mover) host(id uint32) string {
	if name := m.hosts[id]; name != "" {
		return fmt.Sprintf("host %d (%s)", id, printable(name))
	}
	return fmt.Sprintf("host %d", id)
}

// transient says whether a call can succeed when it is repeated, with nothing done about it but to wait.
func transient(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeAborted, connect.CodeDeadlineExceeded, connect.CodeFailedPrecondition:
		return true
	}
	return false
}

// How often is looked: at first, and at least.
const (
	pollPause    = 50 * time.Millisecond
	maxPollPause = time.Second
)

// poll is what pauses between looks, longer and longer.
type poll struct{ next time.Duration }

func newPoll() *poll { return &poll{pollPause} }

// pause waits. Errors: the cause of ctx.
func (p *poll) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(p.next):
		p.next = min(2*p.next, maxPollPause)
		return nil
	}
}
