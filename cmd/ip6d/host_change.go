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

// removedAnswer is the answer of `host remove`.
type removedAnswer struct {
	Host    uint32 `json:"host"`
	Removed bool   `json:"removed"`
}

func newHostRemoveCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "remove HOST",
		Short: "Take a host out of the fleet, once nothing points at it",
		Long: `Take a host out of the fleet, once nothing points at it: it is home of no block, and no machine is on it or moves there.
Refused, it says what does, and leaves the host as it was.

HOST is a name or an id. A removed host does not come back by itself: ip6d host join on it makes it a member again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.RemoveHostRequest, ip6dv1.RemoveHostResponse] {
				return a.Hosts.RemoveHost
			}, &ip6dv1.RemoveHostRequest{Host: args[0]})
			if err != nil {
				return err
			}
			return c.print(removedAnswer{r.Host, true}, func(t *table) {
				t.row("host", r.Host)
				t.row("state", "removed")
			})
		},
	}
}

// printHost prints one host.
func (c *cli) printHost(h *ip6dv1.Host) error {
	a := newHostAnswer(h)
	return c.print(a, func(t *table) { a.rows(t) })
}
