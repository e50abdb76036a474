package addr

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

func newTestAllocator(blocks ...Block) *Allocator {
	a := NewAllocator()
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
	a := newTestAllocator(9, 3)
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
	a := newTestAllocator()
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
	a := newTestAllocator(0)
	a.Cancel(0)
	a.Use(0)
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
}

func TestTheHighestBlockIssuesTheHighestID(t *testing.T) {
	a := newTestAllocator(MaxBlock, MaxBlock+1)
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

func TestInUseAreTheIDsOfLeasedBlocksThatAreNotFree(t *testing.T) {
	a := newTestAllocator(1)
	m := allocate(t, a)
	a.Use(m + 5)
	for id, want := range map[Machine]bool{m: true, m + 1: false, m + 5: true, Block(2).First(): false, 0: false} {
		if a.InUse(id) != want {
			t.Errorf("machine %d in use: %t, want %t", id, !want, want)
		}
	}
	a.Cancel(m)
	if a.InUse(m) {
		t.Errorf("machine %d is in use after Cancel", m)
	}
}

func TestIDsOutsideTheLeasedBlocksAreForgotten(t *testing.T) {
	a := newTestAllocator(1)
	a.Use(Block(2).First())
	a.Lease(2)
	if a.Free() != 2*BlockSize {
		t.Errorf("%d ids are free, want %d: marks before the lease do nothing", a.Free(), 2*BlockSize)
	}
}

func TestADroppedBlockIsLeasedAgainAfterTheOthersAndAllFree(t *testing.T) {
	a := newTestAllocator(5, 6)
	used := allocate(t, a)
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
		t.Errorf("%d ids are free, want all %d: machine %d was dropped with its block", a.Free(), 2*BlockSize, used)
	}
}

func TestLeasingALeasedBlockKeepsItsIDs(t *testing.T) {
	a := newTestAllocator(1)
	m := allocate(t, a)
	a.Lease(1)
	if again := allocate(t, a); again == m {
		t.Errorf("machine %d was issued twice", m)
	}
}

func TestFreeTellsWhenThreeQuartersAreInUse(t *testing.T) {
	a := newTestAllocator(1, 2)
	for range 3 * a.Size() / 4 {
		allocate(t, a)
	}
	if a.Free()*4 != a.Size() {
		t.Errorf("%d of %d ids are free, want a quarter", a.Free(), a.Size())
	}
	a.Cancel(Block(1).First())
	if a.Free()*4 != a.Size()+4 {
		t.Errorf("%d ids are free, want one more", a.Free())
	}
}

func TestBlocksIsACopy(t *testing.T) {
	a := newTestAllocator(1, 2)
	a.Blocks()[0] = 7
	if !slices.Equal(a.Blocks(), []Block{1, 2}) {
		t.Errorf("blocks are %v, want [1 2]", a.Blocks())
	}
}

// model is the allocator as simply as it can be written: the state of each id, and a search.
type model struct {
	order []Block
	used  map[Machine]bool
}

func (m *model) frees() (ids []Machine) {
	for _, b := range m.order {
		for i := range Machine(BlockSize) {
			if id := b.First() + i; id != 0 && !m.used[id] {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func TestAllocatorBehavesLikeTheModel(t *testing.T) {
	random := rand.New(rand.NewPCG(testSeed(t), 0))
	a := NewAllocator()
	m := &model{used: map[Machine]bool{}}
	blocks := []Block{0, 1, 7, MaxBlock}

	for step := range 30_000 {
		block := blocks[random.IntN(len(blocks))]
		id := block.First() + Machine(random.IntN(BlockSize))
		leased := id != 0 && slices.Contains(m.order, block)
		switch action := random.IntN(200); {
		case action < 1:
			a.Drop(block)
			m.order = slices.DeleteFunc(m.order, func(b Block) bool { return b == block })
			maps.DeleteFunc(m.used, func(id Machine, _ bool) bool { return id.Block() == block })
		case action < 6:
			a.Lease(block)
			if !slices.Contains(m.order, block) {
				m.order = append(m.order, block)
			}
		case action < 26:
			a.Use(id)
			if leased {
				m.used[id] = true
			}
		case action < 90:
			a.Cancel(id)
			delete(m.used, id)
		default:
			free := m.frees()
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
			m.used[id] = true
		}
		if a.InUse(id) != m.used[id] {
			t.Fatalf("step %d: machine %d in use: %t, want %t", step, id, a.InUse(id), m.used[id])
		}
		if step%16 == 0 {
			if got, want := a.Free(), len(m.frees()); got != want {
				t.Fatalf("step %d: %d ids are free, want %d", step, got, want)
			}
			if !slices.Equal(a.Blocks(), m.order) {
				t.Fatalf("step %d: blocks are %v, want %v", step, a.Blocks(), m.order)
			}
		}
	}
	rebuilt := newTestAllocator(m.order...) // from records, as when the daemon starts
	for id := range m.used {
		rebuilt.Use(id)
	}
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

func BenchmarkAllocate(b *testing.B) {
	a := newTestAllocator()
	for block := range Block(64) {
		a.Lease(block)
	}
	b.ReportAllocs()
	for b.Loop() {
		m, err := a.Allocate()
		if err != nil {
			b.Fatal(err)
		}
		a.Cancel(m)
	}
}
