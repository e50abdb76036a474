package bolt

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"ip6d/hwmap"
)

func TestStatsTellWhatIsInTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, path)
	for _, k := range []string{"local/machines/1", "local/machines/2", "history/7", "owner"} {
		put(t, s, k, "x")
	}
	fill, empty := filler(16, 64<<10)
	for _, txn := range []hwmap.Txn{fill, empty} {
		if _, err := s.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
	stats, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{"local/machines": 2, "history": 1, "owner": 1}
	if !maps.Equal(stats.Records, want) || stats.Revision != 6 || stats.Commits != 6 || stats.Writes != 6 || !stats.Compacted.At.IsZero() {
		t.Errorf("stats are %+v", stats)
	}
	if stats.Size != fileSize(t, path) || stats.PageSize != os.Getpagesize() || stats.FreePages < 16*64<<10/stats.PageSize || stats.Pages <= stats.FreePages {
		t.Errorf("stats are %+v", stats)
	}
	done, err := s.Compact(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after, err := s.Stats(t.Context())
	if err != nil || after.Compacted != done || done.Before != stats.Size || done.After != after.Size || after.FreePages > 8 || done.Took < done.Pause || done.Pause <= 0 {
		t.Errorf("after the compaction %+v the stats are %+v, %v", done, after, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := open(t, path).Stats(t.Context())
	if err != nil || !again.Compacted.At.Equal(done.At.Truncate(time.Second)) || !maps.Equal(again.Records, want) {
		t.Errorf("opened again, the stats are %+v, %v", again, err)
	}
}

func TestACheckGoesOnWhileOthersWrite(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "test.db"))
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for _, key := range []hwmap.Key{"a", "b"} {
		writers.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				if _, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: make([]byte, i%9000)}}}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	last, deadline := hwmap.Revision(0), time.Now().Add(time.Minute)
	for n := 0; n < 50 || last < 50; n++ {
		if time.Now().After(deadline) {
			t.Errorf("after a minute it is at revision %d", last)
			break
		}
		c, err := s.Check(t.Context())
		if err != nil {
			t.Error(err)
			break
		}
		if c.Revision < last || c.Records > 2 || c.Torn {
			t.Errorf("check found %+v after revision %d", c, last)
		}
		last = c.Revision
	}
	cancel()
	writers.Wait()
}

// A writer must not wait until a check has ended, also where the file grows beyond what it ever had.
func TestAFileThatIsReadCanGrow(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "test.db"))
	put(t, s, "a", "1")
	file := s.acquire()
	tx, err := file.db.Begin(false)
	if err != nil {
		t.Fatal(err)
	}
	fill, _ := filler(64, 1<<20)
	written := make(chan error, 1)
	go func() {
		_, err := s.Commit(context.Background(), fill)
		written <- err
	}()
	select {
	case err := <-written:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("a writer waits for a reader")
	}
	if err := tx.Rollback(); err != nil {
		t.Error(err)
	}
	s.release(file)
}

func TestACheckFindsDamageInTheFileInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, path)
	for _, k := range []string{"a", "b", "c"} {
		put(t, s, k, "some text that is easily found")
	}
	if _, err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for i := range b[:len(b)-4] {
		if string(b[i:i+4]) == "easi" {
			if _, err := f.WriteAt([]byte("EASI"), int64(i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.Check(t.Context()); !errors.Is(err, hwmap.ErrCorrupt) {
		t.Errorf("check returned %v", err)
	}
}
