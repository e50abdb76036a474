package bolt

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"ip6d/hwmap"
)

func TestTailForgetsTheOldestAndSaysSo(t *testing.T) {
	cases := []struct {
		name  string
		add   int
		value int // bytes
		kept  int
	}{
		{"few", 10, 1, 10},
		{"too many", tailBatches + 100, 1, tailBatches},
		{"too large", 10, tailBytes / 4, 3},
		{"one larger than all", 3, tailBytes + 1, 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			const floor = 5
			tail := tail{floor: floor}
			value := make([]byte, c.value)
			for i := range c.add {
				r := hwmap.Revision(floor + 1 + i)
				tail.add(hwmap.Batch{Revision: r, Entries: []hwmap.Entry{{Key: "a", Value: value, ModRevision: r}}})
			}
			last := hwmap.Revision(floor + c.add)
			oldest := last - hwmap.Revision(c.kept)
			batches, _, err := tail.since(oldest)
			if err != nil || len(batches) != c.kept || batches[0].Revision != oldest+1 || batches[c.kept-1].Revision != last {
				t.Errorf("since %d returned %d batches, error %v", oldest, len(batches), err)
			}
			for _, r := range []hwmap.Revision{oldest - 1, last + 1} {
				if _, _, err := tail.since(r); !errors.Is(err, hwmap.ErrCompacted) {
					t.Errorf("since %d returned %v", r, err)
				}
			}
			if batches, _, err := tail.since(last); err != nil || len(batches) != 0 {
				t.Errorf("since the last returned %d batches, error %v", len(batches), err)
			}
		})
	}
}

func TestWatcherThatIsLeftBehindMustListAgain(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "test.db"))
	value := make([]byte, tailBytes/2)
	large := func() {
		t.Helper()
		if _, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "a", Value: value}}}); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "first", "")
	err := s.Watch(t.Context(), "", 0, func(b hwmap.Batch) error {
		if b.Revision != 1 {
			t.Errorf("revision %d was delivered after a gap", b.Revision)
		}
		for range 3 {
			large()
		}
		return nil
	})
	if !errors.Is(err, hwmap.ErrCompacted) {
		t.Errorf("Watch returned %v", err)
	}
}

func TestThousandsOfRecordsAreOneTransaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, path)
	r, err := s.Commit(t.Context(), thousands(5000))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	entries, at, err := open(t, path).List(t.Context(), "map/")
	if err != nil || len(entries) != 5000 || at != r {
		t.Errorf("%d records at revision %d, error %v", len(entries), at, err)
	}
}

func thousands(n int) hwmap.Txn {
	var txn hwmap.Txn
	for i := range n {
		txn.Then = append(txn.Then, hwmap.Write{
			Key:   hwmap.Key(fmt.Sprintf("map/machines/%d", i)),
			Value: fmt.Appendf(nil, `{"name":"machine-%d","network":7,"host":12,"epoch":3}`, i),
		})
	}
	return txn
}
