package hwmap

import (
	"iter"
	"maps"
	"math/rand/v2"
	"testing"

	"ip6d/addr"
)

func TestMachineRecordsAreWhatWasPutLast(t *testing.T) {
	var records machineRecords
	want := make(map[addr.Machine]Machine)
	blocks := []addr.Block{0, 1, 700, lowBlocks - 1, lowBlocks, addr.MaxBlock}
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 20000 {
		number := blocks[random.IntN(len(blocks))].First() + addr.Machine(random.IntN(addr.BlockSize))
		// At first there are more and more, at the end fewer and fewer.
		if random.IntN(20000) < step {
			records.put(number, nil)
			delete(want, number)
		} else {
			r := Machine{Machine: number, Epoch: uint64(step), Host: addr.Host(random.IntN(3))} // also 0, which no host has
			records.put(number, &r)
			want[number] = r
		}
		expectRecord(t, &records, want, number)
		expectRecord(t, &records, want, blocks[random.IntN(len(blocks))].First()+addr.Machine(random.IntN(addr.BlockSize)))
		if step%500 == 0 {
			expectRecords(t, &records, want, blocks)
		}
	}
	for number := range maps.Clone(want) {
		records.put(number, nil)
		delete(want, number)
	}
	expectRecords(t, &records, want, blocks)
	for _, b := range blocks {
		if records.of(b) != nil {
			t.Errorf("block %d has no records, and keeps memory for some", b)
		}
	}
}

func expectRecord(t *testing.T, records *machineRecords, want map[addr.Machine]Machine, number addr.Machine) {
	t.Helper()
	r, ok := want[number]
	if got, is := records.get(number); is != ok || got != r {
		t.Fatalf("machine %d: %+v, %t; want %+v, %t", number, got, is, r, ok)
	}
	if got, is := records.host(number); is != ok || got != r.Host {
		t.Fatalf("machine %d is on host %d, %t; want %d, %t", number, got, is, r.Host, ok)
	}
}

func expectRecords(t *testing.T, records *machineRecords, want map[addr.Machine]Machine, blocks []addr.Block) {
	t.Helper()
	if got := collect(t, records.all()); records.len() != len(want) || !maps.Equal(got, want) {
		t.Fatalf("%d records, of them %d are ranged over; want %d", records.len(), len(got), len(want))
	}
	for range records.all() {
		break // the rest is not asked for
	}
	for _, b := range append(blocks, 2, lowBlocks+1) {
		of := maps.Clone(want)
		maps.DeleteFunc(of, func(number addr.Machine, _ Machine) bool { return number.Block() != b })
		if got := collect(t, records.ofBlock(b)); !maps.Equal(got, of) {
			t.Fatalf("block %d: %d records, want %d", b, len(got), len(of))
		}
	}
}

// collect returns what is ranged over; each machine may come once.
func collect(t *testing.T, records iter.Seq2[addr.Machine, Machine]) map[addr.Machine]Machine {
	t.Helper()
	all := make(map[addr.Machine]Machine)
	for number, r := range records {
		if _, twice := all[number]; twice {
			t.Errorf("machine %d comes twice", number)
		}
		all[number] = r
	}
	return all
}
