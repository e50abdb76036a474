package hwmap_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// at returns what makes the nth step go wrong, counted over those of a kind, and whether it came to that.
func at(n int, f fault, counts func(what string) bool) (decide func(addr.Host, string) fault, hit func() (string, bool)) {
	var where string
	return func(host addr.Host, what string) fault {
			if !counts(what) {
				return none
			}
			if n--; n != 0 {
				return none
			}
			where = fmt.Sprintf("%s on host %d", what, host)
			return f
		}, func() (string, bool) {
			return where, where != ""
		}
}

// Which steps a fault can befall.
func anyStep(what string) bool    { return true }
func remoteStep(what string) bool { return what == "write fleet" || strings.HasPrefix(what, "ask") }
func changing(what string) bool   { return !strings.HasPrefix(what, "read") }

var faults = []struct {
	fault  fault
	counts func(string) bool
}{
	{fails, anyStep},
	{doubtful, remoteStep},
	{lost, remoteStep},
	{delayed, remoteStep},
	{crashBefore, changing},
	{crashAfter, changing},
}

// everyFault runs scenario with the first, then the second step going wrong, and so on, until none does; once for each fault.
func everyFault(t *testing.T, scenario func(t *testing.T, f *fleet)) {
	for _, c := range faults {
		t.Run(string(c.fault), func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				hit, where := false, ""
				ok := t.Run(fmt.Sprint(n), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						f := newFleet(t, 3)
						f.create(1, "web1")
						time.Sleep(time.Minute)
						decide, happened := at(n, c.fault, c.counts)
						f.armed = decide
						f.inject(decide)
						scenario(t, f)
						where, hit = happened()
						if t.Failed() {
							t.Logf("the fault: %s, %s", c.fault, where)
						}
					})
				})
				if !ok || !hit {
					t.Logf("%d steps", n-1)
					return
				}
			}
		})
	}
}

func TestMigrationSurvivesAnyFaultWhenCallsAreRepeated(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		f.migrate("web1", 1, 2)
		f.migrate("web1", 2, 1)
		f.check(map[string]addr.Host{"web1": 1})
		f.inject(nil)
		f.migrate("web1", 1, 3)
		f.check(map[string]addr.Host{"web1": 3})
	})
}

func TestMigrationThatMetAnyFaultCanBeAborted(t *testing.T) {
	for _, on := range []addr.Host{1, 2} {
		t.Run(map[addr.Host]string{1: "on the source", 2: "on the target"}[on], func(t *testing.T) {
			everyFault(t, func(t *testing.T, f *fleet) {
				f.tryMigrating("web1", 1, 2)
				f.check(f.abort("web1", 1, 2, on))
				// Nothing stands in the way of the next migration.
				f.inject(nil)
				if f.servers[1].local(1).State == hwmap.Here {
					f.migrate("web1", 1, 3)
				} else {
					f.migrate("web1", 2, 3)
				}
				f.check(map[string]addr.Host{"web1": 3})
			})
		})
	}
}

// tryMigrating makes each call of a migration up to the switchover once, whatever comes of it.
func (f *fleet) tryMigrating(name string, from, to addr.Host) {
	f.t.Logf("begin: %v; attach: %v; switchover: %v",
		f.call(from, begin(name, to)), f.call(to, attach(name)), f.call(from, switchover(name)))
}

// abort aborts a migration on one of its hosts until that succeeds, or it is too late; then it is finished. It returns what
// is where.
func (f *fleet) abort(name string, from, to, on addr.Host) map[string]addr.Host {
	f.t.Helper()
	where := from
	f.insist("abort", func() error {
		err := f.call(on, abort(name))
		switch {
		case errors.Is(err, hwmap.ErrCommitted):
			where = to
			return nil
		case on == to && errors.Is(err, hwmap.ErrUnknownMachine):
			// It was never accepted there, or is not expected any more. Then the source knows what is so.
			on = from
		}
		return err
	})
	if on == to {
		if v, err := f.on(to).Machine(name); err == nil && v.State == hwmap.Here {
			where = to // it had arrived: there was nothing to abort
		}
	}
	if where == to {
		f.insist("finish", func() error { return f.call(from, finish(name)) })
	}
	return map[string]addr.Host{name: where}
}
