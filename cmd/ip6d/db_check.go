package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
)

// dbCheckAnswer is one database in the answer of `db check`.
type dbCheckAnswer struct {
	Database  string `json:"database"`
	Path      string `json:"path"`
	Sound     bool   `json:"sound"`
	Problem   string `json:"problem,omitempty"`
	Torn      bool   `json:"torn"` // one copy of its head is damaged, which the next write mends
	Pages     uint64 `json:"pages"`
	FreePages uint64 `json:"free_pages"`
	Records   uint64 `json:"records"`
	Revision  int64  `json:"revision"`
}

func newDBCheckAnswer(m *ip6dv1.DatabaseCheck) dbCheckAnswer {
	return dbCheckAnswer{
		Database: m.Database, Path: m.Path, Sound: m.Problem == "", Problem: m.Problem, Torn: m.Torn,
		Pages: m.Pages, FreePages: m.FreePages, Records: m.Records, Revision: m.Revision,
	}
}

func newDBCheckCommand(c *cli) *cobra.Command {
	var target dbTarget
	command := &cobra.Command{
		Use:   "check [--database NAME | --file FILE]",
		Short: "Read the databases whole, and say whether they are sound",
		Long: `Read this host's databases whole, and say whether they are sound: every page, every record, and that all are of one time.
The daemon goes on meanwhile. The exit status is 1 where something is wrong.`,
		Args: cobra.NoArgs,
	}
	target.flags(command)
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		answers, err := c.checkDatabases(cmd.Context(), target)
		if err != nil {
			return err
		}
		if err := c.print(answers, func(t *table) {
			t.row("DATABASE", "SOUND", "RECORDS", "REVISION", "PAGES", "FREE")
			for _, a := range answers {
				sound := "yes"
				switch {
				case !a.Sound:
					sound = "NO"
				case a.Torn:
					sound = "yes, but for one copy of its head"
				}
				t.row(a.Path, sound, a.Records, a.Revision, a.Pages, a.FreePages)
			}
		}); err != nil {
			return err
		}
		var problems []error
		for _, a := range answers {
			if !a.Sound {
				problems = append(problems, errors.New(a.Problem))
			}
		}
		return errors.Join(problems...)
	}
	return command
}

func (c *cli) checkDatabases(ctx context.Context, target dbTarget) ([]dbCheckAnswer, error) {
	r, err := askDatabases(ctx, c, target, bolt.OpenReadOnly, func(a ip6dv1connect.DatabaseServiceClient) unary[ip6dv1.CheckDatabaseRequest, ip6dv1.CheckDatabaseResponse] {
		return a.CheckDatabase
	}, &ip6dv1.CheckDatabaseRequest{Database: target.database})
	if errors.Is(err, hwmap.ErrCorrupt) { // a file that cannot even be opened
		return []dbCheckAnswer{{Database: filepath.Base(target.file), Path: target.file, Problem: err.Error()}}, nil
	}
	if err != nil {
		return nil, err
	}
	var answers []dbCheckAnswer
	for _, m := range r.Checks {
		answers = append(answers, newDBCheckAnswer(m))
	}
	if len(answers) == 0 {
		return nil, fmt.Errorf("the daemon on %s has no database: is it of another version?", c.socket)
	}
	return answers, nil
}
