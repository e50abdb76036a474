package main

import (
	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func newStoreCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "store",
		Short: "Care for the fleet's store",
	}
	command.AddCommand(newStoreAcceptCommand(c))
	return command
}

// storeAcceptAnswer is the answer of `store accept`.
type storeAcceptAnswer struct {
	Generation uint64 `json:"generation"`
}

func newStoreAcceptCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "accept",
		Short: "Accept a store that was restored, or set up anew",
		Long: `Accept an etcd that was restored from a backup, or set up anew, as the fleet's store. One host is enough.

A store is suspect when it is another one than its records or a host knew, or has forgotten what a host saw there. Until it
is accepted, packets flow, and nothing is issued or moved. Where the right store still exists, bring that back instead.

Afterwards every host publishes again what it knows of the fleet. Until all have, none leases a block or moves a machine:
` + "`ip6d status`" + ` shows which hosts are waited for. One that does not come back must be declared dead.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.AcceptStoreRequest, ip6dv1.AcceptStoreResponse] {
				return a.Suspects.AcceptStore
			}, &ip6dv1.AcceptStoreRequest{})
			if err != nil {
				return err
			}
			a := storeAcceptAnswer{r.Generation}
			return c.print(a, func(t *table) { t.row("accepted as generation", a.Generation) })
		},
	}
}
