package hwmap_test

import (
	"testing"
	"testing/synctest"

	"ip6d/addr"
	"ip6d/hwmap"
)

// The daemon's metrics are these counts, read when they are asked for.
func TestNothingCountsAMachineWhereItIsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		counts := func(when string, host addr.Host, want map[hwmap.LocalState]int) {
			t.Helper()
			equal(t, when, want, f.on(host).Status().Machines)
		}
		f.create(1, "web1")
		f.create(1, "web2")
		counts("created", 1, map[hwmap.LocalState]int{hwmap.Here: 2})
		f.migrate("web1", 1, 2)
		counts("moved away", 1, map[hwmap.LocalState]int{hwmap.Here: 1, hwmap.Issued: 1}) // of its home, the id
		counts("moved here", 2, map[hwmap.LocalState]int{hwmap.Here: 1})
		f.must(f.call(2, destroy("web1")))
		counts("destroyed away from home", 2, map[hwmap.LocalState]int{})
		f.must(f.call(1, destroy("web2")))
		synctest.Wait()
		counts("destroyed", 1, map[hwmap.LocalState]int{hwmap.Quarantined: 2}) // ids, not machines
	})
}
