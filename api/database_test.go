package api

import (
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
)

func TestDatabasesAreCountedCheckedAndCompactedInUse(t *testing.T) {
	var list []Database
	for _, name := range []string{"host.db", "map.db"} {
		path := filepath.Join(t.TempDir(), name)
		s, err := bolt.Open(bolt.Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close() // its end is not what this is about
		if _, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "history/1", Value: []byte("x")}}}); err != nil {
			t.Fatal(err)
		}
		list = append(list, Database{Name: name, Path: path, Store: s, Slow: func() uint64 { return 3 }})
	}
	socket := filepath.Join(t.TempDir(), "socket")
	serve(t, listen(t, "unix", socket), NewHandler(HandlerOptions{Databases: list}))
	c := NewClient(socket)
	defer c.Close()

	stats := call(t, c.Databases.GetDatabaseStats, &ip6dv1.GetDatabaseStatsRequest{}).Databases
	if len(stats) != 2 || stats[1].Database != "map.db" || stats[0].Records["history"] != 1 || stats[0].Slow != 3 || stats[0].Revision != 1 || stats[0].Compacted != nil || stats[0].Size == 0 {
		t.Errorf("stats are %v", stats)
	}
	done := call(t, c.Databases.CompactDatabase, &ip6dv1.CompactDatabaseRequest{Database: "map.db"}).Compactions
	if len(done) != 1 || done[0].Database != "map.db" || done[0].After == 0 || done[0].Pause.AsDuration() <= 0 {
		t.Errorf("compactions are %v", done)
	}
	checks := call(t, c.Databases.CheckDatabase, &ip6dv1.CheckDatabaseRequest{}).Checks
	if len(checks) != 2 || checks[0].Problem != "" || checks[1].Records != 1 || checks[0].Path != list[0].Path {
		t.Errorf("checks are %v", checks)
	}
	if text := refused(t, connect.CodeNotFound, c.Databases.GetDatabaseStats, &ip6dv1.GetDatabaseStatsRequest{Database: "other.db"}); !strings.Contains(text, "map.db") {
		t.Errorf("another database: %s", text)
	}
	if err := list[0].Store.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, connect.CodeUnavailable, c.Databases.CheckDatabase, &ip6dv1.CheckDatabaseRequest{})
}
