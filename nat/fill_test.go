package nat

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"ip6d/addr"
	"ip6d/bpf"
)

// holdFill holds what is told to what the maps really have.
func holdFill(t *testing.T, d *Datapath, when string) {
	t.Helper()
	places, slots := 0, 0
	ok(t, list(d.objects.Ports, "ports", func(_ uint32, v bpf.DatapathPort) {
		if v.Ifindex != 0 {
			places++
		}
	}))
	ok(t, list(d.objects.Slots, "slots", func(_, _ uint32) { slots++ }))
	want := []Fill{
		{"blocks", len(must(d.Blocks())), 8},
		{"hosts", slots, 8},
		{"machines", len(must(d.Machines())), 8},
		{"moved", len(must(d.MovedEntries())), 8 * addr.BlockSize},
		{"ports", places, portPlaces},
	}
	if got := d.Fill(); !slices.Equal(got, want) {
		t.Errorf("%s: it tells of %v, the maps have %v", when, got, want)
	}
}

func TestFillCountsWhatTheMapsHold(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	holdFill(t, d, "empty")
	some := func() addr.Stable { return stable(5, 1, addr.Machine(rand.N(12)*addr.BlockSize/2)) }
	host := func() addr.Host { return addr.Host(2 + rand.N(12)) }
	for range 500 { // with many that are repeated, stale, missing, or find no room
		put, deleted, epoch := some(), some(), rand.Uint64N(4)+1
		for _, err := range []error{
			d.PutMachine(here(put, epoch)),
			d.PutMoved(Moved{ID: put.ID(), Host: host(), Epoch: epoch}),
			d.PutBlock(Block{Cell: 1, Block: put.Machine().Block(), Home: 2}),
			d.PutHost(NextHop{Host: host(), Ifindex: 1, Gateway: internet, Source: mac(1), Kind: HopNeighbour}),
			d.DeleteMachine(deleted.ID(), epoch),
			d.DeleteMoved(deleted.ID(), epoch),
			d.DeleteBlock(1, deleted.Machine().Block()),
			d.DeleteHost(host()),
		} {
			if err != nil && !errors.Is(err, ErrStale) && !errors.Is(err, ErrFull) {
				t.Error(err)
			}
		}
		if d.AttachPort(1<<30, put) == nil { // the identity that it wrote is taken back
			t.Error("attached to no device")
		}
	}
	holdFill(t, d, "after 500 rounds")
	ok(t, d.Close())
	holdFill(t, open(t, o), "after a restart")
}
