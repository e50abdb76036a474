package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"ip6d/hwmap"
)

func put(t *testing.T, s *Store, key, value string) hwmap.Revision {
	t.Helper()
	r, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: hwmap.Key(key), Value: []byte(value)}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// records returns what is in the store, as text.
func records(t *testing.T, s *Store) string {
	t.Helper()
	entries, r, err := s.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("revision %d:", r)
	for _, e := range entries {
		text += fmt.Sprintf(" %s@%d=%.20q", e.Key, e.ModRevision, e.Value)
	}
	return text
}

func TestReopenedStoreHasAllRecordsAndGoesOnCounting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "test.db")
	s := open(t, path)
	put(t, s, "a", "1")
	old := put(t, s, "b", "2")
	last := put(t, s, "a", "3")
	before := records(t, s)
	id, err := s.ID(t.Context())
	if err != nil || id == "" {
		t.Fatalf("id %q, error %v", id, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, path)
	if after := records(t, s); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
	if again, err := s.ID(t.Context()); err != nil || again != id {
		t.Errorf("id is %q, was %q (error %v)", again, id, err)
	}
	if r := put(t, s, "c", "4"); r != last+1 {
		t.Errorf("the next revision is %d, after %d", r, last)
	}
	if err := s.Watch(t.Context(), "", old, nil); !errors.Is(err, hwmap.ErrCompacted) {
		t.Errorf("watch after a revision of before the restart returned %v", err)
	}
	enough := errors.New("enough")
	err = s.Watch(t.Context(), "", last, func(b hwmap.Batch) error {
		if b.Revision != last+1 {
			t.Errorf("watch delivered revision %d", b.Revision)
		}
		return enough
	})
	if !errors.Is(err, enough) {
		t.Error(err)
	}
}

func TestFileAndDirectoryAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ip6d")
	open(t, filepath.Join(dir, "test.db"))
	for path, want := range map[string]fs.FileMode{dir: fs.ModeDir | 0o700, filepath.Join(dir, "test.db"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %s, must have %s", path, info.Mode(), want)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("creating left %v (error %v)", files, err)
	}
}

func TestFileInUseIsRefusedAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, path)
	_, err := Open(Options{Path: path})
	if !errors.Is(err, hwmap.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Open returned %v", err)
	}
	put(t, s, "a", "the first goes on")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func TestRacingOpensOfANewFileMakeOneDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	results := make(chan *Store)
	const openers = 8
	for range openers {
		go func() {
			s, err := Open(Options{Path: path})
			if err != nil && !errors.Is(err, hwmap.ErrLocked) {
				t.Error(err)
			}
			results <- s
		}()
	}
	opened := 0
	for range openers {
		if s := <-results; s != nil {
			opened++
			put(t, s, "a", "1")
			defer s.Close() // the next Open tells
		}
	}
	if opened != 1 {
		t.Errorf("%d of %d opened the file at once", opened, openers)
	}
}

func TestInterruptedCreationIsStartedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	for _, left := range []string{"", "half a database", strings.Repeat("\x00", 16384)} {
		if err := os.WriteFile(path+".new", []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, path)
		put(t, s, "a", "1")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFileThatIsNoDatabaseIsRefusedAndLeftAlone(t *testing.T) {
	good := sample(t)
	page := os.Getpagesize()
	cases := map[string][]byte{
		"empty":               {},
		"one byte":            {1},
		"text":                []byte(strings.Repeat("not a database\n", 5000)),
		"zeros":               make([]byte, 64<<10),
		"both metas damaged":  damage(good, 40, page+40),
		"cut in a meta page":  good[:page/2],
		"cut after the metas": good[:2*page],
		"cut in the middle":   good[:3*page+17],
		"another program's":   foreign(t),
	}
	for name, content := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "test.db")
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(Options{Path: path})
			if !errors.Is(err, hwmap.ErrCorrupt) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
				t.Errorf("Open returned %v, must say that it is corrupt, the path and the way out", err)
			}
			after, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(after, content) {
				t.Errorf("the file was changed (error %v)", err)
			}
		})
	}
}

func TestDirectoryInPlaceOfTheFileIsRefused(t *testing.T) {
	if _, err := Open(Options{Path: t.TempDir()}); !errors.Is(err, unix.EISDIR) {
		t.Errorf("Open returned %v", err)
	}
}

func TestMissingPathIsRefused(t *testing.T) {
	if _, err := Open(Options{}); !errors.Is(err, hwmap.ErrUsage) {
		t.Errorf("Open returned %v", err)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(formatBucket).Put([]byte(versionKey), encode(versionKey, 0, []byte("7")))
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(Options{Path: path})
	if !errors.Is(err, hwmap.ErrNewerFormat) || !strings.Contains(err.Error(), "version 7") || !strings.Contains(err.Error(), "up to 1") {
		t.Errorf("Open returned %v, must name both versions", err)
	}
}

func TestMissingPermissionIsSaid(t *testing.T) {
	if os.Getuid() != 0 {
		needRoot(t)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "test.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Join(dir, "other.db"), filepath.Join(dir, "sub", "test.db")} {
		var err error
		onThread(func() {
			// The file system's user is the thread's own, and the thread ends with this.
			if serr := unix.Setfsuid(65534); serr != nil {
				err = serr
				return
			}
			_, err = Open(Options{Path: p})
		})
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), p) || !strings.Contains(err.Error(), "root") {
			t.Errorf("Open of %s returned %v", p, err)
		}
	}
}

// needRoot skips a test that only root can run, and fails it where nobody would notice.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s needs root", t.Name())
	}
	t.Skipf("%s needs root", t.Name())
}

// onThread runs f on a thread of its own, which ends with it.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		f()
	}()
	<-done
}

// sample returns the file of a database that has a bit of everything.
func sample(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.db")
	s := open(t, path)
	var txn hwmap.Txn
	for i := range 200 {
		txn.Then = append(txn.Then, hwmap.Write{Key: hwmap.Key(fmt.Sprintf("map/machines/%d", i)), Value: []byte(strings.Repeat("x", i))})
	}
	if _, err := s.Commit(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	put(t, s, "big", strings.Repeat("big ", 3000))
	for i := range 20 {
		txn := hwmap.Txn{Then: []hwmap.Write{{Key: hwmap.Key(fmt.Sprintf("map/machines/%d", i))}, {Key: "counter", Value: fmt.Append(nil, i)}}}
		if _, err := s.Commit(t.Context(), txn); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Hold(ctx, "alive", nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// foreign returns a good bbolt file that is not ours.
func foreign(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "foreign.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// damage returns a copy of b with the bytes at the places flipped.
func damage(b []byte, places ...int) []byte {
	b = bytes.Clone(b)
	for _, i := range places {
		b[i] ^= 0xff
	}
	return b
}
