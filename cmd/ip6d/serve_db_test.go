package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestADaemonsDatabaseIsCompactedWhileMachinesTalk(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a, b := h.machine("a", 42), h.machine("b", 42)
	a.meets(b)
	done := make(chan []compactionAnswer)
	go func() {
		var all []compactionAnswer
		for range 20 {
			var answer []compactionAnswer
			h.run(&answer, "db", "compact")
			all = append(all, answer...)
		}
		done <- all
	}()
	var all []compactionAnswer
	for n := 0; all == nil; n++ {
		a.passes(b, fmt.Sprint("while it is compacted ", n))
		name := fmt.Sprint("machine", n)
		var made machineAnswer
		h.run(&made, "machine", "create", name, "--network", "42")
		var gone struct{}
		h.run(&gone, "machine", "destroy", name)
		select {
		case all = <-done:
		default:
		}
	}
	if len(all) != 20 || all[0].Database != "host.db" || all[0].Pause <= 0 || all[0].After == 0 {
		t.Errorf("the compactions were %+v", all)
	}
	var stats []dbStatsAnswer
	h.run(&stats, "db", "stats")
	if len(stats) != 1 || stats[0].Path != filepath.Join(h.state(), "host.db") || stats[0].Records["local/machines"] < 2 || stats[0].Compacted == nil || stats[0].Commits == 0 {
		t.Errorf("its stats are %+v", stats)
	}
	var checks []dbCheckAnswer
	h.run(&checks, "db", "check")
	if len(checks) != 1 || !checks[0].Sound || checks[0].Torn || checks[0].Records == 0 {
		t.Errorf("a check found %+v", checks)
	}
	series, err := h.scrape("unix", h.socket())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		`ip6d_database_operation_seconds_count{database="host.db",operation="commit"}`,
		`ip6d_database_slow_operations_total{database="host.db",operation="commit"}`,
		`ip6d_database_size_bytes{database="host.db"}`,
		`ip6d_database_free_bytes{database="host.db"}`,
	} {
		if value, ok := series[name]; !ok || strings.HasSuffix(name, `_count{database="host.db",operation="commit"}`) && value == "0" {
			t.Errorf("%s is %q", name, value)
		}
	}
	h.kill()
	if got := runLine(t, "", "db", "check", "--file", filepath.Join(h.state(), "host.db")); got.status != exitOK {
		t.Errorf("after kill -9: %+v", got)
	}
	if files, err := filepath.Glob(filepath.Join(h.state(), "*.new")); err != nil || len(files) != 0 {
		t.Errorf("it left %v, %v", files, err)
	}
	if _, err := os.Stat(filepath.Join(h.state(), "host.db")); err != nil {
		t.Error(err)
	}
	h.start()
	a.passes(b, "after the restart")
}
