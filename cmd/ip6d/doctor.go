package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/spf13/cobra"

	"ip6d/addr"
	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/config"
	"ip6d/doctor"
	"ip6d/hwmap"
)

// defaultConfig is the configuration file of the packaged service.
const defaultConfig = "/etc/ip6d/ip6d.yaml"

func newDoctorCommand(c *cli) *cobra.Command {
	var path string
	command := &cobra.Command{
		Use:   "doctor [--config FILE]",
		Short: "Look for what keeps ip6d from serving this host, and say what to do",
		Long: fmt.Sprintf(`Look for what keeps ip6d from serving this host, and say what to do about it: the kernel, the underlay and the way to every
host, the clock, the store, the firewall, routes and programs of others. It needs no daemon and changes nothing.

Exit status: 0 nothing is wrong, %d there are warnings, %d there are errors.`, exitWarnings, exitErrors),
		Example: `  ip6d doctor
  ip6d doctor --config /etc/ip6d/ip6d.yaml -o json`,
		Args: cobra.NoArgs,
	}
	command.Flags().StringVar(&path, "config", "", "configuration file (default: "+defaultConfig+", where there is one)")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		findings := examine(cmd.Context(), c, path)
		if err := c.print(findings, func(t *table) {
			t.row("SEVERITY", "CHECK", "VALUE", "REMEDY")
			for _, f := range findings {
				t.row(f.Severity, f.Check, oneLine(f.Value), f.Remedy)
			}
		}); err != nil {
			return err
		}
		switch doctor.Worst(findings) {
		case doctor.Error:
			return &statusError{errors.New("there are errors"), exitErrors}
		case doctor.Warning:
			return &statusError{errors.New("there are warnings"), exitWarnings}
		}
		return nil
	}
	return command
}

func examine(ctx context.Context, c *cli, path string) []doctor.Finding {
	checked, configuration := readConfig(path)
	findings := []doctor.Finding{configuration}
	if configuration.Severity == doctor.Error { // what follows is about a host that there is not
		return findings
	}
	if c.socket == api.DefaultSocket {
		c.socket = checked.Socket
	}
	return append(findings, doctor.Examine(ctx, doctor.Options{Config: checked, Version: version(), Daemon: askDaemon(ctx, c)})...)
}

// readConfig reads the configuration as `ip6d serve` does.
func readConfig(path string) (config.Config, doctor.Finding) {
	const check = "configuration"
	var file config.File
	value := path
	if path == "" {
		value = "the defaults: a host on its own"
		if _, err := os.Stat(defaultConfig); !errors.Is(err, fs.ErrNotExist) {
			path, value = defaultConfig, defaultConfig
		}
	}
	if path != "" {
		var err error
		if file, err = config.ReadFile(path); err != nil {
			return config.Config{}, doctor.Finding{Check: check, Severity: doctor.Error, Value: err.Error(), Remedy: "correct the file"}
		}
	}
	checked, err := file.Check(config.OS())
	if err != nil {
		return config.Config{}, doctor.Finding{Check: check, Severity: doctor.Error, Value: value + ": " + err.Error(), Remedy: "correct the file"}
	}
	return checked, doctor.Finding{Check: check, Severity: doctor.OK, Value: value}
}

// askDaemon returns what the daemon says of itself; nil: none answers.
func askDaemon(ctx context.Context, c *cli) *doctor.Daemon {
	status, err := call(ctx, c, func(a *api.Client) unary[ip6dv1.GetStatusRequest, ip6dv1.GetStatusResponse] {
		return a.Hosts.GetStatus
	}, &ip6dv1.GetStatusRequest{})
	if err != nil {
		return nil
	}
	d := &doctor.Daemon{
		Version: status.Version, Following: status.Following, StoreError: status.StoreError, Firewall: status.Firewall,
		Fenced: status.Fenced, Suspect: status.DatabaseSuspect,
	}
	list, err := call(ctx, c, func(a *api.Client) unary[ip6dv1.ListHostsRequest, ip6dv1.ListHostsResponse] {
		return a.Hosts.ListHosts
	}, &ip6dv1.ListHostsRequest{})
	if err != nil {
		return d
	}
	d.Hosts = []hwmap.Host{}
	for _, h := range list.Hosts {
		underlay, _ := netip.ParseAddr(h.Underlay) // a host without one is not asked
		d.Hosts = append(d.Hosts, hwmap.Host{
			ID: addr.Host(h.Host), Name: h.Name, Identity: h.Identity, State: hwmap.HostState(h.State), Underlay: underlay,
			Peer: netip.AddrPortFrom(underlay, config.DefaultPort),
		})
	}
	return d
}
