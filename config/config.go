package config

import (
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"ip6d/addr"
	"ip6d/certificate"
	"ip6d/host"
	"ip6d/nat"
)

// ErrInvalid is wrapped by every error about a configuration.
var ErrInvalid = errors.New("invalid configuration")

// Config is a checked configuration.
type Config struct {
	Host     addr.Host // the hardware id
	Name     string
	Identity string // what the hardware id is claimed with
	Cell     addr.Cell
	Plan     addr.Plan

	StateDir string // absolute; host.db (the truth) and map.db (the fleet's map as last seen) are in it
	Socket   string // absolute path of the API's unix socket
	BPFDir   string // absolute; in a BPF file system

	API      netip.AddrPort    // where the API is offered to other computers, with TLS; the zero AddrPort: on Socket only
	APIFiles certificate.Paths // of the API; all three, where there is an address

	UnderlayDevice   string         // empty: no underlay
	UnderlayAddress  netip.AddrPort // where this host answers the others; the zero AddrPort without an underlay
	VerifyMAC        bool           // see nat.Options
	UnderlayMTU      int            // of the mesh, in bytes; only if the underlay is WireGuard
	UnderlayEndpoint netip.AddrPort // where WireGuard of the others finds this host; valid only if the underlay is WireGuard

	Endpoints []string // URLs of the fleet's store; none: standalone
	Cluster   string   // the fleet's name in it

	StoreFiles certificate.Paths // of this host as a client of the store; where it is not TLS, none

	Metrics netip.AddrPort // where Prometheus is answered; the zero AddrPort: on Socket only

	Sizes      nat.Sizes     // of the kernel's maps
	Quarantine time.Duration // before the id of a destroyed machine is used again
	Slow       time.Duration // what takes longer in the databases and the store is counted and logged
	Audit      time.Duration // how often this host is audited in the background; 0: never
	LogLevel   slog.Level
}

// Standalone reports whether the host belongs to no fleet.
func (c Config) Standalone() bool { return len(c.Endpoints) == 0 }

// The defaults that are the same everywhere; a test holds packaging/ip6d.yaml to them.
const (
	DefaultStateDir   = "/var/lib/ip6d"
	DefaultBPFDir     = "/sys/fs/bpf/ip6d"
	DefaultPort       = 6446
	DefaultCluster    = "default"
	DefaultWireGuard  = "ip6dwg" // the device
	DefaultMTU        = host.DefaultWireGuardMTU
	DefaultQuarantine = time.Hour
	DefaultSlow       = 100 * time.Millisecond
	DefaultAudit      = 10 * time.Minute

	defaultHost addr.Host = 1 // standalone only
	defaultCell addr.Cell = 1
)
