package main

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// operations times what the daemon asks of its databases and of the fleet's store, counts what was slow and logs it.
type operations struct {
	slow time.Duration // what takes longer is slow
	log  *slog.Logger

	databaseTook, storeTook *prometheus.HistogramVec
	databaseSlow, storeSlow *prometheus.CounterVec
}

// slowLogRate is how many slow operations a second are logged, of each database: a slow disk makes many.
const slowLogRate = 1

func newOperations(slow time.Duration, log *slog.Logger) *operations {
	const store, database = "ip6d_store_", "ip6d_database_"
	took := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name + "operation_seconds", Help: help,
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10},
		}, labels)
	}
	counted := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name + "slow_operations_total", Help: help}, labels)
	}
	return &operations{
		slow: slow, log: log,
		databaseTook: took(database, "How long operations on this host's databases took.", "database", "operation"),
		databaseSlow: counted(database, "Operations on this host's databases that took longer than the setting database.slow.", "database", "operation"),
		storeTook:    took(store, "How long operations on the fleet's store took.", "operation"),
		storeSlow:    counted(store, "Operations on the fleet's store that took longer than the setting database.slow.", "operation"),
	}
}

// collectors are what Prometheus is told from.
func (o *operations) collectors() []prometheus.Collector {
	return []prometheus.Collector{o.databaseTook, o.databaseSlow, o.storeTook, o.storeSlow}
}

// ofDatabase returns what is told of each operation on a database, and what says how many were slow.
func (o *operations) ofDatabase(name string) (observe func(string, time.Duration), slow func() uint64) {
	labels := prometheus.Labels{"database": name}
	log := o.log.With("database", name)
	return o.of(log, o.databaseTook.MustCurryWith(labels).(*prometheus.HistogramVec), o.databaseSlow.MustCurryWith(labels))
}

// ofStore returns what is told of each operation on the fleet's store.
func (o *operations) ofStore() (observe func(string, time.Duration)) {
	observe, _ = o.of(o.log, o.storeTook, o.storeSlow)
	return observe
}

func (o *operations) of(log *slog.Logger, took *prometheus.HistogramVec, slow *prometheus.CounterVec) (func(string, time.Duration), func() uint64) {
	histograms, counters := make(map[string]prometheus.Observer), make(map[string]prometheus.Counter)
	for _, operation := range []string{"commit", "get", "list"} { // which are there from the beginning, at zero
		histograms[operation], counters[operation] = took.WithLabelValues(operation), slow.WithLabelValues(operation)
	}
	var count atomic.Uint64
	limit := rate.NewLimiter(slowLogRate, 1)
	return func(operation string, d time.Duration) {
		histograms[operation].Observe(d.Seconds())
		if d <= o.slow {
			return
		}
		counters[operation].Inc()
		if n := count.Add(1); limit.Allow() {
			log.Warn("slow operation", "operation", operation, "took", d, "count", n)
		}
	}, count.Load
}
