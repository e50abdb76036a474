package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

// dropAnswer is one reason in the answer of `drops`.
type dropAnswer struct {
	Reason  string   `json:"reason"`
	Packets uint64   `json:"packets"`
	Rate    *float64 `json:"packets_per_second,omitempty"` // absent when it was not measured
	Meaning string   `json:"meaning"`
}

func newDropsCommand(c *cli) *cobra.Command {
	var interval time.Duration
	var every bool
	command := &cobra.Command{
		Use:   "drops",
		Short: "Show how many packets this host refuses, and why",
		Long: `Show how many packets this host refuses, and why: for each reason that occurred, how many there were since the datapath's
maps were made, and how many a second there are now, measured over the interval.`,
		Args: cobra.NoArgs,
	}
	command.Flags().DurationVar(&interval, "interval", time.Second, "measure rates over this time; 0: do not measure them")
	command.Flags().BoolVar(&every, "all", false, "show every reason, also those that never occurred")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		if interval < 0 {
			return usagef("--interval %s: must not be negative", interval)
		}
		answers, err := c.measureDrops(cmd.Context(), interval)
		if err != nil {
			return err
		}
		var shown []dropAnswer
		for _, a := range answers {
			if every || a.Packets > 0 {
				shown = append(shown, a)
			}
		}
		return c.print(shown, func(t *table) {
			t.row("REASON", "PACKETS", "PER SECOND", "MEANING")
			for _, a := range shown {
				rate := ""
				if a.Rate != nil {
					rate = fmt.Sprintf("%.1f", *a.Rate)
				}
				t.row(a.Reason, a.Packets, rate, a.Meaning)
			}
		})
	}
	return command
}

// measureDrops reads the counters, and again after the interval.
func (c *cli) measureDrops(ctx context.Context, interval time.Duration) ([]dropAnswer, error) {
	before, at, err := c.readDrops(ctx)
	if err != nil || interval == 0 {
		return before, err
	}
	select {
	case <-time.After(interval):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	after, now, err := c.readDrops(ctx)
	if err != nil {
		return nil, err
	}
	counted := make(map[string]uint64)
	for _, d := range before {
		counted[d.Reason] = d.Packets
	}
	for i, d := range after {
		if d.Packets < counted[d.Reason] {
			return nil, fmt.Errorf("the counters began again in between: the datapath was made anew; ask again")
		}
		rate := float64(d.Packets-counted[d.Reason]) / now.Sub(at).Seconds()
		after[i].Rate = &rate
	}
	return after, nil
}

func (c *cli) readDrops(ctx context.Context) (all []dropAnswer, at time.Time, err error) {
	r, err := call(ctx, c, func(a *api.Client) unary[ip6dv1.GetDropsRequest, ip6dv1.GetDropsResponse] {
		return a.Hosts.GetDrops
	}, &ip6dv1.GetDropsRequest{})
	if err != nil {
		return nil, at, err
	}
	for _, d := range r.Drops {
		all = append(all, dropAnswer{Reason: d.Reason, Packets: d.Packets, Meaning: d.Meaning})
	}
	return all, time.Now(), nil
}
