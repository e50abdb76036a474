package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"ip6d/config"
)

// settings are a host's settings on a command line: the configuration file, and what overrides its fields.
type settings struct {
	path      string
	overrides []func(*config.File)
	endpoints []string
}

// flags adds the flags of the settings to a command.
func (s *settings) flags(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVar(&s.path, "config", "", "configuration file, in YAML")
	for _, f := range []struct {
		name, usage string
		field       func(*config.File) *string
	}{
		{"host", "the hardware id of this host, unique in the fleet", func(f *config.File) *string { return &f.Host }},
		{"name", "the name of this host (default: the host name)", func(f *config.File) *string { return &f.Name }},
		{"identity", "what the hardware id is claimed with (default: the machine id)", func(f *config.File) *string { return &f.Identity }},
		{"cell", "the region that issues addresses", func(f *config.File) *string { return &f.Cell }},
		{"prefixes-stable", "the fleet's prefix of stable addresses", func(f *config.File) *string { return &f.Prefixes.Stable }},
		{"prefixes-routing", "the fleet's prefix of routing addresses", func(f *config.File) *string { return &f.Prefixes.Routing }},
		{"api-address", "address and port of the API for other computers, with TLS (default: on the socket only)", func(f *config.File) *string { return &f.API.Address }},
		{"api-certificate", "file of this host's certificate there", func(f *config.File) *string { return &f.API.Certificate }},
		{"api-key", "file of its key", func(f *config.File) *string { return &f.API.Key }},
		{"api-client-ca", "file of the authorities whose clients may do everything", func(f *config.File) *string { return &f.API.ClientCA }},
		{"state-dir", "directory of the databases (default " + config.DefaultStateDir + ")", func(f *config.File) *string { return &f.StateDir }},
		{"bpf-dir", "directory of the pinned datapath (default " + config.DefaultBPFDir + ")", func(f *config.File) *string { return &f.BPFDir }},
		{"underlay-type", "device (one that is there) or wireguard (a mesh that ip6d keeps)", func(f *config.File) *string { return &f.Underlay.Type }},
		{"underlay-device", "device that leads to the other hosts", func(f *config.File) *string { return &f.Underlay.Device }},
		{"underlay-address", "this host's address on it", func(f *config.File) *string { return &f.Underlay.Address }},
		{"underlay-verify-mac", "true: refuse what a neighbour sends in another host's name", func(f *config.File) *string { return &f.Underlay.VerifyMAC }},
		{"underlay-endpoint", "ADDRESS:PORT where WireGuard of the other hosts finds this one", func(f *config.File) *string { return &f.Underlay.Endpoint }},
		{"underlay-mtu", "MTU of the WireGuard mesh (default 1420)", func(f *config.File) *string { return &f.Underlay.MTU }},
		{"underlay-port", "TCP port for the daemons of other hosts", func(f *config.File) *string { return &f.Underlay.Port }},
		{"store-cluster", "the fleet's name in etcd", func(f *config.File) *string { return &f.Store.Cluster }},
		{"store-ca", "file of the authorities of the etcd members (default: those of the system)", func(f *config.File) *string { return &f.Store.CA }},
		{"store-certificate", "file of this host's certificate for etcd", func(f *config.File) *string { return &f.Store.Certificate }},
		{"store-key", "file of its key", func(f *config.File) *string { return &f.Store.Key }},
		{"sizes-machines", "room in the kernel's maps for machines on this host", func(f *config.File) *string { return &f.Sizes.Machines }},
		{"sizes-blocks", "room for blocks of the fleet", func(f *config.File) *string { return &f.Sizes.Blocks }},
		{"sizes-hosts", "room for hosts of the fleet", func(f *config.File) *string { return &f.Sizes.Hosts }},
		{"database-slow", "what takes longer in the databases or the store is counted and logged (default 100ms)", func(f *config.File) *string { return &f.Database.Slow }},
		{"audit", "how often the layers of this host are compared in the background; 0: never (default 10m)", func(f *config.File) *string { return &f.Audit }},
		{"quarantine", "how long the id of a destroyed machine is not used again", func(f *config.File) *string { return &f.Quarantine }},
		{"metrics", "address and port for Prometheus, such as [::1]:9446 (default: on the socket only)", func(f *config.File) *string { return &f.Metrics }},
		{"log-level", "debug, info, warn or error", func(f *config.File) *string { return &f.LogLevel }},
	} {
		flags.Func(f.name, f.usage, func(value string) error {
			s.overrides = append(s.overrides, func(file *config.File) { *f.field(file) = value })
			return nil
		})
	}
	flags.StringSliceVar(&s.endpoints, "store-endpoints", nil, "URLs of the etcd members; none: standalone")
}

// check returns the settings as they are meant, when the command line has been read.
func (s *settings) check(c *cli, cmd *cobra.Command) (config.Config, error) {
	var file config.File
	if s.path != "" {
		var err error
		if file, err = config.ReadFile(s.path); err != nil {
			return config.Config{}, err
		}
	}
	for _, override := range s.overrides {
		override(&file)
	}
	if cmd.Flags().Changed("store-endpoints") {
		file.Store.Endpoints = s.endpoints
	}
	if cmd.Flags().Changed("socket") {
		file.Socket = c.socket
	}
	checked, err := file.Check(config.OS())
	switch {
	case err != nil && s.path == "":
		return config.Config{}, usagef("%w", err) // only the command line can be wrong
	case err != nil:
		return config.Config{}, fmt.Errorf("%s, with the flags: %w", s.path, err)
	}
	return checked, nil
}
