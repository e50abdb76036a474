package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/audit"
)

func newCheckCommand(c *cli) *cobra.Command {
	var fleet bool
	command := &cobra.Command{
		Use:   "check [--fleet]",
		Short: "Name every difference between what this host's layers say",
		Long: `Name every difference between what this host's layers say: its own database, the fleet's store, the cache, the kernel's
maps, routes, neighbours, devices, namespaces and programs. It changes nothing. Of each difference it says what each
layer says, the likely cause and the remedy. What is only on its way is left out; with differences it takes some seconds.

The exit status is 0 where there is none, or nothing worse than information; 1 where there are some; 3 where it could not
be found out.`,
		Example: `  ip6d check
  ip6d check -o json > report.json; ip6d repair --from report.json`,
		Args: cobra.NoArgs,
	}
	command.Flags().BoolVar(&fleet, "fleet", false, "ask the other living hosts, too, which machines they have, and compare that with the store")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := callWithin(cmd.Context(), c, auditPatience, func(a *api.Client) unary[ip6dv1.CheckHostRequest, ip6dv1.CheckHostResponse] {
			return a.Audits.CheckHost
		}, &ip6dv1.CheckHostRequest{Fleet: fleet})
		if err != nil {
			return &statusError{err, exitUnchecked}
		}
		report := api.ReportFrom(r.Report)
		if err := c.print(report, func(t *table) { reportRows(t, report) }); err != nil {
			return err
		}
		return reportError(report)
	}
	return command
}

// auditPatience is how long an audit may take: it looks several times, and a large store takes its time to list.
const auditPatience = 2 * time.Minute

func reportError(r audit.Report) error {
	var silent []string
	for _, u := range r.Unanswered {
		silent = append(silent, fmt.Sprint(u.Host))
	}
	switch n := r.Faults(); {
	case len(silent) > 0:
		return &statusError{fmt.Errorf("not all could be compared: no answer of host %s", strings.Join(silent, ", ")), exitUnchecked}
	case len(r.Errors) > 0:
		return &statusError{fmt.Errorf("not all could be compared: %s", strings.Join(r.Errors, "; ")), exitUnchecked}
	case n == 1:
		return &statusError{fmt.Errorf("there is 1 difference"), exitDiffers}
	case n > 0:
		return &statusError{fmt.Errorf("there are %d differences", n), exitDiffers}
	}
	return nil
}

func reportRows(t *table, r audit.Report) {
	t.row("host", r.Host)
	t.row("store", fmt.Sprintf("%s, revision %d", r.Store, r.Revision))
	for _, u := range r.Unanswered {
		t.row("no answer", fmt.Sprintf("host %d: %s", u.Host, u.Why))
	}
	if len(r.Differences) == 0 {
		t.row("differences", "none")
	}
	for _, d := range r.Differences {
		object := d.Object.String()
		if d.Name != "" {
			object += fmt.Sprintf(" (%s, %s)", d.Name, d.Address)
		}
		t.row(string(d.Severity), fmt.Sprintf("%s: %s", d.Kind, object))
		if d.Host != 0 {
			t.row("  found by", fmt.Sprintf("host %d", d.Host))
		}
		for _, s := range d.Said {
			t.row("  "+s.Layer, s.Says)
		}
		t.row("  since", d.Since.Format(time.RFC3339))
		t.row("  cause", d.Cause)
		t.row("  remedy", d.Remedy)
	}
}
