package main

import (
	"log/slog"
	"net/url"

	"github.com/spf13/cobra"

	"ip6d/api"
	"ip6d/certificate"
)

// remote is how to reach the daemon of another host: see api in the configuration of that host.
type remote struct {
	address          string // https://HOST:PORT; empty: the daemon on this host, by its socket
	certificate, key string // files of whoever runs this command
	ca               string // file of the authorities of the daemon's certificate
}

func (r *remote) flags(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&r.address, "address", "", "https://HOST:PORT of another host's daemon, instead of --socket")
	flags.StringVar(&r.certificate, "certificate", "", "file of your certificate, in PEM, for --address")
	flags.StringVar(&r.key, "key", "", "file of its key")
	flags.StringVar(&r.ca, "ca", "", "file of the authorities of the daemon's certificate (default: those of the system)")
}

// client returns a client of the daemon that the command line names.
func (c *cli) client() (*api.Client, error) {
	r := c.remote
	if r.address == "" {
		if r.certificate != "" || r.key != "" || r.ca != "" {
			return nil, usagef("--certificate, --key and --ca are for --address https://HOST:PORT; the socket needs none")
		}
		return api.NewClient(c.socket), nil
	}
	u, err := url.Parse(r.address)
	if err != nil || u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" || u.Path != "" && u.Path != "/" {
		return nil, usagef("--address %q: must be https://HOST:PORT", r.address)
	}
	if r.certificate == "" || r.key == "" {
		return nil, usagef("--address needs --certificate and --key: the daemon answers nobody without")
	}
	files, err := certificate.Open(certificate.Paths{Certificate: r.certificate, Key: r.key, Authorities: r.ca}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return api.NewTLSClient("https://"+u.Host, files.Client()), nil
}

// where names the daemon that the command line means.
func (c *cli) where() string {
	if c.remote.address != "" {
		return c.remote.address
	}
	return c.socket
}
