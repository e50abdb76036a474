package bolt

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/hwmap"
)

// hollow makes a database of several times compactAtOpen that holds little.
func hollow(t *testing.T, path string) *Store {
	t.Helper()
	s := open(t, path)
	value := []byte(strings.Repeat("x", compactAtOpen/16))
	var fill, empty hwmap.Txn
	for i := range 64 {
		key := hwmap.Key(fmt.Sprintf("filler/%d", i))
		fill.Then = append(fill.Then, hwmap.Write{Key: key, Value: value})
		empty.Then = append(empty.Then, hwmap.Write{Key: key})
	}
	put(t, s, "a", "1")
	for _, txn := range []hwmap.Txn{fill, empty} {
		if _, err := s.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "b", "2")
	return s
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestHollowFileShrinksWhenItIsOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := hollow(t, path)
	before, large := records(t, s), fileSize(t, path)
	id, err := s.ID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, path)
		if after := records(t, s); after != before {
			t.Errorf("before %s\nafter %s", before, after)
		}
		if again, err := s.ID(t.Context()); err != nil || again != id {
			t.Errorf("id is %q, was %q, error %v", again, id, err)
		}
	}
	if small := fileSize(t, path); small > large/8 {
		t.Errorf("the file had %d bytes, and has %d", large, small)
	}
	put(t, s, "c", "3")
	if _, err := Open(Options{Path: path}); err == nil {
		t.Error("the compacted file is not locked")
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("compaction left %v, error %v", files, err)
	}
}

func TestFailedCompactionLeavesTheFileAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := hollow(t, path)
	before := records(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+unborn, 0o700); err != nil { // in the way
		t.Fatal(err)
	}
	var log bytes.Buffer
	s, err := Open(Options{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if after := records(t, s); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
	put(t, s, "c", "3")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "not compacted") {
		t.Errorf("the log has %q", log.String())
	}
}
