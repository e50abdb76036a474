package hwmap_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// change is a word of an operator about a host.
type change func(*hwmap.Map, context.Context, addr.Host) (hwmap.Host, error)

// say has the daemon on a host say it about another, as often as it takes.
func (f *fleet) say(on addr.Host, what change, host addr.Host) {
	f.t.Helper()
	f.insist("say", func() error { return f.call(on, about(what, host)) })
}

func about(what change, host addr.Host) func(context.Context, *hwmap.Map) error {
	return func(ctx context.Context, m *hwmap.Map) error {
		_, err := what(m, ctx, host)
		return err
	}
}

// state is what a host's record says.
func (f *fleet) state(host addr.Host) hwmap.HostState {
	f.t.Helper()
	return f.view().hosts[host].State
}

func TestTheStatesOfAHostAndHowTheyFollowEachOther(t *testing.T) {
	changes := map[string]change{
		"cordon": (*hwmap.Map).Cordon, "uncordon": (*hwmap.Map).Uncordon, "begin drain": (*hwmap.Map).BeginDrain, "end drain": (*hwmap.Map).EndDrain,
	}
	const refused hwmap.HostState = ""
	for before, want := range map[hwmap.HostState]map[string]hwmap.HostState{
		hwmap.Joined:   {"cordon": hwmap.Cordoned, "uncordon": hwmap.Joined, "begin drain": hwmap.Draining, "end drain": refused},
		hwmap.Cordoned: {"cordon": hwmap.Cordoned, "uncordon": hwmap.Joined, "begin drain": hwmap.Draining, "end drain": hwmap.Cordoned},
		hwmap.Draining: {"cordon": hwmap.Draining, "uncordon": hwmap.Joined, "begin drain": hwmap.Draining, "end drain": hwmap.Cordoned},
		hwmap.Removing: {"cordon": hwmap.Cordoned, "uncordon": refused, "begin drain": refused, "end drain": refused},
		hwmap.Dead:     {"cordon": refused, "uncordon": refused, "begin drain": refused, "end drain": refused},
	} {
		for what, after := range want {
			t.Run(what+" of "+string(before), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t, 1)
					f.write("map/hosts/2", hwmap.Host{ID: 2, Name: "host2", Identity: "identity-2", State: before})
					h, err := changes[what](f.on(1), t.Context(), 2)
					if after == refused {
						if !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "host 2") {
							t.Errorf("%v, want it refused", err)
						}
						after = before
					} else if err != nil || h.State != after {
						t.Errorf("%s, %v, want %s", h.State, err, after)
					}
					if got := f.view().hosts[2]; got.State != after || got.Name != "host2" || got.Identity != "identity-2" {
						t.Errorf("its record: %+v, want %s", got, after)
					}
				})
			})
		}
	}
}

func TestACordonedHostMakesNoMachineAndIsNoTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		v := f.create(2, "web2")
		f.create(1, "web1")
		f.say(1, (*hwmap.Map).Cordon, 2)
		f.settled()
		refused := func() {
			t.Helper()
			if _, err := f.on(2).Create(t.Context(), "web3", 7); !errors.Is(err, hwmap.ErrState) || !strings.Contains(err.Error(), "cordoned") {
				t.Errorf("create: %v", err)
			}
			if again, err := f.on(2).Create(t.Context(), "web2", 7); err != nil || again.Stable != v.Stable {
				t.Errorf("the same again: %+v, %v", again, err)
			}
		}
		refused()
		if err := f.call(1, begin("web1", 2)); !errors.Is(err, hwmap.ErrState) {
			t.Errorf("begin: %v", err)
		}
		f.servers[2].kill()
		f.cutOff(2)
		f.servers[2].start()
		refused() // it knows from its cache
		f.inject(nil)
		f.migrate("web2", 2, 3) // what is there may go
		f.say(3, (*hwmap.Map).Uncordon, 2)
		f.settled()
		f.create(2, "web3")
		f.check(map[string]addr.Host{"web1": 1, "web2": 3, "web3": 2})
	})
}

func TestACordonedHostLeasesNoBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.write("map/hosts/2", hwmap.Host{ID: 2, Name: "host2", Identity: "identity-2", State: hwmap.Cordoned})
		f.add(2).start()
		f.check(nil)
		if blocks := f.view().blocks; len(blocks) != 1 {
			t.Errorf("blocks: %v", blocks)
		}
		f.say(2, (*hwmap.Map).Uncordon, 2)
		f.check(nil)
		if blocks := f.view().blocks; len(blocks) != 2 {
			t.Errorf("blocks after it was uncordoned: %v", blocks)
		}
	})
}

// Whatever the answers come to, a word that is repeated until it is taken is in the record, and the host knows it.
func TestAWordAboutAHostSurvivesAnyFaultWhenRepeated(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		f.say(1, (*hwmap.Map).Cordon, 2)
		f.say(2, (*hwmap.Map).BeginDrain, 2)
		f.say(3, (*hwmap.Map).Cordon, 3)
		f.say(1, (*hwmap.Map).Uncordon, 3)
		f.check(map[string]addr.Host{"web1": 1})
		for host, want := range map[addr.Host]hwmap.HostState{1: hwmap.Joined, 2: hwmap.Draining, 3: hwmap.Joined} {
			if got, knows := f.state(host), f.on(host).Status().Self.State; got != want || knows != want {
				t.Errorf("host %d is %s, and thinks that it is %s; want %s", host, got, knows, want)
			}
		}
	})
}

func TestWhatANewerDaemonSaysOfItselfStaysWhenItIsCordoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.write("map/hosts/2", map[string]any{"host": 2, "name": "host2", "identity": "identity-2", "state": "joined", "altitude": 8848})
		f.say(1, (*hwmap.Map).Cordon, 2)
		e, err := f.store.Get(t.Context(), "map/hosts/2")
		f.must(err)
		got := record[map[string]any](t, e[0])
		want := map[string]any{"host": 2.0, "name": "host2", "identity": "identity-2", "state": "cordoned", "altitude": 8848.0}
		equal(t, "the record", want, got)
	})
}

func TestARecordOfACordonedHostThatHasGoneComesBackAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(2, "web2")
		f.say(1, (*hwmap.Map).Cordon, 2)
		f.settled()
		f.write("map/hosts/2", nil)
		f.check(map[string]addr.Host{"web2": 2})
		if got := f.state(2); got != hwmap.Cordoned {
			t.Errorf("it is %s", got)
		}
	})
}

func TestAHostIsFoundByItsNameUnlessTwoHaveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		m := f.on(1)
		for _, name := range []string{"host2", "2", "0x2"} {
			if id, err := m.FindHost(name); id != 2 || err != nil {
				t.Errorf("%s is host %d, %v", name, id, err)
			}
		}
		f.write("map/hosts/3", hwmap.Host{ID: 3, Name: "host2", Identity: "identity-3", State: hwmap.Joined})
		time.Sleep(time.Second)
		if _, err := m.FindHost("host2"); !errors.Is(err, hwmap.ErrUsage) || !strings.Contains(err.Error(), "[2 3]") {
			t.Errorf("a name that two have: %v", err)
		}
		if _, err := m.FindHost("host9"); !errors.Is(err, hwmap.ErrUnknownHost) {
			t.Errorf("a name that nobody has: %v", err)
		}
	})
}
