// The daemon of the soak: a real hardware map, with real databases, a real client of etcd and the real APIs, and the
// kernel's side in the process that started it. It ends when that has gone.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"ip6d/addr"
	"ip6d/api"
	"ip6d/audit"
	"ip6d/certificate"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/witness"
	"ip6d/integration/soak/kernel"
	"ip6d/nat"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "daemon:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var s kernel.Settings
	if err := json.Unmarshal([]byte(os.Getenv(kernel.SettingsEnv)), &s); err != nil {
		return fmt.Errorf("read %s: %w", kernel.SettingsEnv, err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))
	remote, err := kernel.Dial(s.Kernel)
	if err != nil {
		return err
	}
	remote.Gone = func() { os.Exit(1) }
	truth, err := bolt.Open(bolt.Options{Path: filepath.Join(s.Dir, "host.db"), Logger: log})
	if err != nil {
		return err
	}
	cache, err := bolt.Open(bolt.Options{Path: filepath.Join(s.Dir, "map.db"), Logger: log})
	if err != nil {
		return err
	}
	fleet, err := etcd.Open(ctx, etcd.Options{Endpoints: s.Endpoints, Cluster: kernel.Cluster, Logger: log})
	if err != nil {
		return err
	}
	identity, err := certificate.LoadIdentity(filepath.Join(s.Dir, "peer.key"))
	if err != nil {
		return err
	}
	peers := api.NewPeers(api.PeersOptions{Source: s.Address.Addr(), Identity: identity})
	m, err := hwmap.Open(ctx, hwmap.Options{
		Plan: addr.DefaultPlan, Cell: kernel.Cell, Cluster: kernel.Cluster,
		Self: hwmap.Host{
			ID: s.Host, Name: fmt.Sprintf("host%d", s.Host), Identity: fmt.Sprintf("identity-%d", s.Host),
			Underlay: s.Address.Addr(), Peer: s.Address, PeerKey: identity.Fingerprint(),
		},
		Truth: truth, Fleet: fleet, Cache: cache, Witness: witness.New(filepath.Join(s.Dir, "host.db.witness")), Datapath: remote, Ports: remote, Peers: peers,
		Quarantine: s.Quarantine, Now: time.Now, Logger: log,
	})
	if err != nil {
		return err
	}
	return serve(ctx, s, m, identity, truth, cache, log)
}

// serve runs the map and its APIs.
func serve(ctx context.Context, s kernel.Settings, m *hwmap.Map, identity *certificate.Identity, truth, cache hwmap.Store, log *slog.Logger) error {
	if err := os.Remove(s.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	local, err := net.Listen("unix", s.Socket)
	if err != nil {
		return err
	}
	others, err := net.Listen("tcp", s.Address.String())
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", api.NewHandler(api.HandlerOptions{
		Map: m, Datapath: noDatapath{}, Logger: log,
		Audit: audit.NewAuditor(audit.Options{Host: s.Host, Cluster: kernel.Cluster, Sources: []audit.Source{hwmap.Audit{Map: m}}, Logger: log}),
		Trace: func(context.Context, addr.ID) (audit.Trace, error) { return audit.Trace{}, errors.ErrUnsupported },
	}))
	mux.HandleFunc(kernel.DatabasesPath, func(w http.ResponseWriter, r *http.Request) {
		if err := writeDatabases(r.Context(), w, truth, cache); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.Run(ctx) })
	g.Go(func() error { return api.NewServer(mux, log).Serve(local) })
	g.Go(func() error {
		return api.NewServer(api.NewPeerHandler(m, log), log).Serve(api.NewPeerListener(others, identity))
	})
	return g.Wait()
}

// writeDatabases tells what is in the truth and the cache.
func writeDatabases(ctx context.Context, w http.ResponseWriter, truth, cache hwmap.Store) (err error) {
	var d kernel.Databases
	if d.Truth, _, err = truth.List(ctx, ""); err != nil {
		return err
	}
	if d.Cache, _, err = cache.List(ctx, "map/"); err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(d)
}

// noDatapath refuses no packets, because it sees none.
type noDatapath struct{}

func (noDatapath) Drops() ([]nat.Drop, error)          { return nil, nil }
func (noDatapath) EventsLost() (nat.EventsLost, error) { return nat.EventsLost{}, nil }
func (noDatapath) Fill() []nat.Fill                    { return nil }
