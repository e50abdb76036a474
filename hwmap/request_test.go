package hwmap_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// request makes a call one of that request id.
func request(id string, what func(context.Context, *hwmap.Map) error) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		ctx, err := hwmap.WithRequestID(ctx, id)
		if err != nil {
			return err
		}
		return what(ctx, m)
	}
}

func detach(name string) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := m.Detach(ctx, name)
		return err
	}
}

func (f *fleet) localState(host addr.Host, name string) hwmap.LocalState {
	f.t.Helper()
	for _, l := range f.servers[host].locals() {
		if l.Name == name {
			return l.State
		}
	}
	return ""
}

// move moves web1 as an orchestrator does that names its calls.
func (f *fleet) move(from, to addr.Host, id string) {
	f.t.Helper()
	f.must(f.call(from, request("begin"+id, begin("web1", to))))
	f.must(f.call(to, request("attach"+id, attach("web1"))))
	f.must(f.call(from, request("switchover"+id, switchover("web1"))))
	synctest.Wait()
	f.must(f.call(from, request("finish"+id, finish("web1"))))
	f.settled()
}

func TestALateCopyOfACallDoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.must(f.call(1, request("create", create("web1"))))
		f.must(f.call(1, request("attach", attach("web1"))))
		f.move(1, 2, "A")
		f.move(2, 1, "B")
		copies := func() {
			t.Helper()
			for _, late := range []func(context.Context, *hwmap.Map) error{
				request("create", create("web1")), request("attach", attach("web1")), request("beginA", begin("web1", 2)),
				request("switchoverA", switchover("web1")), request("finishA", finish("web1")),
			} {
				f.must(f.call(1, late))
			}
		}
		copies()
		f.servers[1].kill()
		f.servers[1].start()
		copies()
		if got := f.localState(1, "web1"); got != hwmap.Here {
			t.Errorf("copies of calls of an earlier migration made the machine %s", got)
		}

		// Of an earlier switchover, while another migration is ready for one.
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.must(f.call(1, request("switchoverA", switchover("web1"))))
		if got := f.localState(1, "web1"); got != hwmap.Leaving {
			t.Errorf("a copy of an earlier switchover made the machine %s", got)
		}
		f.must(f.call(1, request("abort", abort("web1"))))
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(1, request("abort", abort("web1"))))
		if got := f.localState(1, "web1"); got != hwmap.Leaving {
			t.Errorf("a copy of an abort made the machine %s", got)
		}
		f.must(f.call(1, abort("web1")))

		// Of detach, and of destroy, when the name is another machine's.
		f.must(f.call(1, request("detach", detach("web1"))))
		f.attach(1, "web1")
		f.must(f.call(1, request("detach", detach("web1"))))
		if v, err := f.on(1).Machine("web1"); err != nil || v.Port == nil {
			t.Errorf("a copy of a detach took the port: %+v, error %v", v, err)
		}
		f.must(f.call(1, request("destroy", destroy("web1"))))
		f.create(1, "web1")
		f.must(f.call(1, request("destroy", destroy("web1"))))
		if got := f.localState(1, "web1"); got != hwmap.Here {
			t.Errorf("a copy of the destroy of an earlier machine made its namesake %q", got)
		}
		f.destroy(1, "web1")
		f.must(f.call(1, request("create", create("web1"))))
		if got := f.localState(1, "web1"); got != "" {
			t.Errorf("a copy of the create of an earlier machine made one that is %s", got)
		}
	})
}

func TestARepeatedCallIsAnsweredAsItWasFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		ctx, err := hwmap.WithRequestID(t.Context(), "1")
		f.must(err)
		created, err := f.on(1).Create(ctx, "web1", 7)
		f.must(err)
		ctx, err = hwmap.WithRequestID(t.Context(), "2")
		f.must(err)
		spec := hwmap.PortSpec{Netns: "/run/netns/web1"}
		attached, err := f.on(1).Attach(ctx, "web1", spec)
		f.must(err)
		f.move(1, 2, "A")
		again, err := f.on(1).Attach(ctx, "web1", spec)
		f.must(err)
		equal(t, "the answer to attach", attached.Stable.String()+string(encoded(t, attached.Local)), again.Stable.String()+string(encoded(t, again.Local)))
		f.destroy(2, "web1")
		ctx, err = hwmap.WithRequestID(t.Context(), "1")
		f.must(err)
		again, err = f.on(1).Create(ctx, "web1", 7)
		f.must(err)
		equal(t, "the answer to create", created.Stable.String()+string(encoded(t, created.Local)), again.Stable.String()+string(encoded(t, again.Local)))
		ctx, err = hwmap.WithRequestID(t.Context(), "switchoverA")
		f.must(err)
		outcome, epoch, err := f.on(1).Switchover(ctx, "web1")
		if outcome != hwmap.Committed || epoch != 2 || err != nil {
			t.Errorf("the switchover is %s at epoch %d, error %v", outcome, epoch, err)
		}
	})
}

func TestARequestIDIsOfOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.must(f.call(1, request("1", create("web1"))))
		f.must(f.call(1, request("1", create("web2")))) // another machine's id
		f.must(f.call(1, request("2", attach("web1"))))
		f.must(f.call(1, request("3", begin("web1", 2))))
		for id, call := range map[string]func(context.Context, *hwmap.Map) error{
			"1": destroy("web1"),
			"2": func(ctx context.Context, m *hwmap.Map) error {
				_, err := m.Attach(ctx, "web1", hwmap.PortSpec{Netns: "/run/netns/other"})
				return err
			},
			"3": begin("web1", 3),
		} {
			if err := f.call(1, request(id, call)); !errors.Is(err, hwmap.ErrRequest) {
				t.Errorf("request %s was given to another call: error %v", id, err)
			}
		}
		for _, id := range []string{"two words", "ü", strings.Repeat("x", 65)} {
			if _, err := hwmap.WithRequestID(t.Context(), id); !errors.Is(err, hwmap.ErrUsage) {
				t.Errorf("request id %q: error %v", id, err)
			}
		}
	})
}

func TestARequestThatFailedActsWhenItIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		refuse := func(step string) {
			f.inject(func(_ addr.Host, what string) fault {
				if strings.HasPrefix(what, step) {
					return fails
				}
				return none
			})
		}
		for _, step := range []string{"write fleet", "ask to accept"} {
			refuse(step)
			if err := f.call(1, request("begin", begin("web1", 2))); err == nil {
				t.Errorf("begin succeeded, but %q failed", step)
			}
			f.inject(nil)
		}
		f.must(f.call(1, request("begin", begin("web1", 2))))
		f.must(f.call(2, attach("web1")))
		f.must(f.call(1, request("switchover", switchover("web1"))))
		if got := f.localState(1, "web1"); got != hwmap.Away {
			t.Errorf("the machine is %s", got)
		}
	})
}

func TestABeginThatAnAbortEndedIsNotBegunAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.inject(func(_ addr.Host, what string) fault {
			if strings.HasPrefix(what, "ask") {
				return fails
			}
			return none
		})
		if err := f.call(1, request("begin", begin("web1", 2))); err == nil {
			t.Error("begin succeeded without its target")
		}
		f.inject(nil)
		f.must(f.call(1, abort("web1")))
		_ = f.call(1, request("begin", begin("web1", 2)))
		if got := f.localState(1, "web1"); got != hwmap.Here {
			t.Errorf("a copy of a begin that was aborted made the machine %s", got)
		}
	})
}

// What settling brings to its end is known to have been a call's: the copy that comes late does nothing.
func TestASettledCallHasSpentItsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.inject(func(_ addr.Host, what string) fault {
			if what == "write fleet" {
				return lost
			}
			return none
		})
		if err := f.call(1, request("switchover", switchover("web1"))); !errors.Is(err, errNotCommitted) {
			t.Errorf("a switchover in doubt: error %v", err)
		}
		f.inject(nil)
		f.settled()
		f.must(f.call(1, finish("web1")))
		f.move(2, 1, "back")
		f.must(f.call(1, begin("web1", 2)))
		f.must(f.call(2, attach("web1")))
		f.must(f.call(1, request("switchover", switchover("web1"))))
		if got := f.localState(1, "web1"); got != hwmap.Leaving {
			t.Errorf("a copy of the switchover that was in doubt made the machine %s", got)
		}
		f.must(f.call(1, switchover("web1")))
		f.settled()
		f.must(f.call(1, finish("web1")))

		// Destroyed away from home, in doubt; then its name comes here again.
		f.inject(func(host addr.Host, what string) fault {
			if host == 2 && what == "write fleet" {
				return lost
			}
			return none
		})
		if err := f.call(2, request("destroy", destroy("web1"))); !errors.Is(err, hwmap.ErrInDoubt) {
			t.Errorf("a destroy in doubt: error %v", err)
		}
		f.inject(nil)
		f.settled()
		f.create(2, "web1")
		f.must(f.call(2, request("destroy", destroy("web1"))))
		if got := f.localState(2, "web1"); got != hwmap.Here {
			t.Errorf("a copy of the destroy that was in doubt made the namesake %q", got)
		}
	})
}

func TestCopiesAtTheSameTimeActOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.slow(func() time.Duration { return 100 * time.Millisecond })
		var calls sync.WaitGroup
		for range 8 {
			calls.Go(func() {
				if err := f.call(1, request("begin", begin("web1", 2))); err != nil {
					t.Error(err)
				}
				if err := f.call(1, request("abort", abort("web1"))); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		f.slow(nil)
		f.settled()
		if got := f.history(1, "web1"); got != "created attached leaving answered aborted" {
			t.Errorf("the history is %q", got)
		}
	})
}
