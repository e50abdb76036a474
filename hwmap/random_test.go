package hwmap_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/hwmap"
)

// Random calls by random callers on three hosts, which are cordoned and hand over their blocks too, with steps that fail,
// answers that are lost, daemons that die and hosts that reboot. At every moment one host at most delivers a machine; when
// the faults end, all converges; and who watched the events was told it all, once.
// IP6D_SEEDS=FIRST-LAST chooses the seeds.
func TestRandomCallsAndFaultsConverge(t *testing.T) {
	first, last := uint64(1), uint64(40)
	if s := os.Getenv("IP6D_SEEDS"); s != "" {
		if _, err := fmt.Sscanf(s, "%d-%d", &first, &last); err != nil {
			t.Fatalf("IP6D_SEEDS is %q: %v", s, err)
		}
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runRandom(t, seed) })
		})
	}
}

func runRandom(t *testing.T, seed uint64) {
	f := newFleet(t, 3)
	for _, s := range f.servers {
		s.kill()
		s.quarantine = 5 * time.Minute // so that ids are used again
		s.start()
	}
	var mu sync.Mutex // guards random
	random := rand.New(rand.NewPCG(seed, 0))
	intn := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	var watchers []*watcher
	for host := range f.servers {
		watchers = append(watchers, f.follow(host, false))
	}
	for range 3 {
		f.inject(func(_ addr.Host, what string) fault {
			if intn(40) != 0 {
				return none
			}
			kinds := []fault{fails, fails, crashBefore, crashAfter}
			if remoteStep(what) {
				kinds = append(kinds, doubtful, lost, delayed)
			}
			return kinds[intn(len(kinds))]
		})
		f.slow(func() time.Duration { return time.Duration(intn(1000)) * time.Millisecond })
		var callers sync.WaitGroup
		callers.Go(func() {
			for range 5 {
				time.Sleep(time.Duration(intn(20000)) * time.Millisecond)
				watchers = append(watchers, f.follow(addr.Host(intn(3)+1), true))
			}
		})
		for range 4 {
			callers.Go(func() {
				for range 25 {
					f.randomCall(intn)
				}
			})
		}
		callers.Wait()
		f.inject(nil)
		f.slow(nil)
		f.settled()
		f.tidy()
		for _, s := range f.servers {
			s.kill() // and a restart changes nothing
			s.start()
		}
		f.check(f.owners())
		for host := range f.servers {
			f.leftBehind(host)
		}
		for _, w := range watchers {
			w.check()
		}
	}
	for _, w := range watchers[:3] {
		w.checkWhole()
	}
}

// randomCall makes one call, and does not mind what comes of it.
func (f *fleet) randomCall(intn func(int) int) {
	creator := addr.Host(intn(3) + 1) // names are unique in the fleet: that is the orchestrator's business
	name := fmt.Sprintf("web%d", creator)
	host, other := addr.Host(intn(3)+1), addr.Host(intn(3)+1)
	if intn(100) == 0 {
		f.servers[host].reboot()
		f.servers[host].restart()
		return
	}
	calls := []func(context.Context, *hwmap.Map) error{
		begin(name, other), attach(name), attach(name), switchover(name), switchover(name), finish(name), abort(name), destroy(name),
		func(ctx context.Context, m *hwmap.Map) error {
			if host != creator || f.exists(name) {
				return nil
			}
			_, err := m.Create(ctx, name, 7)
			return err
		},
	}
	if intn(6) == 0 {
		calls = []func(context.Context, *hwmap.Map) error{
			about((*hwmap.Map).Cordon, other), about((*hwmap.Map).Uncordon, other), about((*hwmap.Map).Uncordon, host), handOver(0), handOver(other),
		}
	}
	_ = f.call(host, calls[intn(len(calls))])
	time.Sleep(time.Duration(intn(3000)) * time.Millisecond)
}

// exists reports whether any host has something of that name.
func (f *fleet) exists(name string) bool {
	for _, s := range f.servers {
		for _, l := range s.locals() {
			if l.Name == name {
				return true
			}
		}
	}
	return false
}

// tidy ends every migration, as an orchestrator would that comes back after all this.
func (f *fleet) tidy() {
	f.t.Helper()
	for host, s := range f.servers {
		for _, l := range s.locals() {
			switch l.State {
			case hwmap.Leaving, hwmap.Switching:
				_ = f.call(host, abort(l.Name)) // or it is committed
			}
		}
	}
	f.settled()
	for host, s := range f.servers {
		for _, l := range s.locals() {
			if l.State == hwmap.Away {
				f.tidyAway(host, l)
			}
		}
	}
	f.settled()
	for host, s := range f.servers {
		for _, l := range s.locals() {
			switch l.State {
			case hwmap.Here, hwmap.Issued, hwmap.Quarantined, hwmap.Free:
			default:
				f.t.Errorf("host %d: machine %d is still %s: %+v", host, l.Machine, l.State, l)
			}
			if l.State == hwmap.Here && l.Port != nil {
				f.attach(host, l.Name) // a reboot took it
			}
		}
	}
}

// tidyAway finishes a migration, for which the machine needs a port where it is.
func (f *fleet) tidyAway(host addr.Host, l hwmap.Local) {
	f.t.Helper()
	f.insist(fmt.Sprintf("finish %q on host %d", l.Name, host), func() error {
		if r, ok := f.view().machines[l.Machine]; ok && !r.Destroyed {
			if err := f.call(r.Host, attach(l.Name)); err != nil {
				return err
			}
		}
		return f.call(host, finish(l.Name))
	})
}

// owners is where the machines are: whatever the calls came to, it is one place each.
func (f *fleet) owners() map[string]addr.Host {
	owners := make(map[string]addr.Host)
	for host, s := range f.servers {
		for _, l := range s.locals() {
			if l.State == hwmap.Here {
				owners[l.Name] = host
			}
		}
	}
	return owners
}
