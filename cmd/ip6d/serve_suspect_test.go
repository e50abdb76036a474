package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// copyFile copies a file that nobody writes.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestARestoredDatabaseForwardsAndIssuesNothingUntilItIsAccepted(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a := h.machine("a", 42)
	h.kill()
	file := filepath.Join(h.state(), "host.db")
	backup := filepath.Join(h.dir, "backup.db")
	copyFile(t, file, backup)
	h.start()
	b := h.machine("b", 42)
	a.meets(b)
	h.kill()
	copyFile(t, backup, file)
	a.passes(b, "without a daemon")

	h.start()
	a.passes(b, "while the database is suspect")
	b.passes(a, "while the database is suspect, the other way")
	var s statusAnswer
	h.run(&s, "status")
	if !strings.Contains(s.DatabaseSuspect, "commits") || len(s.UnknownMachines) != 1 {
		t.Errorf("status says %q, unknown machines %v", s.DatabaseSuspect, s.UnknownMachines)
	}
	if got := runLine(t, "", "--socket", h.socket(), "machine", "create", "c", "--network", "42"); got.status != exitError || !strings.Contains(got.stderr, "ip6d db accept") {
		t.Errorf("a create while it is suspect: %+v", got)
	}
	series, err := h.scrape("unix", h.socket())
	if err != nil || series[`ip6d_suspect{what="database"}`] != "1" {
		t.Errorf("the metric is %q, %v", series[`ip6d_suspect{what="database"}`], err)
	}

	var accepted dbAcceptAnswer
	h.run(&accepted, "db", "accept")
	if len(accepted.FrozenBlocks) != 1 || len(accepted.EndedMachines) != 1 || accepted.Reason != s.DatabaseSuspect {
		t.Errorf("accepting it answers %+v", accepted)
	}
	var c machineAnswer
	h.eventually("another block is leased", func() bool {
		return runLine(t, "", "--socket", h.socket(), "machine", "create", "c", "--network", "42").status == exitOK
	})
	h.run(&c, "machine", "show", "c")
	if c.Stable == b.stable.String() || c.Stable == a.stable.String() {
		t.Errorf("the address %s is issued twice", c.Stable)
	}
	h.kill()
	h.start()
	s = statusAnswer{}
	h.run(&s, "status")
	if s.DatabaseSuspect != "" {
		t.Errorf("after it was accepted it is suspect: %s", s.DatabaseSuspect)
	}
}

// The wrong directory, or one that was removed.
func TestALostDatabaseLeavesWhatRuns(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a, b := h.machine("a", 42), h.machine("b", 42)
	a.meets(b)
	h.kill()
	h.start("--state-dir", filepath.Join(h.dir, "other"))
	a.passes(b, "with another state_dir")
	var s statusAnswer
	h.run(&s, "status")
	if !strings.Contains(s.DatabaseSuspect, "it is new") || len(s.UnknownMachines) != 2 {
		t.Errorf("status says %q, unknown machines %v", s.DatabaseSuspect, s.UnknownMachines)
	}
	h.kill()
	h.start()
	a.passes(b, "with the right one again")
	s = statusAnswer{}
	h.run(&s, "status")
	if s.DatabaseSuspect != "" || s.Machines["here"] != 2 {
		t.Errorf("status says %q, machines %v", s.DatabaseSuspect, s.Machines)
	}
}

func TestKillsMakeNoDatabaseSuspect(t *testing.T) {
	h := newTestHost(t)
	for i := range 10 {
		h.begin()
		if i%3 != 0 {
			h.eventually("the daemon answers", h.answers)
			go runLine(t, "", "--socket", h.socket(), "machine", "create", string(rune('a'+i)), "--network", "42")
		}
		h.kill()
	}
	h.start()
	var s statusAnswer
	h.run(&s, "status")
	if s.DatabaseSuspect != "" {
		t.Errorf("it is suspect: %s", s.DatabaseSuspect)
	}
}
