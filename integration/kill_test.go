package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/host/netns"
	"ip6d/integration/lab/labtest"
)

// kills is how often a daemon is killed, unless IP6D_KILLS says otherwise.
const kills = 200

// Daemons are killed at any moment, also while they start, and machines come, move and go all the while. Whoever had an
// answer can rely on it: what was created is there, what was destroyed is not, and no address is issued twice.
func TestKillingDaemonsAtAnyMomentLosesNoAcknowledgedOperation(t *testing.T) {
	labtest.RequireRoot(t)
	o := options(2)
	o.Bare = true
	f := newFleetWithin(t, 6*time.Minute, o)
	c := &crowd{fleet: f, addresses: make(map[string]string)}
	guests, err := netns.Create(o.Name + "-guests")
	f.must(err)
	t.Cleanup(func() {
		if err := guests.Close(); err != nil {
			t.Error(err)
		}
		if err := netns.Delete(o.Name + "-guests"); err != nil {
			t.Error(err)
		}
	})
	c.guests = netns.Path(o.Name + "-guests")

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	working, stop := context.WithCancel(f.ctx)
	var workers sync.WaitGroup
	for n := range 10 {
		workers.Go(func() { c.work(working, n, rand.New(rand.NewPCG(seed, uint64(n)))) })
	}
	began := time.Now()
	c.killDaemons(rand.New(rand.NewPCG(seed, 1000)))
	killed := time.Since(began)
	stop()
	workers.Wait()
	for _, h := range f.Hosts() {
		f.eventually(h.Name+" follows the store", func() error {
			s, err := h.Status(f.ctx)
			if err == nil && !s.Following {
				err = fmt.Errorf("it does not: %s", s.StoreError)
			}
			return err
		})
	}
	c.check()
	t.Logf("killed in %v; %d machines, of which %d were created by an answered call and %d destroyed; %d moves committed", killed.Round(time.Second), len(c.machines), c.created, c.destroyed, c.moved)
	if c.created == 0 || c.destroyed == 0 || c.moved == 0 {
		t.Error("it proves nothing")
	}
}

// crowd is machines whose daemons are killed.
type crowd struct {
	*fleet
	guests string // the path of the namespace that all ports lead to

	mu                        sync.Mutex // guards all below
	machines                  []*guest
	addresses                 map[string]string // who was given an address, by answered calls
	created, destroyed, moved int
}

// guest is a machine as its orchestrator knows it.
type guest struct {
	name   string
	stable string // empty: no answer said that it was created
	ending bool   // it was asked to be destroyed
	ended  bool   // that was answered
	at     int    // the host that it is on, as far as is known
}

// killDaemons kills daemons one after the other, after some time of their lives.
func (c *crowd) killDaemons(r *rand.Rand) {
	c.t.Helper()
	left := kills
	if text := os.Getenv("IP6D_KILLS"); text != "" {
		var err error
		left, err = strconv.Atoi(text)
		c.must(err)
	}
	var killers sync.WaitGroup
	defer killers.Wait()
	for n, h := range c.Hosts() {
		own := rand.New(rand.NewPCG(r.Uint64(), 0))
		share := left / len(c.Hosts())
		killers.Go(func() {
			for range share {
				if err := h.KillDaemon(); err != nil {
					c.t.Error(err)
				}
				// Every third does not even come up.
				ctx, cancel := c.ctx, context.CancelFunc(func() {})
				if own.IntN(3) == 0 {
					ctx, cancel = context.WithTimeout(c.ctx, time.Duration(own.IntN(400))*time.Millisecond)
				}
				err := h.StartDaemonUntil(ctx, func(*ip6dv1.GetStatusResponse) error { return nil })
				if err != nil && ctx.Err() == nil {
					c.t.Errorf("host %d: %v", n+1, err)
				}
				cancel()
				if err == nil {
					select {
					case <-time.After(time.Duration(own.IntN(1<<(3+own.IntN(8)))) * time.Millisecond):
					case <-c.ctx.Done():
					}
				}
			}
			// The last of them lives.
			if err := h.KillDaemon(); err != nil {
				c.t.Error(err)
			}
			if err := h.StartDaemon(c.ctx); err != nil {
				c.t.Error(err)
			}
		})
	}
}

// work lets one machine after the other live, until ctx ends.
func (c *crowd) work(ctx context.Context, worker int, r *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		g := &guest{name: fmt.Sprintf("g%d-%d", worker, n), at: 1 + r.IntN(2)}
		c.mu.Lock()
		c.machines = append(c.machines, g)
		c.mu.Unlock()
		moves, ends := r.IntN(3), r.IntN(4) != 0
		if !c.repeat(ctx, func() error { return c.create(ctx, g) }) {
			continue
		}
		for range moves {
			if !c.move(ctx, g, 3-g.at) {
				break
			}
		}
		if ends {
			c.repeat(ctx, func() error { return c.destroy(ctx, g) })
		}
	}
}

