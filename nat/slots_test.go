package nat

import (
	"errors"
	"testing"
	"time"

	"ip6d/addr"
)

// A slot goes to another host only when nothing leads to the one that had it.
func TestSlotsOfHostsToWhichNothingLeadsAreUsedAgain(t *testing.T) {
	o := options(pinDir(t))
	o.Sizes.Hosts = 4
	d := open(t, o)
	hop := func(h addr.Host) NextHop {
		return NextHop{Host: h, Ifindex: 1, Kind: HopNeighbour, Gateway: internet, Source: mac(1), MAC: mac(byte(h)), Trusted: time.Hour}
	}
	ok(t, d.PutBlock(Block{Cell: 1, Block: 1, Home: 2}))
	ok(t, d.PutMoved(Moved{ID: alice.ID(), Host: 3, Epoch: 1}))
	away := Machine{ID: bob.ID(), Network: bob.Network(), Epoch: 1, State: Away, Host: 4}
	ok(t, d.PutMachine(away))
	ok(t, d.PutHost(hop(5)))
	if err := d.PutHost(hop(6)); !errors.Is(err, ErrFull) {
		t.Fatalf("a fifth host: error %v, want ErrFull", err)
	}
	next := addr.Host(10)
	for what, free := range map[string]func() error{
		"a block's home":      func() error { return d.DeleteBlock(1, 1) },
		"a mover's host":      func() error { return d.DeleteMoved(alice.ID(), 1) },
		"where a machine is":  func() error { return d.DeleteMachine(bob.ID(), 1) },
		"a next hop that was": func() error { return d.DeleteHost(5) },
	} {
		ok(t, free())
		next++
		if err := d.PutHost(hop(next)); err != nil {
			t.Errorf("the slot of %s is not used again: %v", what, err)
		}
		if err := d.PutHost(hop(99)); !errors.Is(err, ErrFull) {
			t.Errorf("a slot in use was given away after that of %s: error %v", what, err)
		}
	}
	if got := must(d.Hosts()); len(got) != 4 {
		t.Errorf("hosts are %+v, want four", got)
	}
}

// The MAC of a host whose entry is written anew is never the half of two.
func TestNextHopWithAnotherMACIsUntrustedWhileItIsWritten(t *testing.T) {
	d := open(t, options(pinDir(t)))
	hop := NextHop{Host: 2, Ifindex: 1, Kind: HopNeighbour, Gateway: internet, Source: mac(1), MAC: mac(2), Trusted: time.Hour}
	ok(t, d.PutHost(hop))
	hop.MAC = mac(3)
	ok(t, d.PutHost(hop))
	if got := must(d.Hosts()); len(got) != 1 || got[0].MAC.String() != hop.MAC.String() || got[0].Trusted <= 0 {
		t.Errorf("hosts are %+v, want the second MAC, trusted", got)
	}
	hop.MAC, hop.Trusted = nil, 0
	ok(t, d.PutHost(hop))
	if got := must(d.Hosts()); len(got) != 1 || got[0].MAC != nil {
		t.Errorf("hosts are %+v, want no MAC", got)
	}
}
