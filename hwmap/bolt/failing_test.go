package bolt

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"ip6d/hwmap"
)

// How the writer on a failing disk writes.
const (
	failCommits = 600
	failSlots   = 10
	failEvery   = 30 // one of so many operations fails
)

// writerFrom is where a writer goes on that has restarted itself.
const writerFrom = "IP6D_TEST_WRITER_FROM"

// writeWhileFailing commits one after the other and prints how each ended. When the Store asks for it, it restarts itself, as
// a new program in this process, and prints what it finds.
func writeWhileFailing(path string) error {
	ctx := context.Background()
	say := func(what string, i int, err error) {
		fmt.Println(what, i, strings.ReplaceAll(fmt.Sprint(err), "\n", "; "))
	}
	s, err := Open(Options{Path: path})
	for ; err != nil && !errors.Is(err, hwmap.ErrCorrupt); s, err = Open(Options{Path: path}) {
		say("refused", 0, err)
	}
	if err != nil {
		return err
	}
	if err := printFound(s); err != nil {
		return err
	}
	from, _ := strconv.Atoi(os.Getenv(writerFrom)) // nothing is 0
	for i := from; i < failCommits; i++ {
		value := fmt.Sprint(i) + "/" + strings.Repeat("x", i*37%3000)
		_, err := s.Commit(ctx, hwmap.Txn{Then: []hwmap.Write{{Key: hwmap.Key(fmt.Sprint(i % failSlots)), Value: []byte(value)}}})
		switch {
		case err == nil:
			say("ok", i, nil)
		case errors.Is(err, hwmap.ErrInDoubt):
			say("doubt", i, err)
		case errors.Is(err, hwmap.ErrUnavailable):
			say("unavailable", i, err)
		default:
			return err
		}
		if i%30 == 29 && s.usable() == nil {
			_, err := s.Compact(ctx)
			say("compacted", i, err)
		}
		if s.usable() != nil {
			say("restart", i, errors.Join(s.usable(), s.Close()))
			if err := os.Setenv(writerFrom, fmt.Sprint(i+1)); err != nil {
				return err
			}
			return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
		}
	}
	return errors.Join(printFound(s), s.Close())
}

func printFound(s *Store) error {
	entries, _, err := s.List(context.Background(), "")
	for _, e := range entries {
		i, _, _ := strings.Cut(string(e.Value), "/")
		fmt.Println("found", i, "in", e.Key)
	}
	return err
}

// Whatever fails, a commit that was acknowledged is there, one that was refused is not, and one in doubt is or is not, for
// good once it was seen.
func TestAFailingDiskIsToldAndNothingIsHalfMade(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 3))
	operations, failed := 0, map[operation]int{}
	short := false
	faults := func(o operation) syscall.Errno {
		operations++
		if short { // what a short write did not write has no room
			short = false
			return unix.ENOSPC
		}
		if operations < 60 || random.IntN(failEvery) != 0 {
			return 0
		}
		failed[o]++
		switch o {
		case opWrite:
			errno := []syscall.Errno{unix.EIO, unix.ENOSPC, shortWrite}[random.IntN(3)]
			short = errno == shortWrite
			return errno
		case opCreate, opTruncate:
			return unix.ENOSPC
		}
		return unix.EIO
	}
	possible := map[string][]int{} // by slot: which commit it may be of
	ended := map[string]int{}
	inARow := 0 // refused and then acknowledged, without a restart in between
	before := ""
	d := runWriter(t, "failing disk", seed, func(d *disk) { d.faults = faults }, func(d *disk, line string) {
		what, rest, _ := strings.Cut(line, " ")
		var i int
		if _, err := fmt.Sscan(rest, &i); err != nil {
			t.Fatalf("the writer printed %q", line)
		}
		ended[what]++
		slot := fmt.Sprint(i % failSlots)
		switch what {
		case "ok":
			possible[slot] = []int{i}
			if before == "unavailable" {
				inARow++
			}
		case "doubt":
			possible[slot] = append(possible[slot], i)
		case "found":
			if !slices.Contains(possible[slot], i) {
				t.Errorf("%s has commit %d, possible are %v", slot, i, possible[slot])
			}
			possible[slot] = []int{i}
		}
		if what == "unavailable" || what == "doubt" {
			if !strings.Contains(line, "test.db") || !strings.Contains(line, "make room on the file system of") && !strings.Contains(line, "the disk under") && !strings.Contains(line, "restart ip6d") {
				t.Errorf("an error that does not say what, where or what to do: %s", line)
			}
		}
		before = what
	})
	t.Logf("%d operations, failed %v, commits ended %v, %d refused and then acknowledged without a restart", operations, failed, ended, inARow)
	if ended["ok"] < failCommits/2 || ended["unavailable"] == 0 || ended["doubt"] == 0 || inARow == 0 || failed[opSync] == 0 || failed[opWrite] == 0 {
		t.Error("too little failed, or too much: the test does not test")
	}
	path := filepath.Join(t.TempDir(), "test.db")
	lay(t, filepath.Dir(path), map[string][]byte{"test.db": d.names["test.db"].stable})
	entries, _, err := open(t, path).List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(possible) {
		t.Errorf("the disk has %d records, want %d", len(entries), len(possible))
	}
	for _, e := range entries {
		var i int
		if _, err := fmt.Sscanf(string(e.Value), "%d/", &i); err != nil || !slices.Contains(possible[string(e.Key)], i) {
			t.Errorf("%s has commit %d on the disk, possible are %v (error %v)", e.Key, i, possible[string(e.Key)], err)
		}
	}
}
