package hwmap_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// createStopped makes a machine that has no port.
func (f *fleet) createStopped(on addr.Host, name string) hwmap.MachineView {
	f.t.Helper()
	v, err := f.on(on).Create(f.t.Context(), name, 7)
	f.must(err)
	return v
}

func checkTarget(name string) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error { return m.CheckTarget(ctx, name) }
}

func TestAStoppedMachineMovesWithoutAPortAndKeepsItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		before := f.createStopped(1, "web1")
		if err := f.call(1, checkTarget("web1")); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("before begin: %v", err)
		}
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(1, checkTarget("web1")))
		f.servers[2].kill()
		if err := f.call(1, checkTarget("web1")); !errors.Is(err, hwmap.ErrNotReady) {
			t.Errorf("with the target down: %v", err)
		}
		f.servers[2].start()
		f.must(f.call(1, switchover("web1")))
		f.must(f.call(1, finish("web1")))
		f.check(map[string]addr.Host{"web1": 2})
		time.Sleep(10 * time.Minute)
		// It starts there, and is stopped and moved once more.
		f.attach(2, "web1")
		_, err := f.on(2).Detach(t.Context(), "web1")
		f.must(err)
		f.must(f.call(2, begin("web1", 3)))
		f.must(f.call(2, switchover("web1")))
		f.must(f.call(2, finish("web1")))
		f.attach(3, "web1")
		f.check(map[string]addr.Host{"web1": 3})
		if v, err := f.on(3).Machine("web1"); err != nil || v.Stable != before.Stable || v.Epoch != before.Epoch+2 {
			t.Errorf("it was %+v, is %+v (%v)", before, v, err)
		}
	})
}

// A machine that runs is another matter: whatever the target said before, it gets there by a port.
func TestAMachineThatIsStartedWhileItMovesNeedsAPortOnTheTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.createStopped(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.attach(1, "web1")
		for _, call := range []func(context.Context, *hwmap.Map) error{checkTarget("web1"), switchover("web1")} {
			if err := f.call(1, call); !errors.Is(err, hwmap.ErrNotReady) {
				t.Errorf("without a port on the target: %v", err)
			}
		}
		f.attach(2, "web1")
		f.must(f.call(1, checkTarget("web1")))
		f.must(f.call(1, switchover("web1")))
		f.must(f.call(1, finish("web1")))
		f.check(map[string]addr.Host{"web1": 2})
	})
}
