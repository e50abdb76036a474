package api

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"

	"ip6d/api/ip6d/v1/ip6dv1connect"
)

// DefaultSocket is where the daemon listens unless told otherwise.
const DefaultSocket = "/run/ip6d/ip6d.sock"

// Client calls the daemon of one host. Its errors are *connect.Error.
type Client struct {
	Machines   ip6dv1connect.MachineServiceClient
	Migrations ip6dv1connect.MigrationServiceClient
	Hosts      ip6dv1connect.HostServiceClient
	Suspects   ip6dv1connect.SuspectServiceClient
	Databases  ip6dv1connect.DatabaseServiceClient
	Audits     ip6dv1connect.AuditServiceClient
	Events     ip6dv1connect.EventServiceClient

	http *http.Client
}

// NewClient returns a client of the daemon that listens on the unix socket. It connects when it is first used.
func NewClient(socket string) *Client {
	return newClient("http://ip6d", &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}})
}

// NewTLSClient returns a client of the daemon at url, https://HOST:PORT. settings have the client's certificate.
func NewTLSClient(url string, settings *tls.Config) *Client {
	return newClient(url, &http.Transport{TLSClientConfig: settings, ForceAttemptHTTP2: true})
}

func newClient(url string, transport *http.Transport) *Client {
	h := &http.Client{Transport: transport}
	return &Client{
		Machines:   ip6dv1connect.NewMachineServiceClient(h, url),
		Migrations: ip6dv1connect.NewMigrationServiceClient(h, url),
		Hosts:      ip6dv1connect.NewHostServiceClient(h, url),
		Suspects:   ip6dv1connect.NewSuspectServiceClient(h, url),
		Databases:  ip6dv1connect.NewDatabaseServiceClient(h, url),
		Audits:     ip6dv1connect.NewAuditServiceClient(h, url),
		Events:     ip6dv1connect.NewEventServiceClient(h, url),
		http:       h,
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }
