package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"ip6d/api"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
)

func newDBCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "db",
		Short: "Care for this host's database",
	}
	command.AddCommand(newDBStatsCommand(c), newDBCheckCommand(c), newDBCompactCommand(c), newDBAcceptCommand(c))
	return command
}

// dbPatience is how long a command waits for a daemon that reads or copies its databases.
const dbPatience = 10 * time.Minute

// dbTarget is which databases a command is about: those of the daemon, one of them, or a file that no daemon uses.
type dbTarget struct{ file, database string }

func (t *dbTarget) flags(command *cobra.Command) {
	command.Flags().StringVar(&t.database, "database", "", "only this database of the daemon: host.db or map.db")
	command.Flags().StringVar(&t.file, "file", "", "instead of the daemon's databases: this file, which no daemon uses")
	command.MarkFlagsMutuallyExclusive("file", "database")
}

// askDatabases puts a question to the daemon, or answers it here for a file that open opens.
func askDatabases[Q, A any](ctx context.Context, c *cli, t dbTarget, open func(path string) (*bolt.Store, error),
	method func(ip6dv1connect.DatabaseServiceClient) unary[Q, A], question *Q,
) (*A, error) {
	if t.file == "" {
		return callWithin(ctx, c, max(c.patience, dbPatience), func(a *api.Client) unary[Q, A] { return method(a.Databases) }, question)
	}
	s, err := open(t.file)
	if errors.Is(err, hwmap.ErrLocked) {
		return nil, fmt.Errorf("%w; without --file the daemon that uses it is asked", err)
	}
	if err != nil {
		return nil, err
	}
	defer s.Close() // it was read, or what was written is on the disk
	service := api.NewDatabaseService(api.Database{Name: filepath.Base(t.file), Path: t.file, Store: s})
	r, err := method(service)(ctx, connect.NewRequest(question))
	if err != nil {
		return nil, c.explain(err)
	}
	return r.Msg, nil
}
