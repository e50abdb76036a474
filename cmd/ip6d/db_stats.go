package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/hwmap/bolt"
)

// dbStatsAnswer is one database in the answer of `db stats`.
type dbStatsAnswer struct {
	Database  string            `json:"database"`
	Path      string            `json:"path"`
	Size      uint64            `json:"size"` // bytes
	PageSize  uint32            `json:"page_size"`
	Pages     uint64            `json:"pages"`
	FreePages uint64            `json:"free_pages"`
	FreeBytes uint64            `json:"free_bytes"`
	Records   map[string]uint64 `json:"records"` // by kind
	History   uint64            `json:"history"` // records of the history
	Revision  int64             `json:"revision"`
	Commits   uint64            `json:"commits"`
	Writes    uint64            `json:"writes"`
	Slow      uint64            `json:"slow"`
	Compacted *compactionAnswer `json:"compacted,omitempty"` // absent: it never was
}

// compactionAnswer is a compaction in the answers of `db stats` and `db compact`.
type compactionAnswer struct {
	Database string    `json:"database"`
	Time     time.Time `json:"time"`
	Before   uint64    `json:"before,omitempty"` // bytes; absent where it was before the daemon's start, as all below
	After    uint64    `json:"after,omitempty"`
	Took     float64   `json:"took_seconds,omitempty"`
	Pause    float64   `json:"pause_seconds,omitempty"` // what writers had to wait
}

func newCompactionAnswer(m *ip6dv1.Compaction) compactionAnswer {
	return compactionAnswer{
		Database: m.Database, Time: m.Time.AsTime(), Before: m.Before, After: m.After,
		Took: m.Took.AsDuration().Seconds(), Pause: m.Pause.AsDuration().Seconds(),
	}
}

func newDBStatsAnswer(m *ip6dv1.DatabaseStats) dbStatsAnswer {
	a := dbStatsAnswer{
		Database: m.Database, Path: m.Path, Size: m.Size, PageSize: m.PageSize, Pages: m.Pages, FreePages: m.FreePages,
		FreeBytes: m.FreePages * uint64(m.PageSize), Records: map[string]uint64{}, History: m.Records["history"], Revision: m.Revision,
		Commits: m.Commits, Writes: m.Writes, Slow: m.Slow,
	}
	for kind, n := range m.Records {
		a.Records[kind] = n
	}
	if m.Compacted != nil {
		compacted := newCompactionAnswer(m.Compacted)
		a.Compacted = &compacted
	}
	return a
}

func newDBStatsCommand(c *cli) *cobra.Command {
	var target dbTarget
	command := &cobra.Command{
		Use:   "stats [--database NAME | --file FILE]",
		Short: "Show how large the databases are, what is in them, and how often they were slow",
		Long: `Show how large this host's databases are, what is in them, and how often they were slow.

Commits, writes and slow operations are counted since the daemon's start; transactions that arrive together share a write.`,
		Args: cobra.NoArgs,
	}
	target.flags(command)
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		r, err := askDatabases(cmd.Context(), c, target, bolt.OpenReadOnly, func(a ip6dv1connect.DatabaseServiceClient) unary[ip6dv1.GetDatabaseStatsRequest, ip6dv1.GetDatabaseStatsResponse] {
			return a.GetDatabaseStats
		}, &ip6dv1.GetDatabaseStatsRequest{Database: target.database})
		if err != nil {
			return err
		}
		var answers []dbStatsAnswer
		for _, m := range r.Databases {
			answers = append(answers, newDBStatsAnswer(m))
		}
		return c.print(answers, func(t *table) {
			for _, a := range answers {
				a.rows(t)
			}
		})
	}
	return command
}

func (a dbStatsAnswer) rows(t *table) {
	t.row("database", a.Path)
	t.row("size", byteSize(a.Size))
	t.row("free", fmt.Sprintf("%s, %d of %d pages", byteSize(a.FreeBytes), a.FreePages, a.Pages))
	t.row("records", counted(a.Records, func(kind string, n uint64) string { return fmt.Sprintf("%d %s", n, kind) }))
	t.row("history", a.History)
	t.row("revision", a.Revision)
	t.row("commits", fmt.Sprintf("%d, in %d writes", a.Commits, a.Writes))
	t.row("slow", a.Slow)
	compacted := "never"
	if c := a.Compacted; c != nil {
		compacted = c.Time.Local().Format(time.DateTime)
		if c.Before > 0 {
			compacted += fmt.Sprintf(", from %s to %s", byteSize(c.Before), byteSize(c.After))
		}
	}
	t.row("compacted", compacted)
}

// byteSize writes a size for people.
func byteSize(n uint64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
