package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"ip6d/api"
	"ip6d/audit"
	"ip6d/certificate"
	"ip6d/config"
	"ip6d/hwmap"
	"ip6d/hwmap/witness"
	"ip6d/nat"
)

// daemon is what `ip6d serve` is made of.
type daemon struct {
	config config.Config
	log    *slog.Logger
	tasks  []task

	truth, fleet, cache hwmap.Store           // standalone, the fleet's store is the truth and there is no cache
	identity            *certificate.Identity // by which other hosts know this one; nil standalone
	witness             *witness.File
	databases           []api.Database
	operations          *operations // on the stores
	kernel              kernelSide
	hwmap               *hwmap.Map
	events              nat.Feed
	audit               *audit.Auditor

	closers []func() error // of what was opened, in that order
}

// openDaemon opens everything in the order in which one part needs the others. What it cannot do it says before it makes
// anything, as far as that can be known; a failure closes what was opened.
func openDaemon(ctx context.Context, c config.Config, log *slog.Logger) (_ *daemon, err error) {
	d := &daemon{config: c, log: log}
	defer func() {
		if err == nil {
			return
		}
		if errors.Is(err, unix.EPERM) && !errors.Is(err, nat.ErrPermission) { // which says so itself
			err = fmt.Errorf("%w; run as root, or give the service the capabilities of packaging/ip6d.service", err)
		}
		err = errors.Join(err, d.kernel.undo(), d.close())
	}()
	if err := nat.CheckRequirements(c.BPFDir); err != nil {
		return nil, err
	}
	if err := checkSocket(c.Socket); err != nil {
		return nil, err
	}
	if err := d.lockNamespace(); err != nil {
		return nil, err
	}
	if err := d.openAgent(); err != nil {
		return nil, err
	}
	if err := d.openStores(ctx); err != nil {
		return nil, err
	}
	if err := d.checkOwner(ctx); err != nil {
		return nil, err
	}
	if err := d.openDatapath(); err != nil {
		return nil, err
	}
	if err := d.openMap(ctx); err != nil {
		return nil, err
	}
	return d, d.listen(ctx)
}

// opened has close called when the daemon closes.
func (d *daemon) opened(close func() error) { d.closers = append(d.closers, close) }

// mapOptions are the options of the hardware map that the configuration gives.
func (d *daemon) mapOptions() hwmap.Options {
	c := d.config
	o := hwmap.Options{
		Plan: c.Plan, Cell: c.Cell,
		Self:       hwmap.Host{ID: c.Host, Name: c.Name, Identity: c.Identity},
		Quarantine: c.Quarantine, Now: time.Now, Logger: d.log,
	}
	if !c.Standalone() {
		o.Cluster = c.Cluster
		o.Self.Underlay, o.Self.Peer = c.UnderlayAddress.Addr(), c.UnderlayAddress
	}
	if d.identity != nil {
		o.Self.PeerKey = d.identity.Fingerprint()
	}
	if w := d.kernel.wireGuard; w != nil {
		o.Self.WireGuardKey, o.Self.Endpoint = w.Key.Public(), c.UnderlayEndpoint
	}
	return o
}

// openMap opens the hardware map, which brings the kernel to what it says.
func (d *daemon) openMap(ctx context.Context) error {
	o := d.mapOptions()
	o.Truth, o.Fleet, o.Cache, o.Witness = d.truth, d.fleet, d.cache, d.witness
	o.Datapath, o.Ports = d.kernel.datapath, &ports{d.kernel.agent, d.log}
	var locals hwmap.AskLocals
	if !d.config.Standalone() {
		peers := api.NewPeers(api.PeersOptions{Source: o.Self.Underlay, Identity: d.identity})
		d.opened(func() error { peers.Close(); return nil })
		o.Peers, locals = peers, peers.Locals
	}
	var err error
	if d.hwmap, err = hwmap.Open(ctx, o); err != nil {
		return err
	}
	d.tasks = append(d.tasks, d.kernel.agent, mapTask{d.hwmap}, &eventsTask{d.kernel.datapath, d.config.Plan, &d.events, d.hwmap})
	d.kernel.takeLosses(ctx, d.hwmap)
	d.audit = newAuditor(audit.Options{Version: version(), Host: o.Self.ID, Cluster: o.Cluster, Logger: d.log}, d.hwmap, d.kernel.datapath, d.kernel.agent, locals)
	if d.config.Audit > 0 {
		d.tasks = append(d.tasks, auditTask{d.audit, d.config.Audit})
	}
	return nil
}

// listen opens the ways in. Nothing is answered on them before the host carries packets.
func (d *daemon) listen(ctx context.Context) error {
	carries := d.kernel.agent.Ready()
	l, err := listenAPI(d.config.Socket, socketGroup, d.log)
	if err != nil {
		return err
	}
	d.opened(l.Close)
	mux := http.NewServeMux()
	mux.Handle("/", api.NewHandler(api.HandlerOptions{
		Map: d.hwmap, Version: version(), Endpoints: d.config.Endpoints, Datapath: d.kernel.datapath, Events: &d.events,
		Databases: d.databases, Firewall: d.kernel.agent.FirewallWarnings, Logger: d.log, Audit: d.audit, Trace: traced(d.hwmap, d.kernel.datapath),
	}))
	metrics := d.metricsHandler()
	mux.Handle(metricsPath, metrics)
	d.tasks = append(d.tasks, newServer("API", api.NewServer(mux, d.log), l, carries))
	if d.config.API.IsValid() {
		if l, err = listenTLS(ctx, d.config, d.log); err != nil {
			return err
		}
		d.opened(l.Close)
		d.tasks = append(d.tasks, newServer("API for other computers", api.NewServer(mux, d.log), l, carries))
	}
	if d.config.Metrics.IsValid() {
		if l, err = listenMetrics(ctx, d.config.Metrics); err != nil {
			return err
		}
		d.opened(l.Close)
		mux := http.NewServeMux() // and nothing else: who may look at numbers may not change machines
		mux.Handle(metricsPath, metrics)
		d.tasks = append(d.tasks, newServer("metrics", api.NewServer(mux, d.log), l, carries))
	}
	if d.config.Standalone() {
		return nil
	}
	if l, err = listenPeers(ctx, d.config.UnderlayAddress); err != nil {
		return err
	}
	l = api.NewPeerListener(l, d.identity)
	d.opened(l.Close)
	d.tasks = append(d.tasks, newServer("API for other hosts", api.NewServer(api.NewPeerHandler(d.hwmap, d.log), d.log), l, carries))
	return nil
}

// run runs the daemon until ctx ends. Packets go on after it.
func (d *daemon) run(ctx context.Context) error {
	defer d.kernel.lost.Wait()
	err := runTasks(ctx, d.tasks, func() error {
		d.log.Info("ready", "host", d.config.Host, "name", d.config.Name, "socket", d.config.Socket)
		_, err := systemd.SdNotify(false, systemd.SdNotifyReady)
		return err
	})
	_, notifyErr := systemd.SdNotify(false, systemd.SdNotifyStopping)
	return errors.Join(err, notifyErr)
}

// close closes what was opened, the last first.
func (d *daemon) close() error {
	var errs []error
	for _, close := range slices.Backward(d.closers) {
		if err := close(); !errors.Is(err, net.ErrClosed) { // a server closes its listener itself
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
