package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"ip6d/config"
	"ip6d/hwmap"
)

func newHostJoinCommand(c *cli) *cobra.Command {
	settings := new(settings)
	command := &cobra.Command{
		Use:   "join [--config FILE]",
		Short: "Claim this server's hardware id in the fleet's store",
		Long: `Claim this server's hardware id in the fleet's store, with the server's identity: the machine id, and its keys for other hosts.
Another server that claims the same id is refused.

ip6d serve does the same when it starts, but for a host that was removed: that becomes a member again by this command alone,
on the server itself. It needs no daemon, changes nothing on this server but that it makes the keys that are not there yet, and
can be repeated. The flags are those of ip6d serve.`,
		Example: `  ip6d host join --config /etc/ip6d/ip6d.yaml`,
		Args:    cobra.NoArgs,
	}
	settings.flags(command)
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		checked, err := settings.check(c, cmd)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), c.patience)
		defer cancel()
		h, err := joinFleet(ctx, checked, slog.New(slog.NewTextHandler(c.stderr, &slog.HandlerOptions{Level: slog.LevelError})))
		if err != nil {
			return err
		}
		return c.print(joinedAnswer{uint32(h.ID), h.Name, h.Identity, string(h.State)}, func(t *table) {
			t.row("host", h.ID)
			t.row("name", h.Name)
			t.row("state", h.State)
			t.row("identity", h.Identity)
		})
	}
	return command
}

// joinedAnswer is the answer of `host join`.
type joinedAnswer struct {
	Host     uint32 `json:"host"`
	Name     string `json:"name"`
	Identity string `json:"identity"`
	State    string `json:"state"`
}

// joinFleet claims the id of the settings in the fleet's store.
func joinFleet(ctx context.Context, c config.Config, log *slog.Logger) (_ hwmap.Host, err error) {
	if c.Standalone() {
		return hwmap.Host{}, usagef("a standalone host has no fleet to join: name the fleet's store in store.endpoints")
	}
	d := &daemon{config: c, log: log, operations: newOperations(c.Slow, log)}
	if err := d.loadIdentity(); err != nil {
		return hwmap.Host{}, err
	}
	if c.UnderlayEndpoint.IsValid() {
		if d.kernel.wireGuard, err = openWireGuard(c); err != nil {
			return hwmap.Host{}, err
		}
	}
	o := d.mapOptions()
	fleet, err := d.openFleet(ctx)
	if err != nil {
		return hwmap.Host{}, err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	o.Fleet = fleet
	_, missing := os.Stat(filepath.Join(c.StateDir, truth))
	h, err := hwmap.Join(ctx, o, errors.Is(missing, fs.ErrNotExist))
	if errors.Is(err, hwmap.ErrUnavailable) {
		err = fmt.Errorf("%w; check store.endpoints %v", err, c.Endpoints)
	}
	return h, err
}
