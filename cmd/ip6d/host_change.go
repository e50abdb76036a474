package main

import (
	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func newHostCordonCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "cordon HOST",
		Short: "Keep new machines from a host: none is created there, none moves there",
		Long: `Keep new machines from a host: none is created there, none moves there. Those that are there stay.

HOST is a name or an id, of any host of the fleet. A removal that has not come to its end is called off.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.CordonHostRequest, ip6dv1.CordonHostResponse] {
				return a.Hosts.CordonHost
			}, &ip6dv1.CordonHostRequest{Host: args[0]})
			if err != nil {
				return err
			}
			return c.printHost(r.Host)
		},
	}
}

func newHostUncordonCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "uncordon HOST",
		Short: "Let a host take new machines again; this calls a drain off",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.UncordonHostRequest, ip6dv1.UncordonHostResponse] {
				return a.Hosts.UncordonHost
			}, &ip6dv1.UncordonHostRequest{Host: args[0]})
			if err != nil {
				return err
			}
			return c.printHost(r.Host)
		},
	}
}

// printHost prints one host.
func (c *cli) printHost(h *ip6dv1.Host) error {
	a := newHostAnswer(h)
	return c.print(a, func(t *table) { a.rows(t) })
}
