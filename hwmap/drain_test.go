package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// drain drains host 1, with an orchestrator that moves each machine as soon as it is told of it.
func (f *fleet) drain(o hwmap.DrainOptions) (went map[string]addr.Host, done *hwmap.DrainStep, err error) {
	f.t.Helper()
	went = make(map[string]addr.Host)
	moves := make(chan func(), 100)
	go func() {
		for move := range moves {
			move()
		}
	}()
	err = f.call(1, func(ctx context.Context, m *hwmap.Map) error {
		defer close(moves)
		o.Idle = time.Minute
		return m.Drain(context.WithoutCancel(ctx), o, func(s hwmap.DrainStep) error {
			switch {
			case s.Done:
				done = &s
			case s.Machine != nil:
				name, to := s.Machine.Name, s.To
				went[name] = to
				moves <- func() {
					if to == 0 {
						f.insist("abort", func() error { return f.call(1, abort(name)) })
						return
					}
					f.moveTo(name, to)
				}
			}
			return nil
		})
	})
	return went, done, err
}

// moveTo moves a machine from host 1, whatever it is at, without a port where it has none.
func (f *fleet) moveTo(name string, to addr.Host) {
	v, err := f.on(1).Machine(name)
	if err != nil || v.State == "" {
		return
	}
	if v.Port != nil {
		f.migrate(name, 1, to)
		return
	}
	for _, call := range []func(context.Context, *hwmap.Map) error{begin(name, to), switchover(name), finish(name)} {
		f.insist("move", func() error { return f.call(1, call) })
	}
}

func TestADrainedHostIsEmptyAndCanBeSwitchedOffAndComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		want := make(map[string]addr.Host)
		for i := range 4 {
			f.create(1, fmt.Sprintf("web%d", i))
			f.create(2, fmt.Sprintf("other%d", i))
			want[fmt.Sprintf("other%d", i)] = 2
		}
		f.createStopped(1, "stopped")
		f.create(1, "destroyed")
		f.destroy(1, "destroyed")
		f.create(1, "away")
		f.migrate("away", 1, 3)
		want["away"] = 3
		f.must(f.call(1, begin("web3", 2))) // half way
		f.create(3, "coming")
		f.must(f.call(3, begin("coming", 1)))
		want["coming"] = 3

		went, done, err := f.drain(hwmap.DrainOptions{Ask: f.askLocals})
		f.must(err)
		if done == nil || len(done.Blocks) != 1 {
			t.Fatalf("it ends with %+v", done)
		}
		if went["web3"] != 2 || went["coming"] != 0 || len(went) != 6 {
			t.Errorf("they are to go to %v", went)
		}
		for _, name := range []string{"web0", "web1", "web2", "stopped"} {
			if want[name] = went[name]; went[name] == 0 {
				t.Errorf("%s goes nowhere", name)
			}
		}
		want["web3"] = 2
		// Host 2 has four, host 3 two: the first go to host 3.
		if on3 := want["web0"] == 3 && want["web1"] == 3 || want["stopped"] == 3; !on3 {
			t.Errorf("they are spread as %v", went)
		}
		f.settled()
		if f.state(1) != hwmap.Cordoned || f.view().blocks[0].Home == 1 {
			t.Errorf("host 1 is %s, block 0 %+v", f.state(1), f.view().blocks[0])
		}
		f.attach(want["stopped"], "stopped") // it starts there
		f.leftBehind(1)

		f.servers[1].reboot()
		f.settled()
		f.servers[1].start()
		f.say(2, (*hwmap.Map).Uncordon, 1)
		f.settled()
		if v := f.create(1, "new"); v.ID.Machine.Block() == 0 {
			t.Errorf("it issues %d, of a block that it has handed over", v.ID.Machine)
		}
		want["new"] = 1
		f.migrate("web0", want["web0"], 1)
		want["web0"] = 1
		f.check(want)
	})
}

func TestADrainIsTakenUpWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.create(1, "web2")
		enough := errors.New("enough")
		err := f.call(1, func(ctx context.Context, m *hwmap.Map) error {
			return m.Drain(ctx, hwmap.DrainOptions{}, func(s hwmap.DrainStep) error {
				if s.Whole {
					return enough
				}
				return nil
			})
		})
		if !errors.Is(err, enough) || f.state(1) != hwmap.Draining {
			t.Fatalf("%v, and it is %s", err, f.state(1))
		}
		f.migrate("web1", 1, 2)
		f.servers[1].kill()
		f.servers[1].start()
		went, done, err := f.drain(hwmap.DrainOptions{To: []addr.Host{3}})
		f.must(err)
		if len(went) != 1 || went["web2"] != 3 || done == nil || done.Blocks[0].Home != 3 {
			t.Errorf("%v go; %+v", went, done)
		}
		f.check(map[string]addr.Host{"web1": 2, "web2": 3})
	})
}

func TestADrainIsCalledOffByUncordon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		err := f.call(1, func(ctx context.Context, m *hwmap.Map) error {
			return m.Drain(ctx, hwmap.DrainOptions{}, func(s hwmap.DrainStep) error {
				if s.Whole {
					_, err := f.on(2).Uncordon(ctx, 1)
					return err
				}
				return nil
			})
		})
		if !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "called off") {
			t.Errorf("it ends with %v", err)
		}
		f.check(map[string]addr.Host{"web1": 1})
		f.create(1, "web2")
	})
}

func TestADrainIsRefusedWithoutATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		f.create(1, "web1")
		f.say(1, (*hwmap.Map).Cordon, 2)
		f.settled()
		for _, c := range []struct {
			to   []addr.Host
			want error
		}{
			{[]addr.Host{1}, hwmap.ErrUsage},
			{[]addr.Host{3, 2}, hwmap.ErrState},
			{[]addr.Host{9}, hwmap.ErrUnknownHost},
		} {
			if _, _, err := f.drain(hwmap.DrainOptions{To: c.to}); !errors.Is(err, c.want) {
				t.Errorf("to %v: %v, want %v", c.to, err, c.want)
			}
		}
		f.servers[3].kill()
		if _, _, err := f.drain(hwmap.DrainOptions{Ask: f.askLocals}); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("with the only other host down: %v", err)
		}
		if f.state(1) != hwmap.Joined {
			t.Errorf("refused, host 1 is %s", f.state(1))
		}
		f.servers[3].start()
	})
}
