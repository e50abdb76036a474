package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/audit"
)

func newRepairCommand(c *cli) *cobra.Command {
	var from string
	var only []string
	var dry bool
	command := &cobra.Command{
		Use:   "repair --from FILE [--only KIND,...] [--dry-run]",
		Short: "Repair what a report of `check` says and has not changed since",
		Long: `Repair what a report of ` + "`ip6d check -o json`" + ` says and has not changed since, and nothing else. It says of each
difference what became of it. What needs an operator's decision is not repaired but explained.

The exit status is 0 where all that was chosen is repaired, or has gone by itself; 1 where something is left; 3 where
nothing was done.`,
		Example: `  ip6d check -o json > report.json
  ip6d repair --from report.json --dry-run
  ip6d repair --from report.json --only moved_stray,route_missing`,
		Args: cobra.NoArgs,
	}
	flags := command.Flags()
	flags.StringVar(&from, "from", "", "the report, a file; - is the standard input")
	flags.StringSliceVar(&only, "only", nil, "kinds of differences to repair; default: all")
	flags.BoolVar(&dry, "dry-run", false, "only say what would be repaired")
	mustHave(command, "from")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, k := range only {
			if !audit.Kind(k).Known() {
				return usagef("--only %q: there is no such kind of difference; `ip6d check` names those that there are", k)
			}
		}
		report, err := readReport(c.stdin, from)
		if err != nil {
			return &statusError{err, exitUnchecked}
		}
		r, err := callWithin(cmd.Context(), c, auditPatience, func(a *api.Client) unary[ip6dv1.RepairHostRequest, ip6dv1.RepairHostResponse] {
			return a.Audits.RepairHost
		}, &ip6dv1.RepairHostRequest{Report: api.ReportMessage(report), Kinds: only, DryRun: dry})
		if err != nil {
			return &statusError{err, exitUnchecked}
		}
		answers, left := []repairedAnswer{}, 0
		for _, d := range r.Repaired {
			a := repairedAnswer{Kind: d.Kind, Object: audit.Object{Type: audit.ObjectType(d.ObjectType), ID: d.Object}, Outcome: d.Outcome, Text: d.Text}
			answers = append(answers, a)
			switch audit.Outcome(d.Outcome) {
			case audit.Mended, audit.WouldBe, audit.Gone:
			default:
				left++
			}
		}
		err = c.print(answers, func(t *table) {
			t.row("KIND", "OBJECT", "OUTCOME", "WHAT")
			for _, a := range answers {
				t.row(a.Kind, a.Object, a.Outcome, a.Text)
			}
		})
		if err == nil && left > 0 {
			err = &statusError{fmt.Errorf("of %d differences %d are left", len(answers), left), exitDiffers}
		}
		return err
	}
	return command
}

// repairedAnswer is what became of one difference.
type repairedAnswer struct {
	Kind    string       `json:"kind"`
	Object  audit.Object `json:"object"`
	Outcome string       `json:"outcome"`
	Text    string       `json:"text"`
}

// readReport reads what `check -o json` wrote.
func readReport(stdin io.Reader, path string) (r audit.Report, err error) {
	var text []byte
	if path == "-" {
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return r, fmt.Errorf("read the report: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("%s is no report of `ip6d check -o json`: %w", path, err)
	}
	if r.Host == 0 || r.Version == "" {
		return r, fmt.Errorf("%s is no report of `ip6d check -o json`: it names no host or no version", path)
	}
	return r, nil
}
