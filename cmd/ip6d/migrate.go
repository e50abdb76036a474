package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ip6d/addr"
	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func newMigrateCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "migrate",
		Short: "Move a machine from this host to another",
		Long: `Move a machine from this host, the source, to another, the target. In this order:

  on the source   ip6d migrate begin NAME --to HOST
  on the target   ip6d machine attach NAME ...
  on the source   ip6d migrate switchover NAME
  on the source   ip6d migrate finish NAME

Each step can be repeated after any failure. Until the switchover, abort calls it off. ip6d migrate run takes all of them; ip6d
host drain does so with every machine of a host. Where the source is lost, and was
declared dead (ip6d host dead), the machine is claimed instead: ip6d migrate claim.`,
	}
	command.AddCommand(
		c.named(newMigrateBeginCommand(c)),
		c.named(newMigrateSwitchoverCommand(c)),
		c.named(newMigrateFinishCommand(c)),
		c.named(newMigrateAbortCommand(c)),
		newMigrateRunCommand(c),
		newMigrateClaimCommand(c),
	)
	return command
}

// begunAnswer is the answer of `migrate begin`.
type begunAnswer struct {
	Name   string `json:"name"`
	Stable string `json:"stable"`
	To     uint32 `json:"to"`

	OnFirstPacket bool `json:"activate_on_first_packet"`
}

func newMigrateBeginCommand(c *cli) *cobra.Command {
	var to string
	var onFirstPacket bool
	command := &cobra.Command{
		Use:   "begin NAME --to HOST",
		Short: "Record where a machine is going, and have that host accept it",
		Args:  cobra.ExactArgs(1),
	}
	command.Flags().StringVar(&to, "to", "", "the target: a host's name or id")
	command.Flags().BoolVar(&onFirstPacket, "activate-on-first-packet", false, "switch over by itself, once the machine sends something on the target")
	mustHave(command, "to")
	command.RunE = func(cmd *cobra.Command, args []string) error {
		target, err := c.findHost(cmd.Context(), to)
		if err != nil {
			return err
		}
		r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.BeginMigrationRequest, ip6dv1.BeginMigrationResponse] {
			return a.Migrations.BeginMigration
		}, &ip6dv1.BeginMigrationRequest{Name: args[0], To: target, RequestId: c.requestID, ActivateOnFirstPacket: onFirstPacket})
		if err != nil {
			return err
		}
		next := fmt.Sprintf("ip6d machine attach %s on host %d, then ip6d migrate switchover %s here", args[0], target, args[0])
		if onFirstPacket {
			next = fmt.Sprintf("ip6d machine attach %s on host %d, and start it there; after its first packet, ip6d migrate finish %s here", args[0], target, args[0])
		}
		return c.print(begunAnswer{args[0], r.Stable, target, onFirstPacket}, func(t *table) {
			t.row("name", args[0])
			t.row("stable", r.Stable)
			t.row("state", fmt.Sprintf("leaving, to host %d", target))
			t.row("next", next)
		})
	}
	return command
}

// findHost returns the id of a host given by name or id.
func (c *cli) findHost(ctx context.Context, host string) (uint32, error) {
	if id, err := addr.ParseHost(host); err == nil {
		return uint32(id), nil
	}
	r, err := call(ctx, c, func(a *api.Client) unary[ip6dv1.GetHostRequest, ip6dv1.GetHostResponse] {
		return a.Hosts.GetHost
	}, &ip6dv1.GetHostRequest{Host: host})
	if err != nil {
		return 0, err
	}
	return r.Host.Host, nil
}

// switchedAnswer is the answer of `migrate switchover`.
type switchedAnswer struct {
	Name    string `json:"name"`
	Outcome string `json:"outcome"` // committed, aborted or in_doubt
	Epoch   uint64 `json:"epoch"`   // of the machine after it
}

func newMigrateSwitchoverCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "switchover NAME",
		Short: "Make the target the machine's owner: packets go there from then on",
		Long: `Make the target the machine's owner: packets go there from then on.

The outcome is printed. When it is committed, the exit status is 0. Aborted means that an abort came first, and the
machine is still here; in doubt means that the store did not say: then repeat, or abort.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.SwitchoverMigrationRequest, ip6dv1.SwitchoverMigrationResponse] {
				return a.Migrations.SwitchoverMigration
			}, &ip6dv1.SwitchoverMigrationRequest{Name: args[0], RequestId: c.requestID})
			if err != nil {
				return err
			}
			outcome := word(r.Outcome.String(), "OUTCOME_")
			err = c.print(switchedAnswer{args[0], outcome, r.Epoch}, func(t *table) {
				t.row("name", args[0])
				t.row("outcome", outcome)
				t.row("epoch", r.Epoch)
			})
			if err != nil {
				return err
			}
			switch r.Outcome {
			case ip6dv1.Outcome_OUTCOME_COMMITTED:
				return nil
			case ip6dv1.Outcome_OUTCOME_ABORTED:
				return fmt.Errorf("the switchover of %q was aborted: the machine is still on this host", args[0])
			case ip6dv1.Outcome_OUTCOME_IN_DOUBT:
				return fmt.Errorf("the switchover of %q is in doubt: this host sends its packets to the target; repeat the switchover, or abort, when the store can be reached", args[0])
			}
			return fmt.Errorf("the switchover of %q ended in a way that this ip6d does not know; is the daemon a newer one?", args[0])
		},
	}
}

// endedAnswer is the answer of `migrate finish` and `migrate abort`.
type endedAnswer struct {
	Name  string `json:"name"`
	Ended string `json:"ended"` // finished or aborted
}

// finishMargin is how much longer than the daemon waits for other hosts the command waits for the daemon, so that it
// hears which hosts those were. The daemon knows the command's deadline and stops about as much earlier.
const finishMargin = time.Second

func newMigrateFinishCommand(c *cli) *cobra.Command {
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "finish NAME",
		Short: "Wait until every host sends to the target by itself, then forget the machine here",
		Args:  cobra.ExactArgs(1),
	}
	command.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait")
	command.RunE = func(cmd *cobra.Command, args []string) error {
		if timeout <= 0 {
			return usagef("--timeout %s: must be above zero", timeout)
		}
		_, err := callWithin(cmd.Context(), c, timeout+finishMargin, func(a *api.Client) unary[ip6dv1.FinishMigrationRequest, ip6dv1.FinishMigrationResponse] {
			return a.Migrations.FinishMigration
		}, &ip6dv1.FinishMigrationRequest{Name: args[0], RequestId: c.requestID})
		if err != nil {
			return err
		}
		return c.printEnded(args[0], "finished")
	}
	return command
}

func newMigrateAbortCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "abort NAME",
		Short: "Call a migration off, on its source or its target, before the switchover",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.AbortMigrationRequest, ip6dv1.AbortMigrationResponse] {
				return a.Migrations.AbortMigration
			}, &ip6dv1.AbortMigrationRequest{Name: args[0], RequestId: c.requestID})
			if err != nil {
				return err
			}
			return c.printEnded(args[0], "aborted")
		},
	}
}

func (c *cli) printEnded(name, how string) error {
	return c.print(endedAnswer{name, how}, func(t *table) {
		t.row("name", name)
		t.row("migration", how)
	})
}
