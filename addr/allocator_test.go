package addr

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// clock is a time that only the test moves.
type clock struct{ t time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func newTestAllocator(c *clock, blocks ...Block) *Allocator {
	a := NewAllocator(AllocatorOptions{Quarantine: time.Hour, Now: c.now})
	for _, b := range blocks {
		a.Lease(b)
	}
	return a
}

func allocate(t *testing.T, a *Allocator) Machine {
	t.Helper()
	m, err := a.Allocate()
	if err != nil {
		t.Fatalf("%v, with %d of %d ids free", err, a.Free(), a.Size())
	}
	return m
}

func TestAllocateGivesTheLowestFreeIDOfTheBlockLeasedFirst(t *testing.T) {
	a := newTestAllocator(newClock(), 9, 3)
	for i := range BlockSize {
		if m := allocate(t, a); m != Block(9).First()+Machine(i) {
			t.Fatalf("id %d is %d, want %d", i, m, Block(9).First()+Machine(i))
		}
	}
	if m := allocate(t, a); m != Block(3).First() {
		t.Fatalf("after block 9, the id is %d, want the first of block 3, %d", m, Block(3).First())
	}
	a.Cancel(Block(9).First() + 200)
	a.Cancel(Block(9).First() + 77)
	if m := allocate(t, a); m != Block(9).First()+77 {
		t.Fatalf("the id is %d, want %d, the lowest free one of the block leased first", m, Block(9).First()+77)
	}
}

func TestAllocateFailsWhenNoBlockHasAFreeID(t *testing.T) {
	a := newTestAllocator(newClock())
	if m, err := a.Allocate(); !errors.Is(err, ErrExhausted) {
		t.Errorf("without a block, Allocate gives %d, %v; want ErrExhausted", m, err)
	}
	a.Lease(1)
	for range BlockSize {
		allocate(t, a)
	}
	if m, err := a.Allocate(); !errors.Is(err, ErrExhausted) {
		t.Errorf("with a full block, Allocate gives %d, %v; want ErrExhausted", m, err)
	}
}

func TestMachineZeroIsNeverIssued(t *testing.T) {
	a := newTestAllocator(newClock(), 0)
	a.Cancel(0)
	a.Quarantine(0, time.Time{})
	if a.Size() != 255 || a.Free() != 255 {
		t.Errorf("block 0 has %d of %d ids free, want 255 of 255", a.Free(), a.Size())
	}
	for range 255 {
		if m := allocate(t, a); m == 0 {
			t.Fatal("machine 0 was issued")
		}
	}
	if m, err := a.Allocate(); !errors.Is(err, ErrExhausted) {
		t.Errorf("the 256th id of block 0 is %d, %v; want ErrExhausted", m, err)
	}
	if _, err := a.Release(0); !errors.Is(err, ErrNotInUse) {
		t.Errorf("Release(0) fails with %v, want ErrNotInUse", err)
	}
}

func TestTheHighestBlockIssuesTheHighestID(t *testing.T) {
	a := newTestAllocator(newClock(), MaxBlock, MaxBlock+1)
	if !slices.Equal(a.Blocks(), []Block{MaxBlock}) {
		t.Fatalf("blocks are %v: there is none after %d, its ids would be those of block 0", a.Blocks(), MaxBlock)
	}
	var last Machine
	for range BlockSize {
		last = allocate(t, a)
	}
	if last != 0xffffffff {
		t.Errorf("the last id is %d, want 4294967295", last)
	}
}

func TestAReleasedIDIsNotIssuedBeforeItsQuarantineEnds(t *testing.T) {
	c := newClock()
	a := newTestAllocator(c, 1)
	first := allocate(t, a)
	until, err := a.Release(first)
	if err != nil || !until.Equal(c.t.Add(time.Hour)) {
		t.Fatalf("Release(%d) = %s, %v; want an hour from %s", first, until, err, c.t)
	}
	c.advance(time.Hour - 1)
	if m := allocate(t, a); m == first {
		t.Fatalf("machine %d was issued again 1 ns before its quarantine ended", m)
	}
	c.advance(1)
	if m := allocate(t, a); m != first {
		t.Fatalf("after the quarantine of machine %d, the id is %d", first, m)
	}
}

func TestReleasingTwiceDoesNotProlongTheQuarantine(t *testing.T) {
	c := newClock()
	a := newTestAllocator(c, 1)
	m := allocate(t, a)
	until, err := a.Release(m)
	if err != nil {
		t.Fatal(err)
	}
	c.advance(time.Minute)
	if again, err := a.Release(m); err != nil || !again.Equal(until) {
		t.Errorf("the second Release(%d) = %s, %v; want %s as the first", m, again, err, until)
	}
	c.t = until
	if _, err := a.Release(m); !errors.Is(err, ErrNotInUse) {
		t.Errorf("Release(%d) of a free id fails with %v, want ErrNotInUse", m, err)
	}
}

func TestReleaseRefusesWhatIsNotInUse(t *testing.T) {
	a := newTestAllocator(newClock(), 1)
	for _, m := range []Machine{Block(1).First(), Block(2).First()} {
		if _, err := a.Release(m); !errors.Is(err, ErrNotInUse) {
			t.Errorf("Release(%d) fails with %v, want ErrNotInUse", m, err)
		}
	}
	if a.Free() != BlockSize {
		t.Errorf("%d ids are free after refused releases, want %d", a.Free(), BlockSize)
	}
}

func TestIDsOutsideTheLeasedBlocksAreForgotten(t *testing.T) {
	c := newClock()
	a := newTestAllocator(c, 1)
	foreign := Block(2).First()
	a.Use(foreign)
	a.Quarantine(foreign+1, c.t.Add(time.Hour))
	a.Lease(2)
	if a.Free() != 2*BlockSize {
		t.Errorf("%d ids are free, want %d: marks before the lease do nothing", a.Free(), 2*BlockSize)
	}
}

func TestADroppedBlockIsLeasedAgainAfterTheOthersAndAllFree(t *testing.T) {
	c := newClock()
	a := newTestAllocator(c, 5, 6)
	used, released := allocate(t, a), allocate(t, a)
	if _, err := a.Release(released); err != nil {
		t.Fatal(err)
	}
	a.Drop(5)
	if a.Leased(5) || !slices.Equal(a.Blocks(), []Block{6}) || a.Size() != BlockSize {
		t.Errorf("after Drop(5): leased %t, blocks %v, size %d", a.Leased(5), a.Blocks(), a.Size())
	}
	a.Drop(5)
	a.Lease(5)
	if !slices.Equal(a.Blocks(), []Block{6, 5}) {
		t.Errorf("blocks are %v, want [6 5]", a.Blocks())
	}
	if a.Free() != 2*BlockSize {
		t.Errorf("%d ids are free, want all %d: machines %d and %d were dropped with their block", a.Free(), 2*BlockSize, used, released)
	}
}

func TestLeasingALeasedBlockKeepsItsIDs(t *testing.T) {
	a := newTestAllocator(newClock(), 1)
	m := allocate(t, a)
	a.Lease(1)
	if again := allocate(t, a); again == m {
		t.Errorf("machine %d was issued twice", m)
	}
}

func TestFreeTellsWhenThreeQuartersAreInUse(t *testing.T) {
	c := newClock()
	a := newTestAllocator(c, 1, 2)
	for range 3 * a.Size() / 4 {
		allocate(t, a)
	}
	if a.Free()*4 != a.Size() {
		t.Errorf("%d of %d ids are free, want a quarter", a.Free(), a.Size())
	}
	if _, err := a.Release(Block(1).First()); err != nil {
		t.Fatal(err)
	}
	if a.Free()*4 != a.Size() {
		t.Errorf("%d ids are free, want as many as before: one in quarantine is not", a.Free())
	}
	c.advance(time.Hour)
	if a.Free()*4 != a.Size()+4 {
		t.Errorf("%d ids are free, want one more after the quarantine", a.Free())
	}
}

func TestBlocksIsACopy(t *testing.T) {
	a := newTestAllocator(newClock(), 1, 2)
	a.Blocks()[0] = 7
	if !slices.Equal(a.Blocks(), []Block{1, 2}) {
		t.Errorf("blocks are %v, want [1 2]", a.Blocks())
	}
}

func TestQuarantineIsAnHourUnlessSaid(t *testing.T) {
	c := newClock()
	a := NewAllocator(AllocatorOptions{Now: c.now})
	a.Lease(1)
	until, err := a.Release(allocate(t, a))
	if err != nil || !until.Equal(c.t.Add(time.Hour)) {
		t.Errorf("Release gives %s, %v; want an hour from %s", until, err, c.t)
	}
}

// model is the allocator as simply as it can be written: the state of each id, and a search.
type model struct {
	order []Block
	used  map[Machine]bool
	until map[Machine]time.Time
}

func (m *model) free(id Machine, now time.Time) bool {
	return id != 0 && slices.Contains(m.order, id.Block()) && !m.used[id] && !m.until[id].After(now)
}

func (m *model) frees(now time.Time) (ids []Machine) {
	for _, b := range m.order {
		for i := range Machine(BlockSize) {
			if m.free(b.First()+i, now) {
				ids = append(ids, b.First()+i)
			}
		}
	}
	return ids
}

func (m *model) forget(id Machine) {
	delete(m.used, id)
	delete(m.until, id)
}

func TestAllocatorBehavesLikeTheModel(t *testing.T) {
	const quarantine = time.Hour
	seed := testSeed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	c := newClock()
	a := NewAllocator(AllocatorOptions{Quarantine: quarantine, Now: c.now})
	m := &model{used: map[Machine]bool{}, until: map[Machine]time.Time{}}
	blocks := []Block{0, 1, 7, MaxBlock}

	for step := range 30_000 {
		block := blocks[random.IntN(len(blocks))]
		id := block.First() + Machine(random.IntN(BlockSize))
		leased := id != 0 && slices.Contains(m.order, block)
		switch action := random.IntN(200); {
		case action < 1:
			a.Drop(block)
			m.order = slices.DeleteFunc(m.order, func(b Block) bool { return b == block })
			for i := range Machine(BlockSize) {
				m.forget(block.First() + i)
			}
		case action < 6:
			a.Lease(block)
			if !slices.Contains(m.order, block) {
				m.order = append(m.order, block)
			}
		case action < 16:
			a.Use(id)
			if leased {
				m.forget(id)
				m.used[id] = true
			}
		case action < 26:
			until := c.t.Add(time.Duration(random.Int64N(int64(2*quarantine))) - quarantine/2)
			a.Quarantine(id, until)
			if leased {
				m.forget(id)
				m.until[id] = until
			}
		case action < 36:
			a.Cancel(id)
			if leased {
				m.forget(id)
			}
		case action < 80:
			until, err := a.Release(id)
			switch {
			case leased && m.used[id]:
				m.forget(id)
				m.until[id] = c.t.Add(quarantine)
				fallthrough
			case leased && m.until[id].After(c.t):
				if err != nil || !until.Equal(m.until[id]) {
					t.Fatalf("step %d: Release(%d) = %s, %v; want %s", step, id, until, err, m.until[id])
				}
			case !errors.Is(err, ErrNotInUse):
				t.Fatalf("step %d: Release(%d) of a free id = %s, %v; want ErrNotInUse", step, id, until, err)
			}
		case action < 100:
			c.advance(time.Duration(random.Int64N(int64(quarantine / 4))))
		default:
			free := m.frees(c.t)
			id, err := a.Allocate()
			if len(free) == 0 {
				if !errors.Is(err, ErrExhausted) {
					t.Fatalf("step %d: Allocate = %d, %v; want ErrExhausted", step, id, err)
				}
				continue
			}
			if err != nil || id != free[0] {
				t.Fatalf("step %d: Allocate = %d, %v; want %d", step, id, err, free[0])
			}
			m.forget(id)
			m.used[id] = true
		}
		if step%16 == 0 {
			if got, want := a.Free(), len(m.frees(c.t)); got != want {
				t.Fatalf("step %d: %d ids are free, want %d", step, got, want)
			}
			if !slices.Equal(a.Blocks(), m.order) {
				t.Fatalf("step %d: blocks are %v, want %v", step, a.Blocks(), m.order)
			}
		}
	}
	rebuilt := rebuild(c, quarantine, m)
	for {
		got, gotErr := rebuilt.Allocate()
		want, wantErr := a.Allocate()
		if got != want || gotErr != wantErr {
			t.Fatalf("the rebuilt allocator gives %d, %v; the first one %d, %v", got, gotErr, want, wantErr)
		}
		if gotErr != nil {
			return
		}
	}
}

// rebuild makes an allocator from records, as a store does when the daemon starts.
func rebuild(c *clock, quarantine time.Duration, m *model) *Allocator {
	a := NewAllocator(AllocatorOptions{Quarantine: quarantine, Now: c.now})
	for _, b := range m.order {
		a.Lease(b)
	}
	for id := range maps.Keys(m.used) {
		a.Use(id)
	}
	for id, until := range m.until {
		a.Quarantine(id, until)
	}
	return a
}

// testSeed returns a new seed and says how to run with it again, should the test fail.
func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("IP6D_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("IP6D_TEST_SEED: %v", err)
		}
	}
	t.Logf("again with: IP6D_TEST_SEED=%d go test -run '^%s$' ./addr", seed, t.Name())
	return seed
}

func BenchmarkAllocateAndRelease(b *testing.B) {
	c := newClock()
	a := newTestAllocator(c)
	for block := range Block(64) {
		a.Lease(block)
	}
	b.ReportAllocs()
	for b.Loop() {
		m, err := a.Allocate()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := a.Release(m); err != nil {
			b.Fatal(err)
		}
		c.advance(time.Second)
	}
}
