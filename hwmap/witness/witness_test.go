package witness_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ip6d/hwmap"
	"ip6d/hwmap/witness"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, path string) *witness.File {
	t.Helper()
	f := witness.New(path)
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

func read(t *testing.T, path string) hwmap.Mark {
	t.Helper()
	m, err := open(t, path).Read()
	must(t, err)
	return m
}

var mark = hwmap.Mark{ID: hwmap.DatabaseID{1, 15: 9}, Count: 1, Block: 3}

// counted is mark at another count.
func counted(n hwmap.Revision) hwmap.Mark {
	m := mark
	m.Count = n
	return m
}

func TestItRemembersWhatItWasToldLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.db.witness")
	if got := read(t, path); got != (hwmap.Mark{}) {
		t.Errorf("without a file it is %+v", got)
	}
	must(t, open(t, path).Begin(mark))
	for n := range hwmap.Revision(5) {
		f := open(t, path)
		if _, err := f.Read(); err != nil {
			t.Fatal(err)
		}
		must(t, f.Raise(counted(2*n+2)))
		must(t, f.Raise(counted(2*n+3)))
		if got := read(t, path); got != counted(2*n+3) {
			t.Errorf("it is %+v, want the count %d", got, 2*n+3)
		}
	}
	must(t, open(t, path).Begin(counted(1)))
	if got := read(t, path); got != counted(1) {
		t.Errorf("begun anew it is %+v", got)
	}
}

// A power loss tears the place that is being written: any part of it may be there.
func TestATornWriteLeavesTheOneBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.db.witness")
	f := open(t, path)
	must(t, f.Begin(mark))
	must(t, f.Raise(counted(2)))
	before, err := os.ReadFile(path)
	must(t, err)
	must(t, f.Raise(counted(3)))
	after, err := os.ReadFile(path)
	must(t, err)
	for n := range after {
		torn := append(append([]byte{}, after[:n]...), before[n:]...)
		must(t, os.WriteFile(path, torn, 0o600))
		if got := read(t, path); got != counted(2) && got != counted(3) {
			t.Fatalf("torn at byte %d it is %+v", n, got)
		}
	}
}

func TestWhatIsNoWitnessIsCorrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.db.witness")
	for _, content := range []string{"", "something else", string(make([]byte, 1024))} {
		must(t, os.WriteFile(path, []byte(content), 0o600))
		if _, err := open(t, path).Read(); !errors.Is(err, hwmap.ErrCorrupt) {
			t.Errorf("of %d other bytes it says %v", len(content), err)
		}
	}
}
