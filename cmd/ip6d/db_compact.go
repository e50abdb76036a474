package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/hwmap/bolt"
)

func newDBCompactCommand(c *cli) *cobra.Command {
	var target dbTarget
	command := &cobra.Command{
		Use:   "compact [--database NAME | --file FILE]",
		Short: "Give what is free in the databases back to the file system",
		Long: `Give what is free in this host's databases back to the file system.

Packets, reads and writes go on meanwhile; only at the end writes wait for a moment, which is shown. A failure leaves the
database as it was. The daemon does it by itself when a file is over 64 MiB and more than half free.`,
		Args: cobra.NoArgs,
	}
	target.flags(command)
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		open := func(path string) (*bolt.Store, error) {
			if _, err := os.Stat(path); err != nil { // which Open would make
				return nil, fmt.Errorf("open database: %w", err)
			}
			return bolt.Open(bolt.Options{Path: path, AsItIs: true})
		}
		r, err := askDatabases(cmd.Context(), c, target, open, func(a ip6dv1connect.DatabaseServiceClient) unary[ip6dv1.CompactDatabaseRequest, ip6dv1.CompactDatabaseResponse] {
			return a.CompactDatabase
		}, &ip6dv1.CompactDatabaseRequest{Database: target.database})
		if err != nil {
			return err
		}
		var answers []compactionAnswer
		for _, m := range r.Compactions {
			answers = append(answers, newCompactionAnswer(m))
		}
		return c.print(answers, func(t *table) {
			t.row("DATABASE", "BEFORE", "AFTER", "TOOK", "WRITERS WAITED")
			for _, a := range answers {
				t.row(a.Database, byteSize(a.Before), byteSize(a.After), seconds(a.Took), seconds(a.Pause))
			}
		})
	}
	return command
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Microsecond)
}
