package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ip6d/api"
	"ip6d/certificate"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/witness"
)

// The databases in the state directory: this host's own, and the fleet's map as last seen.
const truth, cache = "host.db", "map.db"

// openStores opens the databases and the fleet's store. On the first start of a host the store must answer before
// anything is made.
func (d *daemon) openStores(ctx context.Context) error {
	d.operations = newOperations(d.config.Slow, d.log)
	if !d.config.Standalone() {
		fleet, err := d.openFleet(ctx)
		if err != nil {
			return err
		}
		d.opened(fleet.Close)
		d.fleet = fleet
		if _, err := os.Stat(filepath.Join(d.config.StateDir, cache)); errors.Is(err, fs.ErrNotExist) {
			if _, err := fleet.ID(ctx); err != nil {
				return fmt.Errorf("%w; a host needs the store when it first starts: check store.endpoints %v", err, d.config.Endpoints)
			}
		}
	}
	opened, err := d.openDatabase(truth)
	if err != nil {
		return err
	}
	d.truth, d.witness = opened, witness.New(filepath.Join(d.config.StateDir, truth+".witness"))
	d.opened(d.witness.Close)
	if d.config.Standalone() {
		d.fleet = opened
		return nil
	}
	if err := d.loadIdentity(); err != nil {
		return err
	}
	if opened, err = d.openDatabase(cache); err != nil {
		return fmt.Errorf("%w (this one holds only what the fleet's store has too, and can be removed)", err)
	}
	d.cache = opened
	return nil
}

// loadIdentity reads the key by which other hosts know this one, or makes it.
func (d *daemon) loadIdentity() (err error) {
	d.identity, err = certificate.LoadIdentity(filepath.Join(d.config.StateDir, "peer.key"))
	return err
}

// openDatabase opens the database of that name in the state directory, which the daemon then takes care of.
func (d *daemon) openDatabase(name string) (*bolt.Store, error) {
	path := filepath.Join(d.config.StateDir, name)
	observe, slow := d.operations.ofDatabase(name)
	s, err := bolt.Open(bolt.Options{Path: path, Logger: d.log, Observe: observe})
	if err != nil {
		return nil, err
	}
	d.opened(s.Close)
	d.databases = append(d.databases, api.Database{Name: name, Path: path, Store: s, Slow: slow})
	d.tasks = append(d.tasks, compactionTask{s, name})
	return s, nil
}

// compactionTask compacts a database when it is due.
type compactionTask struct {
	*bolt.Store
	name string
}

func (t compactionTask) String() string { return "compaction of " + t.name }

func (compactionTask) Ready() <-chan struct{} { return readyAtOnce() }

// checkOwner refuses a database that other settings made, before the datapath is touched: packets flow by what is there.
func (d *daemon) checkOwner(ctx context.Context) error {
	_, err := hwmap.CheckOwner(ctx, d.truth, d.mapOptions().Owner())
	return err
}

// openFleet opens the fleet's store.
func (d *daemon) openFleet(ctx context.Context) (*etcd.Store, error) {
	c := d.config
	o := etcd.Options{Endpoints: c.Endpoints, Cluster: c.Cluster, Logger: d.log, Observe: d.operations.ofStore()}
	if strings.HasPrefix(c.Endpoints[0], "https://") {
		files, err := certificate.Open(c.StoreFiles, d.log)
		if err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		o.TLS = files.Client
	}
	return etcd.Open(ctx, o)
}
