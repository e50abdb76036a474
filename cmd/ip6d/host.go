package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func newHostCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "host",
		Short: "Tell about the hosts of the fleet, and say what may be done with them",
	}
	command.AddCommand(
		newHostListCommand(c),
		newHostShowCommand(c),
		newHostJoinCommand(c),
		newHostCordonCommand(c),
		newHostUncordonCommand(c),
		newHostDrainCommand(c),
		newHostRemoveCommand(c),
		newHostDeadCommand(c),
		newHostReviveCommand(c),
		newHostAdoptCommand(c),
	)
	return command
}

// hostAnswer is a host in the answers of the `host` commands and of `status`.
type hostAnswer struct {
	Host     uint32   `json:"host"`
	Name     string   `json:"name"`
	Identity string   `json:"identity"`
	State    string   `json:"state"`
	Underlay string   `json:"underlay,omitempty"`
	Prefix   string   `json:"prefix"`
	Blocks   []uint32 `json:"blocks"`
	Self     bool     `json:"self"`
}

func newHostAnswer(h *ip6dv1.Host) hostAnswer {
	return hostAnswer{
		Host: h.Host, Name: h.Name, Identity: h.Identity, State: h.State, Underlay: h.Underlay, Prefix: h.Prefix,
		Blocks: append([]uint32{}, h.Blocks...), Self: h.Self, // [] where there are none, not null
	}
}

func newHostListCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the hosts of the fleet",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.ListHostsRequest, ip6dv1.ListHostsResponse] {
				return a.Hosts.ListHosts
			}, &ip6dv1.ListHostsRequest{})
			if err != nil {
				return err
			}
			var answers []hostAnswer
			for _, h := range r.Hosts {
				answers = append(answers, newHostAnswer(h))
			}
			return c.print(answers, func(t *table) {
				t.row("HOST", "NAME", "STATE", "UNDERLAY", "PREFIX", "BLOCKS", "SELF")
				for _, a := range answers {
					self := ""
					if a.Self {
						self = "yes"
					}
					t.row(a.Host, a.Name, a.State, a.Underlay, a.Prefix, len(a.Blocks), self)
				}
			})
		},
	}
}

func newHostShowCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show HOST",
		Short: "Show a host, given by name or id",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.GetHostRequest, ip6dv1.GetHostResponse] {
				return a.Hosts.GetHost
			}, &ip6dv1.GetHostRequest{Host: args[0]})
			if err != nil {
				return err
			}
			return c.printHost(r.Host)
		},
	}
}

// rows adds what is known of a host.
func (a hostAnswer) rows(t *table) {
	t.row("host", a.Host)
	t.row("name", a.Name)
	t.row("state", a.State)
	t.row("identity", a.Identity)
	t.row("underlay", a.Underlay)
	t.row("prefix", a.Prefix)
	t.row("block ids", ranges(a.Blocks))
}

// ranges writes numbers as in 0-3, 7.
func ranges(numbers []uint32) string {
	numbers = slices.Sorted(slices.Values(numbers))
	var parts []string
	for i := 0; i < len(numbers); {
		last := i
		for last+1 < len(numbers) && numbers[last+1] == numbers[last]+1 {
			last++
		}
		part := fmt.Sprint(numbers[i])
		if last > i {
			part += fmt.Sprintf("-%d", numbers[last])
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ", ")
}
