package main

import (
	"github.com/spf13/cobra"

	"ip6d/addr"
	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func newMigrateClaimCommand(c *cli) *cobra.Command {
	var network, address string
	var force bool
	command := &cobra.Command{
		Use:   "claim NAME --force --network N --address S",
		Short: "Take a machine over, to this host, from one that was declared dead",
		Long: `Take a machine over, to this host, from one that was declared dead (ip6d host dead), and whose blocks were adopted (ip6d host adopt).

Network and address are the orchestrator's: of a machine that never moved, nobody else knows them. The machine keeps its
address; a port that a migration attached here stays, else attach one after it. --force, since what is claimed does not hand
itself over: it must not run on the dead host any more, or that host must be cut off.`,
		Example: "  ip6d migrate claim web1 --force --network 42 --address fdaa:0:2a:1::1:2",
		Args:    cobra.ExactArgs(1),
	}
	command.Flags().StringVar(&network, "network", "", "the machine's network, 1 to 4294967295")
	command.Flags().StringVar(&address, "address", "", "its stable address")
	command.Flags().BoolVar(&force, "force", false, "the machine does not run on the dead host, or nobody hears it")
	for _, flag := range []string{"network", "address", "force"} {
		mustHave(command, flag)
	}
	command.RunE = func(cmd *cobra.Command, args []string) error {
		number, err := addr.ParseNetwork(network)
		if err != nil {
			return usagef("--network: %w", err)
		}
		if !force {
			return usagef("--force=false: a machine is claimed by force, or migrated")
		}
		r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.ClaimMachineRequest, ip6dv1.ClaimMachineResponse] {
			return a.Migrations.ClaimMachine
		}, &ip6dv1.ClaimMachineRequest{Name: args[0], Network: uint32(number), Stable: address})
		if err != nil {
			return err
		}
		return c.printMachine(r.Machine)
	}
	return command
}
