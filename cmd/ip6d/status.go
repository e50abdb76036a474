package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

// statusAnswer is the answer of `status`.
type statusAnswer struct {
	Version    string            `json:"version"`
	Host       hostAnswer        `json:"host"`
	Standalone bool              `json:"standalone"`
	Endpoints  []string          `json:"endpoints"`
	Following  bool              `json:"following"`
	Revision   int64             `json:"revision"`
	StoreError string            `json:"store_error,omitempty"`
	StaleSince *time.Time        `json:"stale_since,omitempty"` // nothing that happened in the store since is known here
	Machines   map[string]uint32 `json:"machines"`              // by state
	InDoubt    []string          `json:"in_doubt"`
	Fenced     bool              `json:"fenced,omitempty"` // this host was declared dead, and carries nothing
	IDsFree    uint32            `json:"ids_free"`
	Drops      map[string]uint64 `json:"drops"` // packets, by reason
	Firewall   []string          `json:"firewall"`

	DatabaseSuspect string   `json:"database_suspect,omitempty"`
	UnknownMachines []string `json:"unknown_machines,omitempty"`
	StoreSuspect    string   `json:"store_suspect,omitempty"`
	PendingHosts    []uint32 `json:"pending_hosts,omitempty"` // have not published their records again, in a store that was accepted

	Maps map[string]fillAnswer `json:"maps"` // how full the kernel's maps are, by name
}

type fillAnswer struct {
	Entries uint32 `json:"entries"`
	Size    uint32 `json:"size"`
}

func newStatusAnswer(r *ip6dv1.GetStatusResponse) statusAnswer {
	a := statusAnswer{
		Version: r.Version, Host: newHostAnswer(r.Host), Standalone: len(r.Endpoints) == 0,
		Endpoints: append([]string{}, r.Endpoints...), Following: r.Following, Revision: r.Revision,
		StoreError: r.StoreError, Machines: map[string]uint32{}, InDoubt: append([]string{}, r.InDoubt...),
		IDsFree: r.IdsFree, Drops: map[string]uint64{}, Maps: map[string]fillAnswer{},
		Firewall: append([]string{}, r.Firewall...), Fenced: r.Fenced,

		DatabaseSuspect: r.DatabaseSuspect, UnknownMachines: r.UnknownMachines,
		StoreSuspect: r.StoreSuspect, PendingHosts: r.PendingHosts,
	}
	if r.StaleSince != nil {
		since := r.StaleSince.AsTime()
		a.StaleSince = &since
	}
	for _, f := range r.Maps {
		a.Maps[f.Map] = fillAnswer{f.Entries, f.Size}
	}
	maps.Copy(a.Machines, r.Machines)
	for _, d := range r.Drops {
		a.Drops[d.Reason] = d.Packets
	}
	return a
}

func newStatusCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the state of this host's daemon and its datapath",
		Long: `Show the state of this host's daemon and its datapath.

What was dropped is counted by reason; ` + "`ip6d drops`" + ` says what each means.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.GetStatusRequest, ip6dv1.GetStatusResponse] {
				return a.Hosts.GetStatus
			}, &ip6dv1.GetStatusRequest{})
			if err != nil {
				return err
			}
			a := newStatusAnswer(r)
			return c.print(a, func(t *table) {
				t.row("version", a.Version)
				a.Host.rows(t)
				if a.Fenced {
					t.row("fenced", fmt.Sprintf("this host was declared dead and carries nothing; ip6d host revive %d takes it back", a.Host.Host))
				}
				t.row("store", a.store(time.Now()))
				if a.StoreSuspect != "" {
					t.row("store", "suspect: "+a.StoreSuspect+"; nothing is issued or moved: bring the right one back, or run `ip6d store accept`")
				}
				if len(a.PendingHosts) > 0 {
					t.row("waits for hosts", ranges(a.PendingHosts)+" to publish their records again: start them, or declare them dead")
				}
				if a.DatabaseSuspect != "" {
					t.row("database", "suspect: "+a.DatabaseSuspect+"; nothing is issued or moved: bring the right file back, or run `ip6d db accept`")
					if len(a.UnknownMachines) > 0 {
						t.row("unknown to it", strings.Join(a.UnknownMachines, ", "))
					}
				}
				t.row("machines", counted(a.Machines, func(state string, n uint32) string { return fmt.Sprintf("%d %s", n, state) }))
				if len(a.InDoubt) > 0 {
					t.row("in doubt", strings.Join(a.InDoubt, ", "))
				}
				t.row("ids free", a.IDsFree)
				t.row("maps", a.fill())
				for _, f := range a.Firewall {
					t.row("firewall", f)
				}
				t.row("dropped", counted(a.Drops, func(reason string, n uint64) string { return fmt.Sprintf("%d %s", n, reason) }))
			})
		},
	}
}

// store says in words how the host stands with the fleet's store.
func (a statusAnswer) store(now time.Time) string {
	switch endpoints := strings.Join(a.Endpoints, ", "); {
	case a.Standalone:
		return "none: standalone"
	case a.Following:
		return fmt.Sprintf("%s, followed, revision %d", endpoints, a.Revision)
	case a.StoreError != "" && a.StaleSince != nil:
		return fmt.Sprintf("%s, lost at revision %d, %s ago: %s", endpoints, a.Revision, now.Sub(*a.StaleSince).Round(time.Second), a.StoreError)
	case a.StoreError != "":
		return fmt.Sprintf("%s, lost at revision %d: %s", endpoints, a.Revision, a.StoreError)
	default:
		return fmt.Sprintf("%s, not followed yet", endpoints)
	}
}

// fill writes how full the maps are, ordered by name.
func (a statusAnswer) fill() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(a.Maps)) {
		parts = append(parts, fmt.Sprintf("%s %d of %d", name, a.Maps[name].Entries, a.Maps[name].Size))
	}
	return strings.Join(parts, ", ")
}

// counted writes what was counted, ordered by name; nothing was counted: none.
func counted[N uint32 | uint64](counts map[string]N, write func(string, N) string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, write(name, counts[name]))
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}
