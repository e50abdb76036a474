package bolt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/hwmap"
)

// Writers, readers, a watcher and a holder go on while the file is compacted again and again under them.
func TestACompactionIsSeenByNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := hollow(t, path)
	_, start, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var helpers sync.WaitGroup
	helpers.Go(func() {
		if err := s.Hold(ctx, "alive", nil, 0); err != nil {
			t.Error(err)
		}
	})
	const writers, commits, compactions = 4, 150, 12
	want := map[hwmap.Key]string{"a": "1", "b": "2"}
	var mu sync.Mutex // guards want and acknowledged
	acknowledged := map[hwmap.Key]hwmap.Revision{}
	watched := make(chan error, 1)
	go func() {
		next := start + 1
		watched <- s.Watch(ctx, "", start, func(b hwmap.Batch) error {
			if b.Revision != next {
				return fmt.Errorf("revision %d came, must be %d", b.Revision, next)
			}
			next++
			for _, e := range b.Entries {
				if e.Key == "last" {
					return errEnough
				}
			}
			return nil
		})
	}()
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for i := range commits {
				k, v := hwmap.Key(fmt.Sprintf("w/%d/%d", w, i%40)), fmt.Sprint(i)
				txn := hwmap.Txn{Then: []hwmap.Write{{Key: k, Value: []byte(v)}}}
				if i%7 == 6 {
					txn.Then[0].Value = nil
				}
				r, err := s.Commit(ctx, txn)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged[k] = r
				if want[k] = v; i%7 == 6 {
					delete(want, k)
				}
				mu.Unlock()
			}
		})
	}
	helpers.Go(func() { // what was acknowledged is what is read
		for ctx.Err() == nil {
			mu.Lock()
			before := map[hwmap.Key]hwmap.Revision{}
			for k, r := range acknowledged {
				before[k] = r
			}
			mu.Unlock()
			_, at, err := s.List(t.Context(), "w/")
			if err != nil {
				t.Error(err)
				return
			}
			for k, r := range before {
				if at < r {
					t.Errorf("%s was acknowledged at revision %d, and read at %d", k, r, at)
					return
				}
			}
		}
	})
	for i := range compactions {
		c, err := s.Compact(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 && c.After > c.Before/4 {
			t.Errorf("the first compaction made %d bytes of %d", c.After, c.Before)
		}
	}
	writing.Wait()
	put(t, s, "last", "")
	want["last"] = ""
	if err := <-watched; !errors.Is(err, errEnough) {
		t.Errorf("watch: %v", err)
	}
	if checked, err := s.Check(ctx); err != nil || checked.Records != len(want)+2 { // a held key is two
		t.Errorf("check found %+v, %v; want %d records", checked, err, len(want)+2)
	}
	if e, err := s.Get(ctx, "alive"); err != nil || e[0].ModRevision == 0 {
		t.Errorf("the held key is %+v, %v", e, err)
	}
	cancel()
	helpers.Wait()
	before := records(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if after := records(t, s); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
	entries, _, err := s.List(t.Context(), "")
	if err != nil || len(entries) != len(want) {
		t.Errorf("%d records, want %d; error %v", len(entries), len(want), err)
	}
	for _, e := range entries {
		if v, ok := want[e.Key]; !ok || v != string(e.Value) {
			t.Errorf("%s is %q, want %q", e.Key, e.Value, v)
		}
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("compaction left %v, error %v", files, err)
	}
}

var errEnough = errors.New("enough")

// logged counts what was logged, by message.
type logged struct {
	slog.Handler
	mu   sync.Mutex // guards said
	said map[string]int
}

func newLogged() *logged { return &logged{Handler: slog.DiscardHandler, said: map[string]int{}} }

func (l *logged) Enabled(context.Context, slog.Level) bool { return true }

func (l *logged) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said[r.Message]++
	return nil
}

func (l *logged) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for message, times := range l.said {
		if strings.Contains(message, part) {
			n += times
		}
	}
	return n
}

func TestALargeFileThatIsHalfEmptyIsCompactedByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path, log := filepath.Join(t.TempDir(), "test.db"), newLogged()
		s, err := Open(Options{Path: path, Logger: slog.New(log), CompactFrom: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close() // its end is not what this is about
		ended := make(chan error)
		go func() { ended <- s.Run(t.Context()) }()
		fill, empty := filler(32, 64<<10)
		for _, txn := range []hwmap.Txn{fill, empty} {
			time.Sleep(3 * lookEvery)
			if n := log.count("database compacted"); n != 0 {
				t.Errorf("a full file was compacted")
			}
			if _, err := s.Commit(t.Context(), txn); err != nil {
				t.Fatal(err)
			}
		}
		large := fileSize(t, path)
		// Something is in the way: it is told once, and tried again.
		if err := os.Mkdir(path+unborn, 0o700); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Hour)
		if n := log.count("not compacted"); n != 1 {
			t.Errorf("a compaction that fails was told %d times, want once", n)
		}
		put(t, s, "a", "1")
		if err := os.Remove(path + unborn); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * maxCompactPause)
		if n := log.count("database compacted"); n != 1 {
			t.Errorf("it was compacted %d times, want once", n)
		}
		if small := fileSize(t, path); small > large/8 {
			t.Errorf("the file had %d bytes, and has %d", large, small)
		}
		time.Sleep(12 * time.Hour)
		if n := log.count("database compacted"); n != 1 {
			t.Errorf("a compact file was compacted again")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run returned %v after Close", err)
		}
	})
}

// filler returns a transaction that writes n records of that size, and one that deletes them.
func filler(n, size int) (fill, empty hwmap.Txn) {
	value := []byte(strings.Repeat("x", size))
	for i := range n {
		key := hwmap.Key(fmt.Sprintf("filler/%d", i))
		fill.Then = append(fill.Then, hwmap.Write{Key: key, Value: value})
		empty.Then = append(empty.Then, hwmap.Write{Key: key})
	}
	return fill, empty
}

func TestACompactionStopsWithItsContextAndWithTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := hollow(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Compact(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("compact: %v", err)
	}
	put(t, s, "c", "3")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Compact(t.Context()); !errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("compact after close: %v", err)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 1 {
		t.Errorf("it left %v, error %v", files, err)
	}
}

func TestWhatAnInterruptedCompactionLeftIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, path)
	put(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+unborn, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, path)
	if _, err := os.Stat(path + unborn); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

func TestOperationsAreTimed(t *testing.T) {
	seen := map[string]int{}
	s, err := Open(Options{Path: filepath.Join(t.TempDir(), "test.db"), Observe: func(operation string, took time.Duration) {
		if took <= 0 || took > time.Minute {
			t.Errorf("%s took %v", operation, took)
		}
		seen[operation]++
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() // its end is not what this is about
	put(t, s, "a", "1")
	put(t, s, "b", "2")
	records(t, s)
	if _, err := s.Get(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if seen["commit"] != 2 || seen["list"] != 1 || seen["get"] != 1 || len(seen) != 3 {
		t.Errorf("it saw %v", seen)
	}
}
