package addr

import (
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// DefaultQuarantine is how long a released id stays unissued unless AllocatorOptions says otherwise.
const DefaultQuarantine = time.Hour

// AllocatorOptions are the settings of an Allocator.
type AllocatorOptions struct {
	// Quarantine is for how long a released id is not issued again, so that what was still being sent to its last user
	// does not reach the next. 0 is DefaultQuarantine.
	Quarantine time.Duration

	// Now is the clock. nil is time.Now.
	Now func() time.Time
}

// Allocator issues machine numbers from the blocks that a host leases: of the block leased first that has a free id, the
// lowest. It is arithmetic alone, without I/O and without a goroutine: the caller keeps the records that must survive,
// and rebuilds the Allocator from them with Lease, Use and Quarantine.
//
// An id of a leased block is free, in use or in quarantine. Of ids outside the leased blocks, an Allocator knows
// nothing: marking one does nothing. So a block is leased first and its ids are marked after that, before the next
// Allocate.
//
// Machine 0 is never issued, although its address would be valid in every network but 0. A number that is 0 because
// nobody has set it then never names a machine, and block 0 has 255 ids instead of 256.
//
// An Allocator is not safe for concurrent use; the caller's lock covers it together with the records.
type Allocator struct {
	quarantine time.Duration
	now        func() time.Time

	order  []Block           // leased blocks, in the order of their lease
	blocks map[Block]*issued // the same blocks

	until    map[Machine]time.Time // ids in quarantine, which are marked as issued as well
	earliest time.Time             // no quarantine ends before this, so that most calls need not look through until
}

// issued has a bit for each id of a block that must not be issued now.
type issued [BlockSize / 64]uint64

// NewAllocator returns an Allocator that leases no block.
func NewAllocator(o AllocatorOptions) *Allocator {
	if o.Quarantine == 0 {
		o.Quarantine = DefaultQuarantine
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Allocator{
		quarantine: o.Quarantine,
		now:        o.Now,
		blocks:     make(map[Block]*issued),
		until:      make(map[Machine]time.Time),
	}
}

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
	for m := range a.until {
		if m.Block() == b {
			delete(a.until, m)
		}
	}
}

// Leased reports whether b is leased.
func (a *Allocator) Leased(b Block) bool { return a.blocks[b] != nil }

// Blocks returns the leased blocks in the order of their lease.
func (a *Allocator) Blocks() []Block { return slices.Clone(a.order) }

// Allocate returns a free id, which is in use from then on: the lowest of the block leased first that has one.
// The error is ErrExhausted.
func (a *Allocator) Allocate() (Machine, error) {
	a.expire()
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
		delete(a.until, m)
	}
}

// InUse reports whether m is of a leased block, and not free.
func (a *Allocator) InUse(m Machine) bool {
	ids := a.of(m)
	return ids != nil && ids.has(m%BlockSize)
}

// Release puts an id that is in use into quarantine, and returns when that ends. An id that is in quarantine stays in it
// until the same time as before. Errors: ErrNotInUse, where m is free or of no leased block.
//
// The record that m was released is the caller's, and must say the same time. A caller that has to write it
// first uses Quarantine.
func (a *Allocator) Release(m Machine) (until time.Time, err error) {
	a.expire()
	if until, ok := a.until[m]; ok {
		return until, nil
	}
	if ids := a.of(m); ids == nil || !ids.has(m%BlockSize) {
		return time.Time{}, fmt.Errorf("release machine %d: %w", m, ErrNotInUse)
	}
	until = a.now().Add(a.quarantine)
	a.Quarantine(m, until)
	return until, nil
}

// Quarantine keeps m from being issued before until, whatever it was. An until that has passed makes it free.
func (a *Allocator) Quarantine(m Machine, until time.Time) {
	ids := a.of(m)
	if ids == nil {
		return
	}
	ids.set(m % BlockSize)
	if len(a.until) == 0 || until.Before(a.earliest) {
		a.earliest = until
	}
	a.until[m] = until
}

// Cancel makes m free at once, whatever it was. That is right only where nobody can have learnt of its last use.
func (a *Allocator) Cancel(m Machine) {
	if ids := a.of(m); ids != nil {
		ids.clear(m % BlockSize)
		delete(a.until, m)
	}
}

// Free returns how many ids Allocate could issue now.
func (a *Allocator) Free() int {
	a.expire()
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

// expire frees the ids whose quarantine has ended.
func (a *Allocator) expire() {
	if len(a.until) == 0 {
		return
	}
	now := a.now()
	if now.Before(a.earliest) {
		return
	}
	a.earliest = time.Time{}
	for m, until := range a.until {
		switch {
		case !now.Before(until):
			a.Cancel(m)
		case a.earliest.IsZero() || until.Before(a.earliest):
			a.earliest = until
		}
	}
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
