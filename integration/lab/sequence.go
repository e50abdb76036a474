package lab

import (
	"encoding/binary"
	"math/bits"
	"time"
)

// packetSize is the payload of a packet of a UDP stream, in bytes: the stream's id, the sequence number, and words that
// follow from both.
const packetSize = 96

// writePacket fills in a packet.
func writePacket(b []byte, stream, sequence uint64) {
	binary.BigEndian.PutUint64(b, stream)
	binary.BigEndian.PutUint64(b[8:], sequence)
	for at := 16; at < packetSize; at += 8 {
		binary.BigEndian.PutUint64(b[at:], filler(stream, sequence, at))
	}
}

// readPacket returns the sequence number; false: it is not a packet of that stream, or not as it was sent.
func readPacket(b []byte, stream uint64) (sequence uint64, ok bool) {
	if len(b) != packetSize || binary.BigEndian.Uint64(b) != stream {
		return 0, false
	}
	sequence = binary.BigEndian.Uint64(b[8:])
	for at := 16; at < packetSize; at += 8 {
		if binary.BigEndian.Uint64(b[at:]) != filler(stream, sequence, at) {
			return 0, false
		}
	}
	return sequence, true
}

// filler differs in most bits from packet to packet and from word to word (the constants are those of splitmix64).
func filler(stream, sequence uint64, at int) uint64 {
	x := stream ^ (sequence+uint64(at)<<48)*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	return x ^ x>>27
}

// arrivals is what is known about the packets of a stream that came, by sequence number.
type arrivals struct {
	seen       []uint64 // a bit for each
	unique     uint64
	duplicated uint64
	reordered  uint64 // came after one with a higher number
	highest    uint64 // plus one

	last       time.Time
	longestGap time.Duration
	timeline   []uint32 // packets in each interval since the stream's start
}

// timelineStep is the length of an interval of a timeline.
const timelineStep = 100 * time.Millisecond

// add takes note of a packet. start is when the stream began, at when the packet came.
func (a *arrivals) add(sequence uint64, start, at time.Time) {
	word, bit := sequence/64, uint64(1)<<(sequence%64)
	for uint64(len(a.seen)) <= word {
		a.seen = append(a.seen, make([]uint64, max(1024, len(a.seen)))...)
	}
	if a.seen[word]&bit != 0 {
		a.duplicated++
		return
	}
	a.seen[word] |= bit
	a.unique++
	if sequence+1 < a.highest {
		a.reordered++
	}
	a.highest = max(a.highest, sequence+1)

	if !a.last.IsZero() {
		a.longestGap = max(a.longestGap, at.Sub(a.last))
	}
	a.last = at
	interval := max(0, int(at.Sub(start)/timelineStep))
	for len(a.timeline) <= interval {
		a.timeline = append(a.timeline, 0)
	}
	a.timeline[interval]++
}

// missing returns how many of the first sent packets did not come, and the numbers of the first few.
func (a *arrivals) missing(sent uint64, few int) (n uint64, examples []uint64) {
	for word := uint64(0); word*64 < sent; word++ {
		var seen uint64
		if word < uint64(len(a.seen)) {
			seen = a.seen[word]
		}
		lacking := ^seen
		if rest := sent - word*64; rest < 64 {
			lacking &= 1<<rest - 1
		}
		n += uint64(bits.OnesCount64(lacking))
		for ; lacking != 0 && len(examples) < few; lacking &= lacking - 1 {
			examples = append(examples, word*64+uint64(bits.TrailingZeros64(lacking)))
		}
	}
	return n, examples
}
