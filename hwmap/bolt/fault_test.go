package bolt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"ip6d/hwmap"
)

// writerPath makes the test binary a process that writes to the database there, in the way that writerKind says.
const (
	writerPath = "IP6D_TEST_WRITER"
	writerKind = "IP6D_TEST_WRITER_KIND"
)

func TestMain(m *testing.M) {
	path := os.Getenv(writerPath)
	if path == "" {
		os.Exit(m.Run())
	}
	write := map[string]func(string) error{
		"until killed": writeUntilKilled, "power cut": writeAndCompact, "failing disk": writeWhileFailing,
	}[os.Getenv(writerKind)]
	if err := write(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// writeUntilKilled commits numbered records from several goroutines, and prints each number that was acknowledged. The file
// is compacted all the while.
func writeUntilKilled(path string) error {
	s, err := Open(Options{Path: path})
	if err != nil {
		return err
	}
	go s.Hold(context.Background(), "alive", []byte("x"), time.Hour) // killed
	for held := false; !held; {
		e, err := s.Get(context.Background(), "alive")
		if err != nil {
			return err
		}
		held = e[0].ModRevision != 0
	}
	failed := make(chan error)
	go func() {
		for {
			if _, err := s.Compact(context.Background()); err != nil {
				failed <- err
				return
			}
		}
	}()
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d/%d", w, i)
				_, err := s.Commit(context.Background(), hwmap.Txn{Then: []hwmap.Write{
					{Key: hwmap.Key("a/" + key), Value: []byte(key)},
					{Key: hwmap.Key("b/" + key), Value: []byte(key)},
				}})
				if err != nil {
					failed <- err
					return
				}
				fmt.Println(key)
			}
		}()
	}
	return <-failed
}

func TestAcknowledgedCommitsSurviveKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	acknowledged := map[string]bool{}
	for life := range 8 {
		for key := range writeAndKill(t, path, 20+10*life) {
			acknowledged[key] = true
		}
		s := open(t, path)
		entries, _, err := s.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		have := map[hwmap.Key]bool{}
		for _, e := range entries {
			have[e.Key] = true
		}
		for key := range acknowledged {
			if !have[hwmap.Key("a/"+key)] || !have[hwmap.Key("b/"+key)] {
				t.Errorf("record %s was acknowledged and is lost", key)
			}
		}
		for _, e := range entries {
			other := "a" + string(e.Key[1:])
			if e.Key[0] == 'a' {
				other = "b" + string(e.Key[1:])
			}
			if e.Key == "alive" {
				t.Error("the dead process still holds its key")
			} else if !have[hwmap.Key(other)] {
				t.Errorf("half of a transaction is there: %s without %s", e.Key, other)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// writeAndKill runs a writer, kills it after n acknowledgements, and returns all that it acknowledged.
func writeAndKill(t *testing.T, path string, n int) map[string]bool {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary)
	cmd.Env = append(os.Environ(), writerPath+"="+path, writerKind+"=until killed")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Should this process be killed, the writer ends by itself: nobody reads its output (SIGPIPE).
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]bool{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		acknowledged[lines.Text()] = true
		if len(acknowledged) == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the writer ended by itself: %v: %s", err, stderr.String())
	}
	return acknowledged
}

// failingDisk is what Options.commit is while the disk fails.
type failingDisk struct {
	fail func(*bbolt.Tx) error // nil: the disk works
}

func (d *failingDisk) commit(tx *bbolt.Tx) error {
	if d.fail != nil {
		return d.fail(tx)
	}
	return tx.Commit()
}

func openOn(t *testing.T, path string, d *failingDisk) *Store {
	t.Helper()
	s, err := Open(Options{Path: path, commit: d.commit})
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

func TestFailureBeforeTheMetaPageWroteNothing(t *testing.T) {
	disk := &failingDisk{}
	s := openOn(t, filepath.Join(t.TempDir(), "test.db"), disk)
	put(t, s, "a", "1")
	before := records(t, s)
	disk.fail = func(*bbolt.Tx) error { return unix.EIO }
	_, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "a", Value: []byte("2")}}})
	if !errors.Is(err, hwmap.ErrUnavailable) || errors.Is(err, hwmap.ErrInDoubt) || !errors.Is(err, unix.EIO) {
		t.Errorf("Commit returned %v", err)
	}
	if after := records(t, s); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
	disk.fail = nil
	put(t, s, "a", "3")
}

