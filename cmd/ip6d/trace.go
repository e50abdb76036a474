package main

import (
	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/audit"
)

func newTraceCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "trace ADDRESS|MACHINE",
		Short: "Show what each layer believes of one machine, and the way of a packet to it",
		Long: `Show what each layer believes of one machine, given by its name, its stable or routing address, its number or
CELL/MACHINE: this host's truth, the store as it is now, memory, the cache, the kernel's maps, the port, and what the
hosts on the way say. Layers that do not agree are marked with an exclamation mark. Then the hops that a packet from this
host would take, or where it would be dropped, and why.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.TraceMachineRequest, ip6dv1.TraceMachineResponse] {
				return a.Audits.TraceMachine
			}, &ip6dv1.TraceMachineRequest{Machine: args[0]})
			if err != nil {
				return err
			}
			t := audit.Trace{Layers: []audit.TracedLayer{}, Hops: append([]string{}, r.Hops...)}
			for _, l := range r.Layers {
				t.Layers = append(t.Layers, audit.TracedLayer{Layer: l.Layer, Says: l.Says, Disagrees: l.Disagrees})
			}
			return c.print(t, func(rows *table) {
				for _, l := range t.Layers {
					mark := ""
					if l.Disagrees {
						mark = "! "
					}
					rows.row(l.Layer, mark+l.Says)
				}
				for i, hop := range t.Hops {
					rows.row(map[bool]string{true: "way", false: "then"}[i == 0], hop)
				}
			})
		},
	}
}
