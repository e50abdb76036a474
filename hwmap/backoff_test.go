package hwmap_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/hwmap"
)

// Quarantines that end, blocks that were given and machines that are to be settled all want the store: however many there
// are, it is asked about once a second, and the log has a few lines of it.
func TestAStoreThatIsAwayIsAskedSeldomHoweverMuchThereIsToAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newMemory()
		o := newOutage(store)
		f := newFleetOn(t, o, 2)
		f.memory = store
		f.inject(o.decide)
		synctest.Wait()
		for i := range 150 {
			name := fmt.Sprintf("web%d", i)
			f.must(f.call(1, func(ctx context.Context, m *hwmap.Map) error {
				_, err := m.Create(ctx, name, 7)
				return err
			}))
			if i >= 75 {
				f.must(f.call(1, destroy(name)))
			}
		}
		f.settled()
		o.start()
		for i := range 75 {
			f.must(f.call(1, destroy(fmt.Sprintf("web%d", i))))
		}
		o.counted()
		lines := f.servers[1].log.count("")
		const hours = 3
		time.Sleep(hours * time.Hour)
		synctest.Wait()
		calls, streams := o.counted()
		if n := len(calls[1]); n < 100*hours || n > callsPerHour*hours {
			t.Errorf("host 1 called the store %d times in %d hours", n, hours)
		}
		if streams > 2*callsPerHour*hours {
			t.Errorf("watches and held keys were asked for %d times in %d hours", streams, hours)
		}
		if n := f.servers[1].log.count("") - lines; n > 20 {
			t.Errorf("%d lines in the log", n)
		}
		if n := f.on(1).Status().Machines[hwmap.Quarantined]; n != 150 {
			t.Errorf("%d machines are quarantined, want 150", n)
		}
		o.end()
		f.settled()
		if n := f.on(1).Status().Machines[hwmap.Quarantined]; n != 0 {
			t.Errorf("%d machines are still quarantined when the store is back", n)
		}
		f.check(nil)
	})
}
