package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
)

func TestDatabaseCommandsAnswer(t *testing.T) {
	const compaction = `{"database":"host.db","time":"2026-11-26T12:00:00Z","before":83886080,"after":3145728,"took_seconds":2,"pause_seconds":0.008}`
	socket := startStub(t, &stub{})
	for _, c := range []struct{ line, want string }{
		{"-o json db stats", `[{"database":"host.db","path":"/var/lib/ip6d/host.db","size":3145728,"page_size":4096,"pages":600,"free_pages":256,"free_bytes":1048576,"records":{"history":640,"local/machines":20},"history":640,"revision":9007199254740993,"commits":70,"writes":7,"slow":2,"compacted":` + compaction + `}]`},
		{"-o json db check", `[{"database":"host.db","path":"/var/lib/ip6d/host.db","sound":true,"torn":false,"pages":600,"free_pages":256,"records":660,"revision":70}]`},
		{"-o json db compact --database host.db", "[" + compaction + "]"},
		{"db stats", "free       1.0 MiB, 256 of 600 pages"},
		{"db stats", "records    640 history, 20 local/machines"},
		{"db stats", "commits    70, in 7 writes"},
		{"db stats", ", from 80.0 MiB to 3.0 MiB"},
		{"db check", "/var/lib/ip6d/host.db  yes    660      70        600    256"},
		{"db compact", "host.db   80.0 MiB  3.0 MiB  2s    8ms"},
	} {
		got := runLine(t, "", append([]string{"--socket", socket}, strings.Fields(c.line)...)...)
		if got.status != exitOK || got.stderr != "" || !strings.Contains(got.stdout, c.want) {
			t.Errorf("ip6d %s: %+v\nwant %s", c.line, got, c.want)
		}
	}
}

func TestACheckThatFindsDamageFailsAfterItsAnswer(t *testing.T) {
	socket := startStub(t, &stub{problem: "database is corrupt: page 7 is used twice"})
	for _, line := range []string{"db check", "-o json db check"} {
		got := runLine(t, "", append([]string{"--socket", socket}, strings.Fields(line)...)...)
		if got.status != exitError || !strings.Contains(got.stdout, "map.db") || !strings.Contains(got.stderr, "page 7 is used twice") {
			t.Errorf("ip6d %s: %+v", line, got)
		}
		checkOneLine(t, got)
	}
}

func TestAFileAtRestIsLookedAtWithoutADaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "copy.db")
	s, err := bolt.Open(bolt.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "local/machines/1", Value: []byte("{}")}}}); err != nil {
		t.Fatal(err)
	}
	commands := []string{"stats", "check", "compact"}
	for _, command := range commands {
		got := runLine(t, "", "db", command, "--file", path)
		if got.status != exitError || !strings.Contains(got.stderr, "database is in use") || !strings.Contains(got.stderr, "without --file") {
			t.Errorf("db %s of a file in use: %+v", command, got)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ command, want string }{{"stats", "1 local/machines"}, {"check", "yes"}} {
		got := runLine(t, "", "db", c.command, "--file", path)
		if got.status != exitOK || !strings.Contains(got.stdout, c.want) {
			t.Errorf("db %s: %+v", c.command, got)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
			t.Errorf("db %s changed the file (error %v)", c.command, err)
		}
	}
	if got := runLine(t, "", "db", "compact", "--file", path); got.status != exitOK || !strings.Contains(got.stdout, "copy.db") {
		t.Errorf("db compact: %+v", got)
	}
	if got := runLine(t, "", "db", "stats", "--file", path); got.status != exitOK || strings.Contains(got.stdout, "never") {
		t.Errorf("db stats after compact: %+v", got)
	}
	if err := os.WriteFile(path, before[:len(before)/3], 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runLine(t, "", "-o", "json", "db", "check", "--file", path); got.status != exitError || !strings.Contains(got.stdout, `"sound":false`) || !strings.Contains(got.stderr, "corrupt") {
		t.Errorf("db check of a file that is cut: %+v", got)
	}
	missing := filepath.Join(t.TempDir(), "none.db")
	for _, command := range commands {
		got := runLine(t, "", "db", command, "--file", missing)
		if got.status != exitError || !strings.Contains(got.stderr, missing) {
			t.Errorf("db %s of no file: %+v", command, got)
		}
		checkOneLine(t, got)
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a file was made")
	}
}
