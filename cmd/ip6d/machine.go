package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"ip6d/addr"
	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func newMachineCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "machine",
		Short: "Give machines their addresses and ports on this host",
	}
	command.AddCommand(
		c.named(newMachineCreateCommand(c)),
		c.named(newMachineAttachCommand(c)),
		c.named(newMachineDetachCommand(c)),
		newMachineListCommand(c),
		newMachineShowCommand(c),
		newMachineHistoryCommand(c),
		c.named(newMachineDestroyCommand(c)),
	)
	return command
}

func newMachineCreateCommand(c *cli) *cobra.Command {
	var network string
	command := &cobra.Command{
		Use:     "create NAME --network N",
		Short:   "Issue a stable address for a machine",
		Long:    "Issue a stable address for a machine. The same name in the same network on this host again shows the same machine.",
		Example: "  ip6d machine create web1 --network 42",
		Args:    cobra.ExactArgs(1),
	}
	command.Flags().StringVar(&network, "network", "", "the machine's network, 1 to 4294967295; machines of different networks cannot talk")
	mustHave(command, "network")
	command.RunE = func(cmd *cobra.Command, args []string) error {
		number, err := addr.ParseNetwork(network)
		if err != nil {
			return usagef("--network: %w", err)
		}
		r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.CreateMachineRequest, ip6dv1.CreateMachineResponse] {
			return a.Machines.CreateMachine
		}, &ip6dv1.CreateMachineRequest{Name: args[0], Network: uint32(number), RequestId: c.requestID})
		if err != nil {
			return err
		}
		return c.printMachine(r.Machine)
	}
	return command
}

func newMachineAttachCommand(c *cli) *cobra.Command {
	q := &ip6dv1.AttachMachineRequest{}
	command := &cobra.Command{
		Use:   "attach NAME (--netns PATH [--guest-device NAME] [--unconfigured] | --device NAME) [--mac MAC]",
		Short: "Give a machine its port on this host",
		Long: `Give a machine its port on this host. With --netns, ip6d makes a veth pair and puts one end into that network namespace,
with the machine's address and a default route; with --device, it takes a veth or TAP that exists on the host.

During a migration this is called on the target, between begin and switchover.`,
		Example: `  ip6d machine attach web1 --netns /run/netns/web1
  ip6d machine attach vm7 --device tap7`,
		Args: cobra.ExactArgs(1),
	}
	flags := command.Flags()
	flags.StringVar(&q.Netns, "netns", "", "the machine's network namespace: a path, or a name below /run/netns")
	flags.StringVar(&q.GuestDevice, "guest-device", "", "the name of the machine's end there (default eth0)")
	flags.BoolVar(&q.Unconfigured, "unconfigured", false, "leave the machine's end down, without address and route")
	flags.StringVar(&q.Device, "device", "", "an existing device on the host, such as a TAP; the guest then configures itself: its address with /128, and a default route via fe80::1")
	flags.StringVar(&q.Mac, "mac", "", "the machine's MAC address (default: derived from its number)")
	command.MarkFlagsOneRequired("netns", "device")
	for _, other := range []string{"netns", "guest-device", "unconfigured"} {
		command.MarkFlagsMutuallyExclusive("device", other)
	}
	command.RunE = func(cmd *cobra.Command, args []string) error {
		q.Name, q.RequestId = args[0], c.requestID
		if cmd.Flags().Changed("netns") {
			path, err := netnsPath(q.Netns)
			if err != nil {
				return err
			}
			q.Netns = path
		}
		r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.AttachMachineRequest, ip6dv1.AttachMachineResponse] {
			return a.Machines.AttachMachine
		}, q)
		if err != nil {
			return err
		}
		return c.printMachine(r.Machine)
	}
	return command
}

// netnsPath makes the path absolute, because the daemon has another working directory. A bare name is one of `ip netns`.
func netnsPath(s string) (string, error) {
	if s == "" {
		return "", usagef("--netns is empty: give the path of a network namespace, such as /run/netns/web1")
	}
	if !strings.Contains(s, "/") {
		return filepath.Join("/run/netns", s), nil
	}
	path, err := filepath.Abs(s)
	if err != nil {
		return "", fmt.Errorf("--netns %q: %w", s, err)
	}
	return path, nil
}

func newMachineDetachCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "detach NAME",
		Short: "Take a machine's port away; it keeps its address",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.DetachMachineRequest, ip6dv1.DetachMachineResponse] {
				return a.Machines.DetachMachine
			}, &ip6dv1.DetachMachineRequest{Name: args[0], RequestId: c.requestID})
			if err != nil {
				return err
			}
			return c.printMachine(r.Machine)
		},
	}
}

func newMachineListCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the machines of this host, and those that it knows to be elsewhere",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.ListMachinesRequest, ip6dv1.ListMachinesResponse] {
				return a.Machines.ListMachines
			}, &ip6dv1.ListMachinesRequest{})
			if err != nil {
				return err
			}
			return c.printMachines(r.Machines)
		},
	}
}

func newMachineShowCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME",
		Short: "Show a machine",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.GetMachineRequest, ip6dv1.GetMachineResponse] {
				return a.Machines.GetMachine
			}, &ip6dv1.GetMachineRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return c.printMachine(r.Machine)
		},
	}
}

func newMachineDestroyCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "destroy NAME",
		Short: "End a machine on the host where it is; its address is not used again for some time",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.DestroyMachineRequest, ip6dv1.DestroyMachineResponse] {
				return a.Machines.DestroyMachine
			}, &ip6dv1.DestroyMachineRequest{Name: args[0], RequestId: c.requestID})
			if err != nil {
				return err
			}
			return c.print(destroyedAnswer{Name: args[0], Destroyed: true}, func(t *table) {
				t.row("name", args[0])
				t.row("state", "destroyed")
			})
		},
	}
}

// mustHave makes a flag of command a required one.
func mustHave(command *cobra.Command, flag string) {
	if err := command.MarkFlagRequired(flag); err != nil {
		panic(err) // there is no such flag
	}
}
