package bolt

import (
	"path/filepath"
	"testing"

	"ip6d/hwmap"
	"ip6d/hwmap/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) hwmap.Store { return open(t, filepath.Join(t.TempDir(), "test.db")) })
}

// open opens the database at path, and closes it at the end of the test.
func open(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
