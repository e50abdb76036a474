package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestSlowOperationsAreCountedAndLoggedAtALimitedRate(t *testing.T) {
	var log bytes.Buffer
	o := newOperations(100*time.Millisecond, slog.New(slog.NewTextHandler(&log, nil)))
	observe, slow := o.ofDatabase("host.db")
	observe("commit", 100*time.Millisecond)
	observe("get", time.Millisecond)
	for range 50 {
		observe("commit", 300*time.Millisecond)
	}
	if n := slow(); n != 50 {
		t.Errorf("%d operations were slow, want 50", n)
	}
	if n := strings.Count(log.String(), "slow operation"); n != 1 || !strings.Contains(log.String(), "database=host.db operation=commit took=300ms count=1") {
		t.Errorf("%d were logged, want one that says which:\n%s", n, &log)
	}
	o.ofStore()("list", time.Second)
	registry := prometheus.NewRegistry()
	registry.MustRegister(o.collectors()...)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"ip6d_database_operation_seconds host.db commit":     51,
		"ip6d_database_operation_seconds host.db get":        1,
		"ip6d_database_operation_seconds host.db list":       0,
		"ip6d_database_slow_operations_total host.db commit": 50,
		"ip6d_database_slow_operations_total host.db get":    0,
		"ip6d_store_operation_seconds list":                  1,
		"ip6d_store_slow_operations_total list":              1,
	} {
		if n, ok := got[name]; !ok || n != want {
			t.Errorf("%s is %v (there: %v), want %v", name, n, ok, want)
		}
	}
}
