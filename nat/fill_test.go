package nat

import (
	"errors"
	"math/rand/v2"
	"testing"

	"ip6d/addr"
)

// counted holds the counts to what the maps really have.
func (d *Datapath) counted(t *testing.T, when string) {
	t.Helper()
	for _, f := range d.Fill() {
		if n := must(countKeys(d.sized()[f.Map])); n != f.Entries || f.Size != 8 {
			t.Errorf("%s: %s is said to have %d of %d entries, and has %d of 8", when, f.Map, f.Entries, f.Size, n)
		}
	}
}

func TestFillCountsWhatTheMapsHold(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	d.counted(t, "empty")
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
	d.counted(t, "after 500 rounds")
	if len(d.Fill()) != 5 {
		t.Errorf("it tells of %v, want five maps", d.Fill())
	}
	ok(t, d.Close())
	open(t, o).counted(t, "after a restart")
}
