package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"ip6d/api"
)

// databaseMetrics tell Prometheus how large the databases are.
type databaseMetrics struct {
	databases  []api.Database
	size, free *prometheus.Desc
}

func newDatabaseMetrics(databases []api.Database) *databaseMetrics {
	describe := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("ip6d_database_"+name, help, []string{"database"}, nil)
	}
	return &databaseMetrics{
		databases: databases,
		size:      describe("size_bytes", "Size of a database's file."),
		free:      describe("free_bytes", "How much of a database's file is free, and used again or given back by a compaction."),
	}
}

// Describe implements prometheus.Collector.
func (m *databaseMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.size
	to <- m.free
}

// Collect implements prometheus.Collector.
func (m *databaseMetrics) Collect(to chan<- prometheus.Metric) {
	for _, d := range m.databases {
		s, err := d.Store.Space(context.Background())
		if err != nil {
			to <- prometheus.NewInvalidMetric(m.size, err)
			continue
		}
		to <- prometheus.MustNewConstMetric(m.size, prometheus.GaugeValue, float64(s.Size), d.Name)
		to <- prometheus.MustNewConstMetric(m.free, prometheus.GaugeValue, float64(s.FreePages)*float64(s.PageSize), d.Name)
	}
}
