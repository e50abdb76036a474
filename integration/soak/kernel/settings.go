package kernel

import (
	"net/netip"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// SettingsEnv is the environment variable that gives a daemon its Settings, in JSON.
const SettingsEnv = "IP6D_SOAK_DAEMON"

// What all daemons of a soak have in common.
const (
	Cluster           = "soak"
	Cell    addr.Cell = 1

	// DatabasesPath is where a daemon's socket answers with its Databases.
	DatabasesPath = "/databases"
)

// Settings are those of one daemon.
type Settings struct {
	Host       addr.Host
	Address    netip.AddrPort // on the underlay
	Dir        string         // of its databases
	Socket     string         // of its API
	Kernel     string         // the socket of its Kernel
	Endpoints  []string       // of etcd
	Quarantine time.Duration
}

// Databases are the records of a daemon's files.
type Databases struct{ Truth, Cache []hwmap.Entry }
