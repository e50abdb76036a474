package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"ip6d/api"
	"ip6d/audit"
	"ip6d/hwmap"
)

// metricsPath is where Prometheus looks, on the API's socket and on the address of its own.
const metricsPath = "/metrics"

// metrics are what the daemon tells Prometheus. They are read when it asks, and none is about one machine: no series
// outlives what it is about.
type metrics struct {
	datapath api.Datapath
	status   func() hwmap.Status
	audit    func() audit.Summary

	dropped, eventsLost           *prometheus.Desc
	mapEntries, mapMaxEntries     *prometheus.Desc
	machines, inDoubt, idsFree    *prometheus.Desc
	following, revision, suspect  *prometheus.Desc
	hintsSent, hintsHeeded, build *prometheus.Desc

	auditDifferences, auditTime, auditDuration *prometheus.Desc
}

func newMetrics(datapath api.Datapath, status func() hwmap.Status, audit func() audit.Summary, version string) *metrics {
	describe := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("ip6d_"+name, help, labels, nil)
	}
	return &metrics{
		datapath: datapath,
		status:   status,
		audit:    audit,

		dropped:       describe("dropped_packets_total", "Packets that the datapath refused, by reason.", "reason"),
		eventsLost:    describe("drop_events_lost_total", "Events that nobody who monitors gets: ring_full, nobody read them in time; sampled, too many at once.", "cause"),
		mapEntries:    describe("map_entries", "Entries of the datapath's maps.", "map"),
		mapMaxEntries: describe("map_max_entries", "Entries that the datapath's maps have room for.", "map"),
		machines:      describe("machines", "Machines of this host, by state.", "state"),
		inDoubt:       describe("machines_in_doubt", "Machines whose switchover is in doubt."),
		idsFree:       describe("ids_free", "Ids left in this host's blocks."),
		following:     describe("store_following", "1 while the fleet's store is followed, else 0."),
		revision:      describe("store_revision", "Revision of the fleet's store that the datapath's maps reflect."),
		suspect:       describe("suspect", "1 while it may be an older copy, and nothing is issued or moved until an operator accepts it.", "what"),
		hintsSent:     describe("hints_sent_total", "Hints that other hosts took: that what they know of a machine may be old."),
		hintsHeeded:   describe("hints_heeded_total", "Hints of other hosts upon which a record was read again."),

		auditDifferences: describe("audit_differences", "Differences between what this host's layers say, by kind, as the last audit in the background found them.", "kind"),
		auditTime:        describe("audit_timestamp_seconds", "When the last audit in the background ended."),
		auditDuration:    describe("audit_duration_seconds", "How long the last audit in the background took."),

		build: prometheus.NewDesc("ip6d_build_info", "The daemon's version; always 1.", nil,
			prometheus.Labels{"version": version, "go_version": runtime.Version()}),
	}
}

// machineStates are the states that machines are counted in.
func machineStates() []hwmap.LocalState {
	return []hwmap.LocalState{hwmap.Here, hwmap.Leaving, hwmap.Switching, hwmap.Away, hwmap.Incoming, hwmap.Destroying, hwmap.Issued, hwmap.Quarantined}
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, to) }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	if drops, err := m.datapath.Drops(); err != nil {
		to <- prometheus.NewInvalidMetric(m.dropped, err)
	} else {
		for _, d := range drops {
			counter(m.dropped, d.Packets, d.Reason)
		}
	}
	if lost, err := m.datapath.EventsLost(); err != nil {
		to <- prometheus.NewInvalidMetric(m.eventsLost, err)
	} else {
		counter(m.eventsLost, lost.RingFull, "ring_full")
		counter(m.eventsLost, lost.Sampled, "sampled")
	}
	for _, f := range m.datapath.Fill() {
		gauge(m.mapEntries, f.Entries, f.Map)
		gauge(m.mapMaxEntries, f.Size, f.Map)
	}
	s := m.status()
	for _, state := range machineStates() {
		gauge(m.machines, s.Machines[state], string(state))
	}
	gauge(m.inDoubt, len(s.InDoubt))
	gauge(m.idsFree, s.IDsFree)
	is := map[bool]int{true: 1}
	gauge(m.following, is[s.Following])
	gauge(m.suspect, is[s.DatabaseSuspect != ""], "database")
	gauge(m.suspect, is[s.StoreSuspect != ""], "store")
	gauge(m.revision, int(s.Revision))
	counter(m.hintsSent, s.HintsSent)
	counter(m.hintsHeeded, s.HintsHeeded)
	if last := m.audit(); !last.Time.IsZero() {
		for kind, n := range last.Differences {
			gauge(m.auditDifferences, n, string(kind))
		}
		to <- prometheus.MustNewConstMetric(m.auditTime, prometheus.GaugeValue, float64(last.Time.UnixMilli())/1000)
		to <- prometheus.MustNewConstMetric(m.auditDuration, prometheus.GaugeValue, last.Took.Seconds())
	}
	gauge(m.build, 1)
}

// metricsHandler serves the daemon's metrics.
func (d *daemon) metricsHandler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(newMetrics(d.kernel.datapath, d.hwmap.Status, d.audit.Last, version()), newDatabaseMetrics(d.databases))
	registry.MustRegister(d.operations.collectors()...)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelWarn)})
}

// listenMetrics listens for Prometheus.
func listenMetrics(ctx context.Context, a netip.AddrPort) (net.Listener, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", a.String())
	if err != nil {
		return nil, fmt.Errorf("listen for Prometheus: %w; correct metrics in the configuration", err)
	}
	return l, nil
}