// repeat calls try until it succeeds, for some time.
func (c *crowd) repeat(ctx context.Context, try func() error) bool {
	for range 500 {
		if try() == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// create asks for the machine, and takes down its address.
func (c *crowd) create(ctx context.Context, g *guest) error {
	r, err := c.Host(g.at).Client().Machines.CreateMachine(ctx, connect.NewRequest(&ip6dv1.CreateMachineRequest{Name: g.name, Network: 7}))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.created++
	g.stable = r.Msg.Machine.Stable
	if other, taken := c.addresses[g.stable]; taken && other != g.name {
		c.t.Errorf("%s was issued to %s, and to %s", g.stable, other, g.name) // the quarantine is longer than the test
	}
	c.addresses[g.stable] = g.name
	return nil
}

// attach gives the machine a port on the host.
func (c *crowd) attach(ctx context.Context, g *guest, at int) error {
	device := fmt.Sprintf("%s-%d", g.name, at)
	_, err := c.Host(at).Client().Machines.AttachMachine(ctx, connect.NewRequest(&ip6dv1.AttachMachineRequest{Name: g.name, Netns: c.guests, GuestDevice: device, Unconfigured: true}))
	return err
}

// move takes the machine to the host, or gives up.
func (c *crowd) move(ctx context.Context, g *guest, to int) bool {
	source := c.Host(g.at).Client().Migrations
	for _, step := range []func() error{
		func() error {
			_, err := source.BeginMigration(ctx, connect.NewRequest(&ip6dv1.BeginMigrationRequest{Name: g.name, To: uint32(to)}))
			return err
		},
		func() error { return c.attach(ctx, g, to) },
		func() error {
			r, err := source.SwitchoverMigration(ctx, connect.NewRequest(&ip6dv1.SwitchoverMigrationRequest{Name: g.name}))
			if err == nil && r.Msg.Outcome != ip6dv1.Outcome_OUTCOME_COMMITTED {
				err = fmt.Errorf("switchover of %s: %v", g.name, r.Msg.Outcome)
			}
			return err
		},
	} {
		if !c.repeat(ctx, step) {
			return false
		}
	}
	c.mu.Lock()
	c.moved++
	c.mu.Unlock()
	source, g.at = c.Host(g.at).Client().Migrations, to
	return c.repeat(ctx, func() error {
		_, err := source.FinishMigration(ctx, connect.NewRequest(&ip6dv1.FinishMigrationRequest{Name: g.name}))
		return err
	})
}

func (c *crowd) destroy(ctx context.Context, g *guest) error {
	c.mu.Lock()
	repeated := g.ending // an earlier call may have done it, and not have been answered
	g.ending = true
	c.mu.Unlock()
	_, err := c.Host(g.at).Client().Machines.DestroyMachine(ctx, connect.NewRequest(&ip6dv1.DestroyMachineRequest{Name: g.name}))
	switch {
	case connect.CodeOf(err) == connect.CodeFailedPrecondition: // a migration that was given up
		_, abortErr := c.Host(g.at).Client().Migrations.AbortMigration(ctx, connect.NewRequest(&ip6dv1.AbortMigrationRequest{Name: g.name}))
		return errors.Join(err, abortErr)
	case err != nil && !(repeated && connect.CodeOf(err) == connect.CodeNotFound):
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	g.ended = true
	c.destroyed++
	return nil
}

// check looks for every machine, and whether the hosts' layers agree.
func (c *crowd) check() {
	c.t.Helper()
	where := make(map[string][]*ip6dv1.Machine)
	for _, h := range c.Hosts() {
		r, err := h.Client().Machines.ListMachines(c.ctx, connect.NewRequest(&ip6dv1.ListMachinesRequest{}))
		c.must(err)
		for _, m := range r.Msg.Machines {
			switch m.State {
			case ip6dv1.MachineState_MACHINE_STATE_HERE, ip6dv1.MachineState_MACHINE_STATE_LEAVING, ip6dv1.MachineState_MACHINE_STATE_SWITCHING:
				where[m.Name] = append(where[m.Name], m)
			}
		}
	}
	for _, g := range c.machines {
		found := where[g.name]
		switch {
		case g.ended && len(found) != 0:
			c.t.Errorf("%s was destroyed, and is there: %v", g.name, found)
		case g.stable != "" && !g.ending && len(found) != 1:
			c.t.Errorf("%s was created, and is on %d hosts: %v", g.name, len(found), found)
		case g.stable != "" && len(found) == 1 && found[0].Stable != g.stable:
			c.t.Errorf("%s was created as %s, and is %s", g.name, g.stable, found[0].Stable)
		}
	}
	for _, h := range c.Hosts() {
		c.eventually("check is clean on "+h.Name, func() error {
			r, err := h.Client().Audits.CheckHost(c.ctx, connect.NewRequest(&ip6dv1.CheckHostRequest{}))
			if err != nil {
				return err
			}
			if report := api.ReportFrom(r.Msg.Report); report.Faults() != 0 || len(report.Errors) != 0 {
				return fmt.Errorf("%d differences: %v %v", report.Faults(), report.Differences, report.Errors)
			}
			return nil
		})
	}
}
