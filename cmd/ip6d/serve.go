package main

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spf13/cobra"

	"ip6d/config"
)

func newServeCommand(c *cli) *cobra.Command {
	settings := new(settings)
	command := &cobra.Command{
		Use:   "serve [--config FILE]",
		Short: "Run the daemon of this host",
		Long: `Run the daemon of this host. Without configuration it is standalone: everything but migration.

Every flag but --config is a field of the configuration file, and overrides it. When the daemon stops, or is killed, packets
go on; started again, it takes up where it was.`,
		Example: `  ip6d serve
  ip6d serve --config /etc/ip6d/ip6d.yaml`,
		Args: cobra.NoArgs,
	}
	settings.flags(command)
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		checked, err := settings.check(c, cmd)
		if err != nil {
			return err
		}
		return serve(cmd.Context(), checked, slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: checked.LogLevel})))
	}
	return command
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, c config.Config, log *slog.Logger) error {
	d, err := openDaemon(ctx, c, log)
	if err != nil {
		return err
	}
	return errors.Join(d.run(ctx), d.close())
}
