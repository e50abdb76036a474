package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/hwmap"
)

// Wherever a file is damaged, Open says so or every record is as it was: damage is never taken for data, and bbolt never
// gets to fault on it. With one of the two meta pages gone, the last transaction may be missing, which Open logs.
func TestDamageAnywhereIsNoticedOrHarmless(t *testing.T) {
	good := sample(t)
	path := filepath.Join(t.TempDir(), "test.db")
	load := func(b []byte) (string, error) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Path: path})
		if err != nil {
			return "", err
		}
		defer s.Close() // it was only read
		return records(t, s), nil
	}
	latest, err := load(good)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	allowed := map[string]bool{latest: true}
	for i := range 2 {
		if state, err := load(damage(good, i*page+40)); err == nil {
			allowed[state] = true
		}
	}
	if len(allowed) != 2 {
		t.Fatalf("losing one meta page or the other leaves %d states, must be the last and the one before", len(allowed))
	}

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	noticed, harmless := 0, 0
	check := func(what string, b []byte) {
		state, err := load(b)
		switch {
		case err == nil && allowed[state]:
			harmless++
		case err == nil:
			t.Errorf("%s went unnoticed: %.300s", what, state)
		case errors.Is(err, hwmap.ErrCorrupt):
			noticed++
		default:
			t.Errorf("%s: %v", what, err)
		}
	}
	// Every byte of the pages' headers and first elements, and some of the rest.
	for at := 0; at < len(good); at += page {
		for i := range 48 {
			b := damage(good)
			b[at+i] ^= 1 << random.IntN(8)
			check(fmt.Sprintf("a bit of byte %d", at+i), b)
		}
	}
	for range 300 {
		i := random.IntN(len(good))
		b := damage(good)
		b[i] ^= 1 << random.IntN(8)
		check(fmt.Sprintf("a bit of byte %d", i), b)
	}
	for range 100 {
		from := random.IntN(len(good))
		n := min(1+random.IntN(2*page), len(good)-from)
		b := damage(good)
		for i := range n {
			b[from+i] = byte(random.Uint32())
		}
		check(fmt.Sprintf("garbage in bytes %d to %d", from, from+n-1), b)
	}
	for range 100 {
		to, from := random.IntN(len(good)/page)*page, random.IntN(len(good)/page)*page
		b := damage(good)
		copy(b[to:to+page], good[from:from+page])
		check(fmt.Sprintf("page %d in place of page %d", from/page, to/page), b)
	}
	for range 50 {
		n := random.IntN(len(good))
		check(fmt.Sprintf("cut to %d bytes", n), good[:n])
	}
	if noticed < 100 || harmless < 10 {
		t.Errorf("%d noticed, %d harmless: the test does not test", noticed, harmless)
	}
}

// What the disk lost leaves older pages, each good in itself.
func TestWritesThatTheDiskLostAreNoticed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := open(t, path)
	for i := range 5 {
		put(t, s, fmt.Sprint(i), strings.Repeat("x", 3000)) // some pages
	}
	put(t, s, "a", "first")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "a", "last")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	var written []int // where the pages are, the meta pages apart
	for from := 2 * page; from < len(after); from += page {
		if !bytes.Equal(before[from:from+page], after[from:from+page]) {
			written = append(written, from)
		}
	}
	if len(written) < 2 {
		t.Fatalf("the last transaction wrote the pages at %v: the test does not test", written)
	}
	for lost := 1; lost < 1<<len(written); lost++ {
		mixed := damage(after)
		for i, from := range written {
			if lost&(1<<i) != 0 {
				copy(mixed[from:from+page], before[from:from+page])
			}
		}
		if err := os.WriteFile(path, mixed, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Path: path})
		if errors.Is(err, hwmap.ErrCorrupt) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("pages lost (set %b) went unnoticed: %s", lost, records(t, s))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
