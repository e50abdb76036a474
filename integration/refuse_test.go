package integration

import (
	"testing"

	"ip6d/integration/lab"
)

func TestWhatMustNotBeCarriedIsRefusedWhereverTheMachinesAre(t *testing.T) {
	f := newFleet(t, 2)
	red1, red2, blue1, blue2 := f.Machine("red1"), f.Machine("red2"), f.Machine("blue1"), f.Machine("blue2")
	f.allPairs()
	try := func(where string) {
		t.Helper()
		routing, err := lab.RoutingDestination(red1, red2)
		f.must(err)
		for what, r := range map[string]lab.Refusal{
			"another network, on another host":  lab.OtherNetwork(red1, blue2, blue1),
			"another network, on the same host": lab.OtherNetwork(red1, blue1, blue2),
			"a neighbour's address as source":   lab.ForgedSource(red1, blue1, red2),
			"the receiver's address as source":  lab.ForgedSource(red1, red2, red2),
			"a routing address":                 routing,
		} {
			if n, err := r.Try(f.ctx, 5); err != nil || n < 5 {
				t.Errorf("%s, %s: %d refused, %v", where, what, n, err)
			}
		}
	}
	try("at home")
	f.must(red1.Move(f.ctx, f.Host(2)))
	try("the sender has moved to its receiver's host")
	f.must(red2.Move(f.ctx, f.Host(1)))
	try("both have moved")
}

func TestARefusalThatDoesNotHappenIsNoticed(t *testing.T) {
	f := newFleet(t, 2)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	f.must(red1.Ping(f.ctx, red2))
	allowed := lab.ForgedSource(red1, red1, red2) // its own address: nothing is forged
	n, err := allowed.Try(f.ctx, 1)
	f.mustFail("trying what is allowed", err, lab.ErrNotRefused.Error())
	if n != 0 {
		t.Errorf("%d packets were counted as refused", n)
	}
}
