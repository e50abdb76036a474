package main

import (
	"time"

	"github.com/spf13/cobra"
)

func newMigrateRunCommand(c *cli) *cobra.Command {
	var to string
	o := moveFlags{}
	command := &cobra.Command{
		Use:   "run NAME --to HOST [--hook COMMAND]",
		Short: "Migrate a machine: begin, wait for the target, switch over, finish",
		Long: `Migrate a machine: begin, wait until the target has its port, switch over, finish. It runs on the source.

Interrupted at any point, the same command again goes on from there. What fails before the switchover is called off, and the
machine stays; --keep leaves it as it is. A switchover in doubt is repeated until it is decided. A machine without a port here
is stopped, and is moved without one.

` + hookHelp,
		Example: `  ip6d migrate run web1 --to host2 --hook /usr/local/lib/move-vm
  ip6d migrate run web1 --to host2 --hook 'test $IP6D_STEP != attach || ssh $IP6D_TARGET ip6d machine attach $IP6D_MACHINE --device tap7'`,
		Args: cobra.ExactArgs(1),
	}
	command.Flags().StringVar(&to, "to", "", "the target: a host's name or id")
	mustHave(command, "to")
	o.add(command)
	command.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if err := o.check(); err != nil {
			return err
		}
		target, err := c.findHost(ctx, to)
		if err != nil {
			return err
		}
		m, err := newMover(ctx, c)
		if err != nil {
			return err
		}
		defer m.client.Close()
		o.give(m)
		told := newProgress(c.stderr)
		m.say = func(_, text string) { told.say(args[0] + ": " + text) }
		moved, err := m.move(ctx, args[0], target)
		if err != nil {
			return err
		}
		return c.print(moved, func(t *table) {
			t.row("name", moved.Name)
			t.row("stable", moved.Stable)
			t.row("from", m.host(moved.From))
			t.row("to", m.host(moved.To))
			t.row("epoch", moved.Epoch)
		})
	}
	return command
}

// moveFlags are how machines are to be moved.
type moveFlags struct {
	hook string
	wait time.Duration
	keep bool
}

func (o *moveFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&o.hook, "hook", "", "run for the orchestrator's part, at each step")
	flags.DurationVar(&o.wait, "wait", 5*time.Minute, "how long the target may take to be ready, and the fleet to follow")
	flags.BoolVar(&o.keep, "keep", false, "do not call off what fails before the switchover")
}

func (o *moveFlags) check() error {
	if o.wait <= 0 {
		return usagef("--wait %s: must be above zero", o.wait)
	}
	return nil
}

func (o *moveFlags) give(m *mover) { m.hook, m.wait, m.keep = o.hook, o.wait, o.keep }
