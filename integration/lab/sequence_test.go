package lab

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestAPacketIsReadAsItWasWritten(t *testing.T) {
	b := make([]byte, packetSize)
	for _, sequence := range []uint64{0, 1, 63, 64, 1 << 20, 1<<64 - 1} {
		writePacket(b, 7, sequence)
		if got, ok := readPacket(b, 7); !ok || got != sequence {
			t.Errorf("packet %d is read as %d, %v", sequence, got, ok)
		}
		if _, ok := readPacket(b, 8); ok {
			t.Errorf("packet %d is taken for one of another stream", sequence)
		}
		if _, ok := readPacket(b[:packetSize-1], 7); ok {
			t.Errorf("packet %d is read though its last byte is missing", sequence)
		}
	}
}

func TestAPacketWithOneWrongBitIsNotRead(t *testing.T) {
	b := make([]byte, packetSize)
	writePacket(b, 7, 1000)
	for bit := range packetSize * 8 {
		b[bit/8] ^= 1 << (bit % 8)
		if sequence, ok := readPacket(b, 7); ok {
			t.Errorf("bit %d of byte %d was flipped, and it is read as %d", bit%8, bit/8, sequence)
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
}

func TestArrivalsTellLostFromTwiceFromOutOfOrder(t *testing.T) {
	for _, c := range []struct {
		name                        string
		came                        []uint64
		sent                        uint64
		lost, duplicated, reordered uint64
		missing                     []uint64
	}{
		{"nothing sent", nil, 0, 0, 0, 0, nil},
		{"nothing came", nil, 3, 3, 0, 0, []uint64{0, 1, 2}},
		{"all came", []uint64{0, 1, 2}, 3, 0, 0, 0, nil},
		{"the first is missing", []uint64{1, 2}, 3, 1, 0, 0, []uint64{0}},
		{"the last is missing", []uint64{0, 1}, 3, 1, 0, 0, []uint64{2}},
		{"one twice", []uint64{0, 1, 1, 2}, 3, 0, 1, 0, nil},
		{"one three times", []uint64{0, 0, 0}, 1, 0, 2, 0, nil},
		{"two changed places", []uint64{0, 2, 1, 3}, 4, 0, 0, 1, nil},
		{"one came last of all", []uint64{1, 2, 3, 0}, 4, 0, 0, 1, nil},
		{"twice and out of order counts once", []uint64{0, 1, 0}, 2, 0, 1, 0, nil},
		{"across words", []uint64{0, 64, 128}, 130, 127, 0, 0, []uint64{1, 2}},
	} {
		var a arrivals
		start := time.Unix(100, 0)
		for _, sequence := range c.came {
			a.add(sequence, start, start)
		}
		lost, missing := a.missing(c.sent, 2)
		if want := c.missing[:min(2, len(c.missing))]; lost != c.lost || !slices.Equal(missing, want) {
			t.Errorf("%s: %d lost, the first %v; want %d, %v", c.name, lost, missing, c.lost, want)
		}
		if a.duplicated != c.duplicated || a.reordered != c.reordered {
			t.Errorf("%s: %d twice, %d out of order; want %d, %d", c.name, a.duplicated, a.reordered, c.duplicated, c.reordered)
		}
	}
}

func TestArrivalsAgreeWithANaiveCount(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		sent := r.Uint64N(500)
		var a arrivals
		times := make(map[uint64]int)
		for range r.IntN(1000) {
			if sent == 0 {
				break
			}
			sequence := r.Uint64N(sent)
			times[sequence]++
			a.add(sequence, time.Time{}, time.Time{})
		}
		var duplicated uint64
		for _, n := range times {
			duplicated += uint64(n - 1)
		}
		lost, _ := a.missing(sent, 0)
		if lost != sent-uint64(len(times)) || a.duplicated != duplicated || a.unique != uint64(len(times)) {
			t.Fatalf("seed %d: of %d sent, %d came: counted %d lost, %d twice, %d once; want %d twice", seed, sent, len(times), lost, a.duplicated, a.unique, duplicated)
		}
	}
}

func TestTheLongestGapAndTheTimelineAreOfArrivals(t *testing.T) {
	var a arrivals
	start := time.Unix(100, 0)
	for sequence, ms := range []int{0, 10, 150, 199, 450} {
		a.add(uint64(sequence), start, start.Add(time.Duration(ms)*time.Millisecond))
	}
	if want := 251 * time.Millisecond; a.longestGap != want {
		t.Errorf("longest gap %v, want %v", a.longestGap, want)
	}
	if want := []uint32{2, 2, 0, 0, 1}; !slices.Equal(a.timeline, want) {
		t.Errorf("timeline %v, want %v", a.timeline, want)
	}
}
