package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func newHostDeadCommand(c *cli) *cobra.Command {
	var force, yes bool
	command := &cobra.Command{
		Use:   "dead HOST [--force] [--yes]",
		Short: "Say that another host is lost, so that its machines can be claimed",
		Long: `Say that another host is lost, so that its machines can be claimed. HOST is a name or an id.

Every other host refuses its packets from then on. Should it still run, or come back, it carries nothing until it is
revived. A host that still reaches the store is refused unless --force: stop it instead, if that can be done.

Afterwards, in this order:

  on the host that is to be the home of its blocks   ip6d host adopt HOST
  on the host that is to have a machine of it        ip6d migrate claim NAME --force ...`,
		Args: cobra.ExactArgs(1),
	}
	command.Flags().BoolVar(&force, "force", false, "also a host that is alive: cut off from the others, say, and out of reach")
	command.Flags().BoolVar(&yes, "yes", false, "do not ask")
	command.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.confirm(yes, fmt.Sprintf("Every other host will refuse what host %s sends. Is it lost?", args[0])); err != nil {
			return err
		}
		r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.DeclareHostDeadRequest, ip6dv1.DeclareHostDeadResponse] {
			return a.Hosts.DeclareHostDead
		}, &ip6dv1.DeclareHostDeadRequest{Host: args[0], Force: force})
		if err != nil {
			return err
		}
		return c.printHost(r.Host)
	}
	return command
}

func newHostReviveCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "revive HOST",
		Short: "Take it back that a host is lost: it gives up what was claimed, and goes on with the rest",
		Long: `Take it back that a host is lost: it gives up what was claimed, and goes on with the rest.

It is cordoned then; uncordon lets it take machines again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.ReviveHostRequest, ip6dv1.ReviveHostResponse] {
				return a.Hosts.ReviveHost
			}, &ip6dv1.ReviveHostRequest{Host: args[0]})
			if err != nil {
				return err
			}
			return c.printHost(r.Host)
		},
	}
}

// blocksAnswer is the answer of commands that do something with blocks.
type blocksAnswer struct {
	Blocks []uint32 `json:"blocks"` // those that this command changed
	Home   uint32   `json:"home,omitempty"`
}

func newHostAdoptCommand(c *cli) *cobra.Command {
	var to string
	command := &cobra.Command{
		Use:   "adopt HOST [--to HOST]",
		Short: "Give the blocks of a dead host to another one",
		Long: `Give the blocks of a dead host to another one: this one, unless --to.

They are frozen: their machines are found and can be claimed, but no address of them is issued. When all are claimed that
can be, and the others are given up for lost, ip6d block unfreeze lets addresses be issued again.`,
		Args: cobra.ExactArgs(1),
	}
	command.Flags().StringVar(&to, "to", "", "the new home: a host's name or id (default: this host)")
	command.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.AdoptBlocksRequest, ip6dv1.AdoptBlocksResponse] {
			return a.Hosts.AdoptBlocks
		}, &ip6dv1.AdoptBlocksRequest{From: args[0], To: to})
		if err != nil {
			return err
		}
		return c.printBlocks(blocksAnswer{Blocks: append([]uint32{}, r.Blocks...), Home: r.To}, "adopted")
	}
	return command
}

func newBlockCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "block",
		Short: "Say what may be done with blocks of addresses",
	}
	command.AddCommand(newBlockUnfreezeCommand(c))
	return command
}

func newBlockUnfreezeCommand(c *cli) *cobra.Command {
	var block uint32
	var host string
	var yes bool
	command := &cobra.Command{
		Use:   "unfreeze --block BLOCK | --host HOST [--yes]",
		Short: "Let addresses of adopted blocks be issued again",
		Long: `Let addresses of adopted blocks be issued again, after a quarantine.

It says that the machines of the dead host which nobody claimed are lost: they cannot be claimed any more, and should that host
be revived, it gives them up.`,
		Args: cobra.NoArgs,
	}
	command.Flags().Uint32Var(&block, "block", 0, "one block")
	command.Flags().StringVar(&host, "host", "", "all frozen blocks of a home: a host's name or id")
	command.Flags().BoolVar(&yes, "yes", false, "do not ask")
	command.MarkFlagsOneRequired("block", "host")
	command.MarkFlagsMutuallyExclusive("block", "host")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := c.confirm(yes, "Machines of these blocks that were not claimed will be lost. Go on?"); err != nil {
			return err
		}
		q := &ip6dv1.UnfreezeBlocksRequest{Host: host}
		if cmd.Flags().Changed("block") {
			q.Block = &block
		}
		r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.UnfreezeBlocksRequest, ip6dv1.UnfreezeBlocksResponse] {
			return a.Hosts.UnfreezeBlocks
		}, q)
		if err != nil {
			return err
		}
		return c.printBlocks(blocksAnswer{Blocks: append([]uint32{}, r.Blocks...)}, "unfrozen")
	}
	return command
}

func (c *cli) printBlocks(a blocksAnswer, what string) error {
	return c.print(a, func(t *table) {
		if a.Home != 0 {
			t.row("home", a.Home)
		}
		t.row(what, ranges(a.Blocks))
	})
}
