package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
)

// monitorAnswer is a line of `monitor`: a drop, or how many were missed.
type monitorAnswer struct {
	Drop   *dropEventAnswer `json:"drop,omitempty"`
	Missed *missedAnswer    `json:"missed,omitempty"`
}

type dropEventAnswer struct {
	Time               time.Time `json:"time"`
	Reason             string    `json:"reason"`
	Way                string    `json:"way"` // the program that refused it
	Device             string    `json:"device,omitempty"`
	Source             string    `json:"source,omitempty"`
	Destination        string    `json:"destination,omitempty"`
	SourceMachine      string    `json:"source_machine,omitempty"`
	DestinationMachine string    `json:"destination_machine,omitempty"`
	NextHeader         uint32    `json:"next_header"`
	Length             uint32    `json:"length"`
}

// missedAnswer is how many drops the lines before it do not show.
type missedAnswer struct {
	Sampled  uint64 `json:"sampled"`   // more at once than are told of one by one
	RingFull uint64 `json:"ring_full"` // the daemon was down, or too slow
	TooSlow  uint64 `json:"too_slow"`  // this command was
}

func newMonitorCommand(c *cli) *cobra.Command {
	var reasons []string
	var machine, network string
	command := &cobra.Command{
		Use:   "monitor",
		Short: "Show packets as this host refuses them",
		Long: `Show packets as this host refuses them, until it is interrupted. Of many at once for one reason the first are shown,
and a line says how many are not: of all drops, whatever is asked for.`,
		Example: `  ip6d monitor
  ip6d monitor --machine web1 --reason not_here --reason loop`,
		Args: cobra.NoArgs,
	}
	flags := command.Flags()
	flags.StringSliceVar(&reasons, "reason", nil, "only drops for this reason, of those in ip6d drops --all; may be repeated")
	flags.StringVar(&machine, "machine", "", "only packets from or to this machine: its name, an address of it, or its number")
	flags.StringVar(&network, "network", "", "only packets from or to this network")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		question := &ip6dv1.MonitorDropsRequest{Reasons: reasons, Machine: machine}
		if network != "" {
			n, err := addr.ParseNetwork(network)
			if err != nil {
				return usagef("--network: %w", err)
			}
			question.Network = (*uint32)(&n)
		}
		return c.monitor(cmd.Context(), question)
	}
	return command
}

// monitor writes what comes until ctx ends, which is how it is meant to end.
func (c *cli) monitor(ctx context.Context, question *ip6dv1.MonitorDropsRequest) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	stream, err := client.Hosts.MonitorDrops(ctx, connect.NewRequest(question))
	if err == nil {
		defer stream.Close()
		for stream.Receive() {
			if err := c.printMonitored(stream.Msg()); err != nil {
				return err
			}
		}
		err = stream.Err()
	}
	switch {
	case ctx.Err() != nil:
		return nil
	case err == nil || errors.Is(err, io.ErrUnexpectedEOF) || connect.CodeOf(err) == connect.CodeCanceled:
		return fmt.Errorf("the daemon on %s ended the stream: it was stopped", c.where())
	}
	return c.explain(err)
}

func (c *cli) printMonitored(m *ip6dv1.MonitorDropsResponse) error {
	var a monitorAnswer
	var lines []string
	if d := m.Drop; d != nil {
		a.Drop = &dropEventAnswer{
			Time: d.Time.AsTime(), Reason: d.Reason, Way: d.Way, Device: d.Device, Source: d.Source, Destination: d.Destination,
			SourceMachine: d.SourceMachine, DestinationMachine: d.DestinationMachine, NextHeader: d.NextHeader, Length: d.Length,
		}
		lines = append(lines, a.Drop.words())
	}
	if d := m.Missed; d != nil {
		a.Missed = &missedAnswer{Sampled: d.Sampled, RingFull: d.RingFull, TooSlow: d.TooSlow}
		lines = append(lines, a.Missed.words())
	}
	switch {
	case lines == nil: // the first message
		return nil
	case c.output == formatJSON:
		return c.printJSON(a)
	}
	if _, err := fmt.Fprintln(c.stdout, strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// words is the drop in one line.
func (d *dropEventAnswer) words() string {
	packet := "a frame"
	if d.Source != "" {
		packet = fmt.Sprintf("%s > %s, %s", party(d.Source, d.SourceMachine), party(d.Destination, d.DestinationMachine), protocol(d.NextHeader))
	} else if d.SourceMachine != "" {
		packet = "a frame of " + printable(d.SourceMachine)
	}
	return fmt.Sprintf("%s %s %s %s: %s, %d bytes", d.Time.Local().Format("15:04:05.000"), d.Reason, d.Way, printable(d.Device), packet, d.Length)
}

func party(address, machine string) string {
	if machine == "" {
		return address
	}
	return fmt.Sprintf("%s (%s)", address, printable(machine))
}

// protocol names the next headers that are seen most (IANA, "Assigned Internet Protocol Numbers").
func protocol(nextHeader uint32) string {
	names := map[uint32]string{0: "hop-by-hop", 6: "TCP", 17: "UDP", 43: "routing", 44: "fragment", 50: "ESP", 58: "ICMPv6", 60: "destination options", 132: "SCTP"}
	if name, ok := names[nextHeader]; ok {
		return name
	}
	return fmt.Sprintf("next header %d", nextHeader)
}

// words says how many drops are not shown.
func (m *missedAnswer) words() string {
	var parts []string
	for _, p := range []struct {
		n   uint64
		why string
	}{
		{m.Sampled, "were too many at once"},
		{m.RingFull, "came while the daemon was down or too slow"},
		{m.TooSlow, "came while this command was too slow"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.why))
		}
	}
	return "not shown: " + strings.Join(parts, "; ")
}
