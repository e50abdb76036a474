package main

import (
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"ip6d/config"
	"ip6d/host"
)

// newWireGuardCommand is the process that the daemon starts where the kernel has no WireGuard. It is no user's to run.
func newWireGuardCommand(c *cli) *cobra.Command {
	var device string
	command := &cobra.Command{
		Use:    "wireguard --device NAME",
		Short:  "Be WireGuard where the kernel has none; `ip6d serve` starts it",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Whoever read what it says may end before it does.
			signal.Ignore(syscall.SIGPIPE)
			return host.ServeWireGuard(cmd.Context(), device, c.stdout, slog.New(slog.NewTextHandler(c.stderr, nil)))
		},
	}
	command.Flags().StringVar(&device, "device", "", "name of the device to make")
	if err := command.MarkFlagRequired("device"); err != nil {
		panic(err) // only for a flag that there is not
	}
	return command
}

// openWireGuard reads this host's key, or makes it.
func openWireGuard(c config.Config) (*host.WireGuard, error) {
	key, err := host.LoadPrivateKey(filepath.Join(c.StateDir, "wireguard.key"))
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return &host.WireGuard{
		Key:  key,
		Port: c.UnderlayEndpoint.Port(),
		MTU:  c.UnderlayMTU,
		Userspace: func(device string) *exec.Cmd {
			return exec.Command(program, "wireguard", "--device", device)
		},
	}, nil
}
