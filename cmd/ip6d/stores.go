package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/witness"
)

// openStores opens the databases and the fleet's store. On the first start of a host the store must answer before
// anything is made.
func (d *daemon) openStores(ctx context.Context) error {
	truth := filepath.Join(d.config.StateDir, "host.db")
	cache := filepath.Join(d.config.StateDir, "map.db")
	if !d.config.Standalone() {
		fleet, err := etcd.Open(ctx, etcd.Options{Endpoints: d.config.Endpoints, Cluster: d.config.Cluster, Logger: d.log})
		if err != nil {
			return err
		}
		d.opened(fleet.Close)
		d.fleet = fleet
		if _, err := os.Stat(cache); errors.Is(err, fs.ErrNotExist) {
			if _, err := fleet.ID(ctx); err != nil {
				return fmt.Errorf("%w; a host needs the store when it first starts: check store.endpoints %v", err, d.config.Endpoints)
			}
		}
	}
	opened, err := bolt.Open(bolt.Options{Path: truth, Logger: d.log})
	if err != nil {
		return err
	}
	d.opened(opened.Close)
	d.truth, d.witness = opened, witness.New(truth+".witness")
	d.opened(d.witness.Close)
	if d.config.Standalone() {
		d.fleet = opened
		return nil
	}
	if opened, err = bolt.Open(bolt.Options{Path: cache, Logger: d.log}); err != nil {
		return fmt.Errorf("%w (this one holds only what the fleet's store has too, and can be removed)", err)
	}
	d.opened(opened.Close)
	d.cache = opened
	return nil
}

// checkOwner refuses a database that other settings made, before the datapath is touched: packets flow by what is there.
func (d *daemon) checkOwner(ctx context.Context) error {
	_, err := hwmap.CheckOwner(ctx, d.truth, d.mapOptions().Owner())
	return err
}
