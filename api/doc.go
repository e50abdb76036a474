// Package api is ip6d's API: Connect services, described in ip6d/v1/*.proto, that speak gRPC, gRPC-Web and JSON over
// HTTP on one handler. Client is the Go client; the Handler constructors serve a hwmap.Map.
//
// An orchestrator talks to the daemon's unix socket (machines, migrations, hosts). Daemons talk to each other over the
// underlay (peers), about nothing that they could not read from the store themselves.
package api
