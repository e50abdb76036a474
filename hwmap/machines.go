package hwmap

import (
	"iter"
	"math/bits"
	"slices"

	"ip6d/addr"
)

// machineRecords are records of machines, by number. A cell's blocks are numbered from 0, so those of a block are kept
// together and found by its number: who asks for a host waits for one place in memory, however many there are. The zero
// value is empty, and ready.
type machineRecords struct {
	low  []*blockRecords              // of blocks below lowBlocks, by number; nil where there are none
	high map[addr.Block]*blockRecords // of the others
	n    int
}

// lowBlocks bounds what a single record of a high number can make the table grow by.
const lowBlocks = 1 << 16

// blockRecords are the records of one block's machines.
type blockRecords struct {
	hosts   [addr.BlockSize]addr.Host // of each; 0 where there is no record
	present [addr.BlockSize / 64]uint64
	records []Machine // of those present, in order
}

func (t *machineRecords) len() int { return t.n }

// of returns the records of a block, or nil.
func (t *machineRecords) of(b addr.Block) *blockRecords {
	if int(b) < len(t.low) {
		return t.low[b]
	}
	return t.high[b]
}

func (t *machineRecords) get(number addr.Machine) (Machine, bool) {
	if b := t.of(number.Block()); b != nil {
		if i, ok := b.find(number); ok {
			return b.records[i], true
		}
	}
	return Machine{}, false
}

// host returns the host that the machine's record names, and whether it has one.
func (t *machineRecords) host(number addr.Machine) (addr.Host, bool) {
	b := t.of(number.Block())
	if b == nil {
		return 0, false
	}
	if h := b.hosts[number%addr.BlockSize]; h != 0 {
		return h, true
	}
	_, ok := b.find(number)
	return 0, ok
}

// put takes in a machine's record, or that it has none: nil.
func (t *machineRecords) put(number addr.Machine, r *Machine) {
	b := t.of(number.Block())
	if b == nil {
		if r == nil {
			return
		}
		b = new(blockRecords)
		t.set(number.Block(), b)
	}
	before := len(b.records)
	b.put(number, r)
	t.n += len(b.records) - before
	if len(b.records) == 0 {
		t.set(number.Block(), nil)
	}
}

// set has b be the records of a block; nil: it has none.
func (t *machineRecords) set(number addr.Block, b *blockRecords) {
	switch {
	case number < lowBlocks:
		if need := int(number) + 1 - len(t.low); need > 0 {
			t.low = append(t.low, make([]*blockRecords, need)...)
		}
		t.low[number] = b
	case b == nil:
		delete(t.high, number)
	default:
		if t.high == nil {
			t.high = make(map[addr.Block]*blockRecords)
		}
		t.high[number] = b
	}
}

// blocks ranges over the blocks that have records, and those of each, by the machine's number; none may be put meanwhile.
func (t *machineRecords) blocks() iter.Seq2[addr.Block, iter.Seq2[addr.Machine, Machine]] {
	return func(yield func(addr.Block, iter.Seq2[addr.Machine, Machine]) bool) {
		for number, b := range t.low {
			if b != nil && !yield(addr.Block(number), b.all(addr.Block(number))) {
				return
			}
		}
		for number, b := range t.high {
			if !yield(number, b.all(number)) {
				return
			}
		}
	}
}

// all ranges over all records; none may be put meanwhile.
func (t *machineRecords) all() iter.Seq2[addr.Machine, Machine] {
	return func(yield func(addr.Machine, Machine) bool) {
		for _, records := range t.blocks() {
			for number, r := range records {
				if !yield(number, r) {
					return
				}
			}
		}
	}
}

// ofBlock ranges over the records of one block's machines; none may be put meanwhile.
func (t *machineRecords) ofBlock(number addr.Block) iter.Seq2[addr.Machine, Machine] {
	if b := t.of(number); b != nil {
		return b.all(number)
	}
	return func(func(addr.Machine, Machine) bool) {}
}

// find returns where in records the machine's is, or would be, and whether it is there.
func (b *blockRecords) find(number addr.Machine) (int, bool) {
	word, bit := number%addr.BlockSize/64, number%64
	i := bits.OnesCount64(b.present[word] & (1<<bit - 1))
	for _, w := range b.present[:word] {
		i += bits.OnesCount64(w)
	}
	return i, b.present[word]&(1<<bit) != 0
}

func (b *blockRecords) put(number addr.Machine, r *Machine) {
	i, ok := b.find(number)
	slot := number % addr.BlockSize
	word, mask := slot/64, uint64(1)<<(slot%64)
	switch {
	case r == nil && ok:
		b.records = slices.Delete(b.records, i, i+1)
		b.present[word] &^= mask
		b.hosts[slot] = 0
	case r == nil:
	case ok:
		b.records[i], b.hosts[slot] = *r, r.Host
	default:
		b.records = slices.Insert(b.records, i, *r)
		b.present[word] |= mask
		b.hosts[slot] = r.Host
	}
}

// all ranges over the records of b, which is the block of that number.
func (b *blockRecords) all(block addr.Block) iter.Seq2[addr.Machine, Machine] {
	return func(yield func(addr.Machine, Machine) bool) {
		i := 0
		for word, w := range b.present {
			for ; w != 0; w &= w - 1 {
				if !yield(block.First()+addr.Machine(word*64+bits.TrailingZeros64(w)), b.records[i]) {
					return
				}
				i++
			}
		}
	}
}
