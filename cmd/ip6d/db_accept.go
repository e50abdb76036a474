package main

import (
	"strings"

	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

// dbAcceptAnswer is the answer of `db accept`.
type dbAcceptAnswer struct {
	Reason        string   `json:"reason"`
	FrozenBlocks  []uint32 `json:"frozen_blocks"`
	EndedMachines []string `json:"ended_machines"`
}

func newDBAcceptCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "accept",
		Short: "Accept a database that was restored, copied or lost",
		Long: `Accept a database that was restored, copied or lost: make what it says the truth about this host.

A database is suspect when it is older than its witnesses: a file beside it, the kernel's maps and the fleet's store.
Until it is accepted, packets flow, and nothing is issued, attached, moved or destroyed. Where the right file still exists,
bring that back instead, with the daemon stopped. What accepting does:

  - The blocks of this host are frozen: ids of them may have been issued since the copy, and must not be issued again.
    The host leases another block.
  - Machines that moved since are taken from the fleet's store.
  - Machines that only the kernel knows are no machines any more; ` + "`ip6d status`" + ` lists them before.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.AcceptDatabaseRequest, ip6dv1.AcceptDatabaseResponse] {
				return a.Suspects.AcceptDatabase
			}, &ip6dv1.AcceptDatabaseRequest{})
			if err != nil {
				return err
			}
			a := dbAcceptAnswer{r.Reason, append([]uint32{}, r.FrozenBlocks...), append([]string{}, r.EndedMachines...)}
			return c.print(a, func(t *table) {
				t.row("accepted although", a.Reason)
				t.row("blocks frozen", orNone(ranges(a.FrozenBlocks)))
				t.row("machines ended", orNone(strings.Join(a.EndedMachines, ", ")))
			})
		},
	}
}

func orNone(text string) string {
	if text == "" {
		return "none"
	}
	return text
}
