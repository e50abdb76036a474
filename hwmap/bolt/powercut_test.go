package bolt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ip6d/hwmap"
)

// runWriter runs this binary as a writer of that kind on a new disk, until it ends. prepare is given the disk first, and
// said each line that the writer prints.
func runWriter(t *testing.T, kind string, seed uint64, prepare func(*disk), said func(d *disk, line string)) *disk {
	t.Helper()
	if os.Getuid() != 0 {
		needRoot(t)
	}
	dir := t.TempDir()
	var d *disk
	var failure error
	onThread(func() {
		if d, failure = mountDisk(dir, seed); failure != nil {
			return
		}
		if prepare != nil {
			d.mu.Lock()
			prepare(d)
			d.mu.Unlock()
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), writerPath+"="+filepath.Join(dir, "test.db"), writerKind+"="+kind)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it ends with this thread, at the latest
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			failure = err
			return
		}
		timer := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said(d, lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			failure = fmt.Errorf("the writer: %w: %s", err, stderr.String())
		}
	})
	if failure != nil {
		t.Fatal(failure)
	}
	d.mu.Lock() // what served the writer has come to its end
	defer d.mu.Unlock()
	return d
}

// How the writer of power cuts writes.
const (
	cutWriters = 3
	cutCommits = 120 // of each writer
	cutSlots   = 10  // records of each writer, in both of two places
)

// cutValue is what a writer writes in its i-th commit.
func cutValue(w, i int) string { return fmt.Sprintf("%d/%d/", w, i) + strings.Repeat("x", i*37%3000) }

// writeAndCompact commits and prints each commit that was acknowledged, with its revision. The file is compacted meanwhile.
func writeAndCompact(path string) error {
	s, err := Open(Options{Path: path})
	if err != nil {
		return err
	}
	var writers sync.WaitGroup
	failed := make(chan error, cutWriters)
	ctx, cancel := context.WithCancel(context.Background())
	for w := range cutWriters {
		writers.Go(func() {
			for i := range cutCommits {
				slot := fmt.Sprintf("%d/%d", w, i%cutSlots)
				value := []byte(cutValue(w, i))
				r, err := s.Commit(ctx, hwmap.Txn{Then: []hwmap.Write{
					{Key: hwmap.Key("a/" + slot), Value: value}, {Key: hwmap.Key("b/" + slot), Value: value},
				}})
				if err != nil {
					failed <- err
					return
				}
				fmt.Println(w, i, r)
			}
		})
	}
	compacted := make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			if _, err := s.Compact(ctx); err != nil {
				if errors.Is(err, context.Canceled) && n > 1 {
					err = nil
				}
				compacted <- err
				return
			}
		}
	}()
	writers.Wait()
	cancel()
	close(failed)
	return errors.Join(<-failed, <-compacted, s.Close())
}

// acknowledgement is a commit that the writer printed when the log was that long.
type acknowledgement struct {
	w, i     int
	revision hwmap.Revision
	at       int
}

// cutRecords is what a database has at a revision, as records gives it.
func cutRecords(all []acknowledgement, r hwmap.Revision) map[hwmap.Key]string {
	want, latest := map[hwmap.Key]string{}, map[hwmap.Key]hwmap.Revision{}
	for _, a := range all {
		for _, place := range []string{"a", "b"} {
			k := hwmap.Key(fmt.Sprintf("%s/%d/%d", place, a.w, a.i%cutSlots))
			if a.revision <= r && a.revision > latest[k] {
				want[k], latest[k] = cutValue(a.w, a.i), a.revision
			}
		}
	}
	return want
}

// After a power cut at any point, what was not synced is on the disk, or not, or torn. On an honest disk the database opens
// and has every acknowledged commit. Of one that lies it is refused, or has all commits up to some revision and no other:
// that this is an older one no file can tell by itself, where the disk lost all that is newer.
func TestAPowerCutLosesNothingThatWasAcknowledged(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d (the cuts repeat with it, the writers' interleaving does not)", seed)
	var all []acknowledgement
	d := runWriter(t, "power cut", seed, nil, func(d *disk, line string) {
		a := acknowledgement{at: d.length()}
		if _, err := fmt.Sscan(line, &a.w, &a.i, &a.revision); err != nil {
			t.Errorf("the writer printed %q: %v", line, err)
		}
		all = append(all, a)
	})
	if len(all) != cutWriters*cutCommits {
		t.Fatalf("%d commits were acknowledged, want %d", len(all), cutWriters*cutCommits)
	}
	random := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	const honest, lying = 400, 300
	opened, refused, older, renames := 0, 0, 0, 0
	for round := range honest + lying {
		lost := 0
		if round >= honest {
			lost = 1 + random.IntN(3)
		}
		at := random.IntN(len(d.log) + 1)
		files := powerCut(d.log[:at], random, lost)
		if _, ok := files["test.db.new"]; ok {
			renames++
		}
		here := filepath.Join(dir, fmt.Sprint(round))
		if err := os.Mkdir(here, 0o700); err != nil {
			t.Fatal(err)
		}
		lay(t, here, files)
		last := hwmap.Revision(0)
		for _, a := range all {
			if a.at <= at {
				last = max(last, a.revision)
			}
		}
		s, err := Open(Options{Path: filepath.Join(here, "test.db")})
		if lost > 0 && errors.Is(err, hwmap.ErrCorrupt) {
			refused++
			continue
		}
		if err != nil {
			t.Errorf("round %d: cut at step %d of %d: %v", round, at, len(d.log), err)
			continue
		}
		entries, r, err := s.List(t.Context(), "")
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		want := cutRecords(all, r)
		for _, e := range entries {
			if v, ok := want[e.Key]; !ok || v != string(e.Value) {
				t.Errorf("round %d: cut at step %d: at revision %d %s is %.20q, want %.20q", round, at, r, e.Key, e.Value, v)
			}
		}
		if len(entries) != len(want) {
			t.Errorf("round %d: cut at step %d: at revision %d it has %d records, want %d", round, at, r, len(entries), len(want))
		}
		switch {
		case r >= last:
			opened++
		case lost > 0:
			older++
		default:
			t.Errorf("round %d: cut at step %d: it is of revision %d, and %d was acknowledged", round, at, r, last)
		}
		if err := os.RemoveAll(here); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d steps, %d commits; %d opened with all, %d refused, %d older than acknowledged (a disk that lies), %d in a compaction", len(d.log), len(all), opened, refused, older, renames)
	if refused < lying/10 || renames == 0 {
		t.Errorf("%d of %d databases of a lying disk were refused, %d cuts were in a compaction: the test does not test", refused, lying, renames)
	}
}
