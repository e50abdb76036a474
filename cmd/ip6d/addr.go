package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"

	"ip6d/addr"
)

func newAddrCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "addr",
		Short: "Read and make addresses; needs no daemon",
	}
	p := planFlags{addr.DefaultPlan.StablePrefix(), addr.DefaultPlan.RoutingPrefix()}
	command.PersistentFlags().Var(&prefixFlag{&p.stable}, "stable-prefix", "the fleet's prefix of stable addresses")
	command.PersistentFlags().Var(&prefixFlag{&p.routing}, "routing-prefix", "the fleet's prefix of routing addresses")
	command.AddCommand(newAddrDecodeCommand(c, &p), newAddrEncodeCommand(c, &p))
	return command
}

// planFlags are the prefixes as given; whether they make a plan shows when both are known.
type planFlags struct{ stable, routing netip.Prefix }

func (p *planFlags) plan() (addr.Plan, error) {
	plan, err := addr.NewPlan(p.stable, p.routing)
	if err != nil {
		return addr.Plan{}, usagef("%w", err)
	}
	return plan, nil
}

// prefixFlag is a flag whose value is a prefix.
type prefixFlag struct{ p *netip.Prefix }

func (f *prefixFlag) String() string { return f.p.String() }
func (f *prefixFlag) Type() string   { return "PREFIX" }

func (f *prefixFlag) Set(s string) (err error) {
	*f.p, err = netip.ParsePrefix(s)
	return err
}

func newAddrDecodeCommand(c *cli, p *planFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "decode ADDR... | -",
		Short: "Say what addresses name",
		Long: `Say what addresses name. With - the addresses are read from the standard input, one on each line; white space around
them is left out.

With -o json each address gives a line as soon as it is read. An invalid one gives a line too, whose "form" is
"invalid" and whose "error" says why; the exit status is 0 all the same. In text, an invalid address is an error.`,
		Example: `  ip6d addr decode fdab:0:7:0:63:0:101:fffa
  ip6d addr decode -o json - < addresses`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := p.plan()
			if err != nil {
				return err
			}
			if c.output == formatJSON {
				return c.decodeToJSON(cmd.Context(), plan, args)
			}
			return c.decodeToText(cmd.Context(), plan, args)
		},
	}
}

// decodeToJSON writes a line for each address. The lines go out together, but never wait for further input.
func (c *cli) decodeToJSON(ctx context.Context, plan addr.Plan, args []string) error {
	out := bufio.NewWriterSize(c.stdout, 64<<10)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	err := c.eachAddress(ctx, args, out.Flush, func(text string) error {
		return lines.Encode(newDecoded(text, plan.Describe(text)))
	})
	if flushErr := out.Flush(); err == nil && flushErr != nil {
		err = fmt.Errorf("write the answer: %w", flushErr)
	}
	return err
}

// decodeToText writes a table of all addresses, then fails if one was invalid.
func (c *cli) decodeToText(ctx context.Context, plan addr.Plan, args []string) error {
	var t table
	t.row("ADDRESS", "FORM", "KIND", "NETWORK", "CELL", "MACHINE", "BLOCK", "HOST", "STABLE")
	var total, invalid int
	var first error
	err := c.eachAddress(ctx, args, func() error { return nil }, func(text string) error {
		d := plan.Describe(text)
		total++
		if d.Err != nil {
			if invalid++; first == nil {
				first = d.Err
			}
		}
		t.row(decodedRow(text, d)...)
		return nil
	})
	switch {
	case err != nil:
		return err
	case total == 1 && invalid == 1:
		return first
	}
	if err := t.write(c.stdout); err != nil {
		return err
	}
	if invalid > 0 {
		return fmt.Errorf("%d of %d addresses are invalid, the first because: %w", invalid, total, first)
	}
	return nil
}

// eachAddress calls f with each argument, and with each line of the standard input where the argument is a dash.
func (c *cli) eachAddress(ctx context.Context, args []string, idle func() error, f func(text string) error) error {
	for _, arg := range args {
		if arg != "-" {
			if err := f(arg); err != nil {
				return err
			}
			continue
		}
		err := eachLine(ctx, c.stdin, idle, func(line []byte) error {
			return f(string(bytes.TrimSpace(line)))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func newAddrEncodeCommand(c *cli, p *planFlags) *cobra.Command {
	var network, cell, machine, host string
	command := &cobra.Command{
		Use:   "encode [STABLE | --network N --cell C --machine M] [--host H]",
		Short: "Make the stable address of numbers, and its routing form at a host",
		Long: `Make the stable address of numbers, and its routing form at a host. Without --host there is only the stable address.
Network 0 holds the hosts: there, the machine is the host, and --machine may be left out.
Numbers are decimal, or hexadecimal after 0x.`,
		Example: `  ip6d addr encode --network 99 --cell 1 --machine 257 --host 7
  ip6d addr encode fdaa:0:63:1::101:2 --host 7`,
		Args: cobra.MaximumNArgs(1),
	}
	flags := command.Flags()
	flags.StringVar(&network, "network", "", "network, 0 for a host's endpoint")
	flags.StringVar(&cell, "cell", "", "cell that issued the address")
	flags.StringVar(&machine, "machine", "", "machine number")
	flags.StringVar(&host, "host", "", "host that the routing address leads to")

	command.RunE = func(_ *cobra.Command, args []string) error {
		plan, err := p.plan()
		if err != nil {
			return err
		}
		var at addr.Host
		if host != "" {
			if at, err = addr.ParseHost(host); err != nil {
				return usagef("--host: %w", err)
			}
		}
		numbers := network != "" || cell != "" || machine != ""
		var stable addr.Stable
		switch {
		case numbers == (len(args) == 1):
			return usagef("give either a stable address or --network, --cell and --machine")
		case numbers:
			stable, err = stableOf(plan, network, cell, machine, at)
		default:
			stable, err = plan.ParseStable(args[0])
		}
		if err != nil {
			return err
		}
		var routing addr.Routing
		if at != 0 {
			if routing, err = plan.Encode(stable, at); err != nil {
				return err
			}
		}
		return c.printEncoded(stable, at, routing)
	}
	return command
}

// stableOf makes a stable address of the numbers as given on the command line; at is 0 where no host was given.
func stableOf(plan addr.Plan, network, cell, machine string, at addr.Host) (addr.Stable, error) {
	inCell, err := addr.ParseCell(cell)
	if err != nil {
		return addr.Stable{}, usagef("--cell: %w", err)
	}
	if machine == "" && network == "0" {
		machine = fmt.Sprint(at)
	}
	number, err := addr.ParseMachine(machine)
	if err != nil {
		return addr.Stable{}, usagef("--machine: %w", err)
	}
	if network == "0" {
		return plan.Endpoint(inCell, addr.Host(number))
	}
	of, err := addr.ParseNetwork(network)
	if err != nil {
		return addr.Stable{}, usagef("--network: %w", err)
	}
	return plan.Stable(of, inCell, number)
}
