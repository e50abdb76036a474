package hwmap_test

import (
	"testing"
	"testing/synctest"

	"ip6d/addr"
)

func TestMachineMovesAwayOnAndHome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		created := f.create(1, "web1")
		for i, move := range [][2]addr.Host{{1, 2}, {2, 3}, {3, 1}} {
			f.migrate("web1", move[0], move[1])
			f.check(map[string]addr.Host{"web1": move[1]})
			v, err := f.on(move[1]).Machine("web1")
			if err != nil || v.Stable != created.Stable || v.Host != move[1] || v.Epoch != uint64(i+2) {
				t.Errorf("after %v: %+v, %v", move, v, err)
			}
		}
	})
}