func TestFailureAfterTheMetaPageIsInDoubtUntilReopened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	disk := &failingDisk{}
	s := openOn(t, path, disk)
	put(t, s, "a", "1")
	// bbolt's last step is to sync the meta page. When that fails, the page is in memory, and on the disk or not.
	disk.fail = func(tx *bbolt.Tx) error { return errors.Join(tx.Commit(), unix.EIO) }
	_, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "a", Value: []byte("2")}}})
	if !errors.Is(err, hwmap.ErrInDoubt) || errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("Commit returned %v", err)
	}
	disk.fail = nil
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), "restart") {
		t.Errorf("Get returned %v: what it reads may not be on the disk", err)
	}
	if _, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "a", Value: []byte("3")}}}); !errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("Commit returned %v", err)
	}
	if err := s.Watch(t.Context(), "", 1, nil); !errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("Watch returned %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := records(t, open(t, path)); got != `revision 2: a@2="2"` {
		t.Errorf("opened again, it has %s", got)
	}
}

func TestPanicOfTheDatabaseIsCorruption(t *testing.T) {
	disk := &failingDisk{}
	s := openOn(t, filepath.Join(t.TempDir(), "test.db"), disk)
	put(t, s, "a", "1")
	disk.fail = func(*bbolt.Tx) error { panic("page 7 already freed") }
	_, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "a", Value: []byte("2")}}})
	if !errors.Is(err, hwmap.ErrInDoubt) || !errors.Is(err, hwmap.ErrCorrupt) || !strings.Contains(err.Error(), "page 7") {
		t.Errorf("Commit returned %v", err)
	}
	disk.fail = nil
	if _, err := s.Get(t.Context(), "a"); !errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("Get returned %v", err)
	}
}

// A page that the disk cannot give any more is a fault in bbolt's memory map.
func TestFileCutUnderARunningStoreIsAnErrorAndNoCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, path)
	for i := range 20 {
		put(t, s, fmt.Sprint(i), strings.Repeat("x", 1000))
	}
	if err := os.Truncate(path, int64(2*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "7"); !errors.Is(err, hwmap.ErrUnavailable) || !errors.Is(err, hwmap.ErrCorrupt) {
		t.Errorf("Get returned %v", err)
	}
	if _, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "a", Value: []byte("1")}}}); !errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("Commit returned %v", err)
	}
}

func TestFullDiskFailsTheCommitAndNoMore(t *testing.T) {
	if os.Getuid() != 0 {
		needRoot(t)
	}
	dir := t.TempDir()
	// The mount is seen by this thread alone, and goes with it, however the test ends.
	onThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Error(err)
			return
		}
		s, err := Open(Options{Path: filepath.Join(dir, "test.db")})
		if err != nil {
			t.Error(err)
			return
		}
		defer s.Close() // the test is about what is before
		write := func(key, value string) error {
			_, err := s.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: hwmap.Key(key), Value: []byte(value)}}})
			return err
		}
		if err := write("a", "1"); err != nil {
			t.Error(err)
		}
		filler := filepath.Join(dir, "filler")
		if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("filling the disk: %v", err)
		}
		big := strings.Repeat("x", 256<<10)
		if err := write("b", big); !errors.Is(err, hwmap.ErrUnavailable) || errors.Is(err, hwmap.ErrInDoubt) || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("Commit to a full disk returned %v", err)
		}
		if e, err := s.Get(t.Context(), "a", "b"); err != nil || string(e[0].Value) != "1" || e[1].ModRevision != 0 {
			t.Errorf("after that, Get returned %v, %v", e, err)
		}
		if err := os.Remove(filler); err != nil {
			t.Error(err)
		}
		if err := write("b", big); err != nil {
			t.Errorf("with room again, Commit returned %v", err)
		}
	})
}
