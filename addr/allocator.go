package addr

import (
	"math/bits"
	"slices"
)

// Allocator issues machine numbers from the blocks that a host leases: of the block leased first that has a free id, the
// lowest. It is arithmetic alone, without I/O and without a goroutine: the caller keeps the records that must survive,
// and rebuilds the Allocator from them with Lease and Use. An id in quarantine is one in use: when it is free the caller knows.
//
// An id of a leased block is free or in use. Of ids outside the leased blocks, an Allocator knows
// nothing: marking one does nothing. So a block is leased first and its ids are marked after that, before the next
// Allocate.
//
// Machine 0 is never issued, although its address would be valid in every network but 0. A number that is 0 because
// nobody has set it then never names a machine, and block 0 has 255 ids instead of 256.
//
// An Allocator is not safe for concurrent use; the caller's lock covers it together with the records.
type Allocator struct {
	order  []Block           // leased blocks, in the order of their lease
	blocks map[Block]*issued // the same blocks
}

// issued has a bit for each id of a block that is in use.
type issued [BlockSize / 64]uint64

// NewAllocator returns an Allocator that leases no block.
func NewAllocator() *Allocator { return &Allocator{blocks: make(map[Block]*issued)} }

// Lease adds b after the other leased blocks, with all its ids free. Leasing a leased block changes nothing,
// nor does one above MaxBlock, whose ids would be those of another.
func (a *Allocator) Lease(b Block) {
	if a.Leased(b) || b > MaxBlock {
		return
	}
	ids := new(issued)
	if b == 0 {
		ids.set(0) // machine 0
	}
	a.blocks[b] = ids
	a.order = append(a.order, b)
}

// Drop removes b and all that is known about its ids. Machines that hold them keep them: only issuing ends.
func (a *Allocator) Drop(b Block) {
	if !a.Leased(b) {
		return
	}
	delete(a.blocks, b)
	a.order = slices.DeleteFunc(a.order, func(leased Block) bool { return leased == b })
}

// Leased reports whether b is leased.
func (a *Allocator) Leased(b Block) bool { return a.blocks[b] != nil }

// Blocks returns the leased blocks in the order of their lease.
func (a *Allocator) Blocks() []Block { return slices.Clone(a.order) }

// Allocate returns a free id, which is in use from then on: the lowest of the block leased first that has one.
// The error is ErrExhausted.
func (a *Allocator) Allocate() (Machine, error) {
	for _, b := range a.order {
		ids := a.blocks[b]
		if i := ids.lowestFree(); i < BlockSize {
			ids.set(i)
			return b.First() + Machine(i), nil
		}
	}
	return 0, ErrExhausted
}

// Use marks m as in use, whatever it was.
func (a *Allocator) Use(m Machine) {
	if ids := a.of(m); ids != nil {
		ids.set(m % BlockSize)
	}
}

// InUse reports whether m is of a leased block, and not free.
func (a *Allocator) InUse(m Machine) bool {
	ids := a.of(m)
	return ids != nil && ids.has(m%BlockSize)
}

// Cancel makes m free at once, whatever it was. That is right only where nobody can have learnt of its last use.
func (a *Allocator) Cancel(m Machine) {
	if ids := a.of(m); ids != nil {
		ids.clear(m % BlockSize)
	}
}

// Free returns how many ids Allocate could issue now.
func (a *Allocator) Free() int {
	free := 0
	for _, ids := range a.blocks {
		free += BlockSize - ids.count()
	}
	return free
}

// Size returns how many ids the leased blocks have, free or not.
func (a *Allocator) Size() int {
	size := len(a.order) * BlockSize
	if a.Leased(0) {
		size-- // machine 0
	}
	return size
}

// of returns what is issued of the block of m; nil where it is not leased, and for machine 0, which has no state.
func (a *Allocator) of(m Machine) *issued {
	if m == 0 {
		return nil
	}
	return a.blocks[m.Block()]
}

func (w *issued) set(i Machine)      { w[i/64] |= 1 << (i % 64) }
func (w *issued) clear(i Machine)    { w[i/64] &^= 1 << (i % 64) }
func (w *issued) has(i Machine) bool { return w[i/64]&(1<<(i%64)) != 0 }

func (w *issued) count() int {
	n := 0
	for _, word := range w {
		n += bits.OnesCount64(word)
	}
	return n
}

// lowestFree returns the index of the first id that may be issued; BlockSize where there is none.
func (w *issued) lowestFree() Machine {
	for i, word := range w {
		if free := ^word; free != 0 {
			return Machine(i*64 + bits.TrailingZeros64(free))
		}
	}
	return BlockSize
}
