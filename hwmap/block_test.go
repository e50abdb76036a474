package hwmap_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"ip6d/addr"
	"ip6d/hwmap"
)

func TestAnotherBlockIsLeasedAtThreeQuarters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		m := f.on(1)
		for i := range 300 {
			v, err := m.Create(t.Context(), fmt.Sprint(i), 7)
			f.must(err)
			synctest.Wait()
			// Block 0 has 255 ids, block 1 is host 2's.
			if blocks := len(f.view().blocks); (i+1)*4 >= 255*3 != (blocks == 3) {
				t.Fatalf("with %d machines there are %d blocks", i+1, blocks)
			}
			if b := v.ID.Machine.Block(); b == 1 {
				t.Fatalf("machine %d is of host 2's block", v.ID.Machine)
			}
		}
	})
}

func TestWithoutTheStoreABlockIsIssuedToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.cutOff(1)
		m := f.on(1)
		for i := range 255 {
			if _, err := m.Create(t.Context(), fmt.Sprint(i), 7); err != nil {
				t.Fatal(i, err)
			}
		}
		if _, err := m.Create(t.Context(), "one-too-many", 7); !errors.Is(err, addr.ErrExhausted) {
			t.Errorf("error %v", err)
		}
		f.inject(nil)
		f.insist("create", func() error {
			_, err := m.Create(t.Context(), "one-too-many", 7)
			return err
		})
	})
}

// A lease whose answer was lost is recognised, not made twice.
func TestALeaseInDoubtIsNotMadeTwice(t *testing.T) {
	for _, c := range []struct {
		fault  fault
		blocks int
	}{{lost, 1}, {doubtful, 1}, {fails, 1}} {
		t.Run(string(c.fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 0)
				s := f.add(1)
				decide, _ := at(2, c.fault, func(what string) bool { return what == "write fleet" }) // the first joins
				f.inject(decide)
				s.start()
				f.create(1, "web1")
				f.check(map[string]addr.Host{"web1": 1})
				if blocks := f.view().blocks; len(blocks) != c.blocks {
					t.Errorf("blocks: %v", blocks)
				}
			})
		})
	}
}

func TestAFrozenBlockIssuesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "web1")
		f.write("map/blocks/0", hwmap.Block{Block: 0, Home: 1, Epoch: 2, Frozen: true})
		f.settled()
		if v := f.create(1, "web2"); v.ID.Machine.Block() != 1 {
			t.Errorf("issued %v", v.ID)
		}
		f.write("map/blocks/0", hwmap.Block{Block: 0, Home: 1, Epoch: 3, EpochFloor: 40})
		f.settled()
		for i := range 300 {
			v, err := f.on(1).Create(t.Context(), fmt.Sprint(i), 7)
			f.must(err)
			if v.ID.Machine == 1 {
				t.Fatal("the id of web1 is issued again")
			}
			if v.ID.Machine.Block() == 0 && v.Epoch != 41 {
				t.Fatalf("machine %d has epoch %d, not above the floor", v.ID.Machine, v.Epoch)
			}
			synctest.Wait()
		}
	})
}
