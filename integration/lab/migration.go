package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// Migration is the move of a machine, step by step, as an orchestrator and the hypervisors take them: Begin, Attach,
// Switchover, Finish. A step that failed can be repeated.
type Migration struct {
	Machine *Machine
	Source  *Host
	Target  *Host

	port *port // on the target; nil before Attach
}

// Move moves a mobile machine to the host: every step of a Migration.
func (m *Machine) Move(ctx context.Context, to *Host) error {
	g, err := m.Begin(ctx, to)
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{g.Attach, g.Switchover, g.Finish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Begin tells the source where the machine is going.
func (m *Machine) Begin(ctx context.Context, to *Host) (*Migration, error) {
	return m.begin(ctx, to, false)
}

// BeginOnFirstPacket is Begin of a migration that Resume switches over.
func (m *Machine) BeginOnFirstPacket(ctx context.Context, to *Host) (*Migration, error) {
	return m.begin(ctx, to, true)
}

func (m *Machine) begin(ctx context.Context, to *Host, onFirstPacket bool) (*Migration, error) {
	if !m.Mobile {
		return nil, fmt.Errorf("move %s: it is not mobile", m.Name)
	}
	g := &Migration{Machine: m, Source: m.host, Target: to}
	_, err := m.host.client.Migrations.BeginMigration(ctx, connect.NewRequest(&ip6dv1.BeginMigrationRequest{Name: m.Name, To: uint32(to.ID()), ActivateOnFirstPacket: onFirstPacket}))
	if err != nil {
		return nil, g.failed("begin", err)
	}
	return g, nil
}

// Attach gives the machine a second port, on the target. It is closed.
func (g *Migration) Attach(ctx context.Context) (err error) {
	if g.port == nil {
		g.port, err = g.Machine.attach(ctx, g.Target, g.Source.machinesMap())
	}
	return err
}

// Switchover makes the target the owner. While it is asked for, both ports are open: the new one from the moment the source
// lets go, the old one until the answer; then the machine sends by the new one. Errors: ErrInDoubt, ErrAborted, and what the
// source answers.
func (g *Migration) Switchover(ctx context.Context) error {
	if g.port != nil {
		if err := g.port.guard.Watch(); err != nil {
			return err
		}
	}
	answer, err := g.Source.client.Migrations.SwitchoverMigration(ctx, connect.NewRequest(&ip6dv1.SwitchoverMigrationRequest{Name: g.Machine.Name}))
	if err != nil {
		return g.failed("switch over", err)
	}
	switch answer.Msg.Outcome {
	case ip6dv1.Outcome_OUTCOME_COMMITTED:
		return g.arrive()
	case ip6dv1.Outcome_OUTCOME_ABORTED:
		return errors.Join(g.failed("switch over", ErrAborted), g.stay())
	case ip6dv1.Outcome_OUTCOME_IN_DOUBT:
		return g.failed("switch over", ErrInDoubt)
	}
	return g.failed("switch over", fmt.Errorf("unknown outcome %s", answer.Msg.Outcome))
}

// Resume has the machine send by its port on the target, as one does that a hypervisor has moved, and waits until the target
// is the owner: nobody asks for the switchover.
func (g *Migration) Resume(ctx context.Context) error {
	if err := errors.Join(g.port.guard.Watch(), g.Machine.sendBy(g.port)); err != nil {
		return g.failed("resume", err)
	}
	for {
		answer, err := g.Target.client.Machines.GetMachine(ctx, connect.NewRequest(&ip6dv1.GetMachineRequest{Name: g.Machine.Name}))
		switch {
		case err == nil && answer.Msg.Machine.State == ip6dv1.MachineState_MACHINE_STATE_HERE:
			return g.arrive()
		case err == nil:
			err = fmt.Errorf("it is %s there", answer.Msg.Machine.State)
		}
		select {
		case <-ctx.Done():
			return g.failed("resume", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// arrive is the machine's part of a committed switchover.
func (g *Migration) arrive() error {
	m := g.Machine
	if err := errors.Join(m.port.guard.Shut(), g.port.guard.Open(), m.sendBy(g.port)); err != nil {
		return g.failed("switch over", err)
	}
	m.port, m.host = g.port, g.Target
	return nil
}

// Finish waits until every host sends to the target, and ends the source's part.
func (g *Migration) Finish(ctx context.Context) error {
	_, err := g.Source.client.Migrations.FinishMigration(ctx, connect.NewRequest(&ip6dv1.FinishMigrationRequest{Name: g.Machine.Name}))
	if err != nil {
		return g.failed("finish", err)
	}
	return nil
}

// Abort calls the migration off, at its source or its target.
func (g *Migration) Abort(ctx context.Context, at *Host) error {
	_, err := at.client.Migrations.AbortMigration(ctx, connect.NewRequest(&ip6dv1.AbortMigrationRequest{Name: g.Machine.Name}))
	if err != nil {
		return g.failed("abort", err)
	}
	return g.stay()
}

// stay is the machine's part of a migration that was called off. The target removes its port.
func (g *Migration) stay() error {
	if g.port == nil {
		return nil
	}
	err := g.port.guard.ShutEarly()
	g.port = nil
	return err
}

func (g *Migration) failed(step string, err error) error {
	return fmt.Errorf("%s the migration of %s from %s to %s: %w", step, g.Machine.Name, g.Source.Name, g.Target.Name, err)
}
