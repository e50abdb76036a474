package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

func newHostDrainCommand(c *cli) *cobra.Command {
	var to []string
	var parallel int
	var list bool
	o := moveFlags{}
	command := &cobra.Command{
		Use:   "drain HOST [--to HOST,...] [--hook COMMAND]",
		Short: "Move every machine away from a host and hand its blocks over, so that it can be switched off",
		Long: `Move every machine away from a host, each as by ip6d migrate run, and hand its blocks over. It runs on that host. It takes no new
machines from the begin, and is cordoned at the end: then it can be switched off, or removed (ip6d host remove), and once it is
back, ip6d host uncordon lets it take machines again. Uncordoned before, the drain is called off.

Interrupted at any point, the same command again goes on from there. A machine that cannot be moved holds up no other; those are
listed at the end, and the exit status is 1. --list only shows the machines that would be moved.

` + hookHelp,
		Example: `  ip6d host drain host1 --list
  ip6d host drain host1 --to host2,host3 --hook /usr/local/lib/move-vm`,
		Args: cobra.ExactArgs(1),
	}
	flags := command.Flags()
	flags.StringSliceVar(&to, "to", nil, "where the machines go, names or ids (default: any host that takes machines, the emptiest first)")
	flags.IntVar(&parallel, "parallel", 4, "how many machines are moved at a time")
	flags.BoolVar(&list, "list", false, "list the machines of the host, and change nothing")
	o.add(command)
	command.RunE = func(cmd *cobra.Command, args []string) error {
		if err := o.check(); err != nil {
			return err
		}
		if parallel < 1 {
			return usagef("--parallel %d: must be at least 1", parallel)
		}
		if err := c.mustBeSelf(cmd.Context(), args[0]); err != nil {
			return err
		}
		if list {
			return c.listToDrain(cmd.Context())
		}
		m, err := newMover(cmd.Context(), c)
		if err != nil {
			return err
		}
		defer m.client.Close()
		o.give(m)
		m.retarget = true
		d := &drain{mover: m, told: newProgress(c.stderr), slots: make(chan struct{}, parallel), failed: make(map[string]error), amiss: make(map[string]error)}
		m.say = func(machine, text string) { d.told.say(machine + ": " + text) }
		return d.run(cmd.Context(), &ip6dv1.DrainHostRequest{Host: fmt.Sprint(m.source), To: to})
	}
	return command
}

// mustBeSelf refuses a host that is not the one whose daemon is called.
func (c *cli) mustBeSelf(ctx context.Context, host string) error {
	r, err := call(ctx, c, func(a *api.Client) unary[ip6dv1.GetHostRequest, ip6dv1.GetHostResponse] {
		return a.Hosts.GetHost
	}, &ip6dv1.GetHostRequest{Host: host})
	if err == nil && !r.Host.Self {
		err = fmt.Errorf("host %d is drained through its own daemon, and that on %s is another host's: run this there, or name it by --address", r.Host.Host, c.where())
	}
	return err
}

// listToDrain prints the machines that keep this host from being switched off.
func (c *cli) listToDrain(ctx context.Context) error {
	r, err := call(ctx, c, func(a *api.Client) unary[ip6dv1.ListMachinesRequest, ip6dv1.ListMachinesResponse] {
		return a.Machines.ListMachines
	}, &ip6dv1.ListMachinesRequest{})
	if err != nil {
		return err
	}
	return c.printMachines(slices.DeleteFunc(r.Machines, func(m *ip6dv1.Machine) bool {
		return m.State == ip6dv1.MachineState_MACHINE_STATE_ELSEWHERE || m.State == ip6dv1.MachineState_MACHINE_STATE_QUARANTINED
	}))
}

// drainedAnswer is the answer of `host drain`.
type drainedAnswer struct {
	Host   uint32            `json:"host"`
	Done   bool              `json:"done"`   // it is empty, home of no block, and cordoned
	Moved  []string          `json:"moved"`  // by this command
	Failed []notMovedAnswer  `json:"failed"` // machines that are still there
	Blocks []handedOverBlock `json:"blocks"` // that it was home of
}

type notMovedAnswer struct {
	Name  string `json:"name"`
	Error string `json:"error"`
}

type handedOverBlock struct {
	Block uint32 `json:"block"`
	Home  uint32 `json:"home"`
}

// drain moves what the daemon names.
type drain struct {
	*mover
	told  *progress
	slots chan struct{} // for machines that are being moved
	moves sync.WaitGroup

	mu      sync.Mutex // guards all below
	pending int        // machines that are waiting or being moved
	total   int        // that the daemon has named
	left    int        // that it says are still there
	whole   bool       // the daemon has named all
	moved   []string
	failed  map[string]error // why machines are still there
	amiss   map[string]error // what went wrong with others, after they had moved
	over    func()           // ends the stream
}

func (d *drain) run(ctx context.Context, question *ip6dv1.DrainHostRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer d.told.show("")
	defer d.moves.Wait()
	defer cancel()
	listening, over := context.WithCancel(ctx)
	defer over()
	d.over = over
	stream, err := d.client.Hosts.DrainHost(listening, connect.NewRequest(question))
	if err != nil {
		return d.c.explain(err)
	}
	defer stream.Close()
	for stream.Receive() {
		r := stream.Msg()
		if r.Done {
			return d.print(r)
		}
		d.take(ctx, r)
	}
	d.mu.Lock()
	stuck := d.stuck()
	d.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted, and the host is still draining: %w; ip6d host uncordon calls the drain off", errRepeat)
	case stuck:
		return d.print(nil)
	case stream.Err() == nil:
		return fmt.Errorf("the daemon on %s ended the stream: it was stopped; %w", d.c.where(), errRepeat)
	}
	return fmt.Errorf("drain: %w; %w", d.c.explain(stream.Err()), errRepeat)
}

// take takes in what the daemon says.
func (d *drain) take(ctx context.Context, r *ip6dv1.DrainHostResponse) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.whole = int(r.Left), d.whole || r.Whole
	if r.Machine != nil {
		d.total++
		d.pending++
		d.moves.Add(1)
		go d.moveAway(ctx, r.Machine.Name, r.To)
	}
	delete(d.failed, r.Gone) // somebody else has moved it
	d.look()
}

// moveAway moves a machine, when it is its turn.
func (d *drain) moveAway(ctx context.Context, name string, to uint32) {
	defer d.moves.Done()
	d.slots <- struct{}{}
	err := context.Cause(ctx)
	switch {
	case err != nil:
	case to == 0: // it is coming, and cannot arrive
		_, err = ask(ctx, d.mover, d.client.Migrations.AbortMigration, &ip6dv1.AbortMigrationRequest{Name: name})
		if err != nil {
			err = d.c.explain(err)
		}
	default:
		_, err = d.move(ctx, name, to)
	}
	<-d.slots
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending--
	switch {
	case errors.Is(err, errMoved):
		d.amiss[name] = err
		d.moved = append(d.moved, name)
	case err != nil && ctx.Err() == nil:
		d.failed[name] = err
		d.say(name, "not moved: "+oneLine(err.Error()))
	case err == nil && to != 0:
		d.moved = append(d.moved, name)
	}
	d.look()
}

// stuck says whether all has been tried that could be, and did not do. The caller holds mu.
func (d *drain) stuck() bool { return d.whole && d.pending == 0 && len(d.failed) > 0 }

// look shows how far it is, and ends what cannot come to its end. The caller holds mu.
func (d *drain) look() {
	text := fmt.Sprintf("%s %d of %d", bar(d.total-d.left, d.total), d.total-d.left, d.total)
	if len(d.failed) > 0 {
		text += fmt.Sprintf(", %d not moved", len(d.failed))
	}
	d.told.show(text)
	if d.stuck() {
		d.over()
	}
}

// print prints what has come of it; end is what the daemon said at the end, nil: not all could be moved.
func (d *drain) print(end *ip6dv1.DrainHostResponse) error {
	d.moves.Wait() // what the hooks do last
	d.told.show("")
	d.mu.Lock()
	defer d.mu.Unlock()
	slices.Sort(d.moved)
	a := drainedAnswer{Host: d.source, Done: end != nil, Moved: append([]string{}, d.moved...), Failed: []notMovedAnswer{}, Blocks: []handedOverBlock{}}
	names := slices.Sorted(maps.Keys(d.failed))
	for _, name := range names {
		a.Failed = append(a.Failed, notMovedAnswer{name, oneLine(d.failed[name].Error())})
	}
	for _, b := range end.GetBlocks() {
		a.Blocks = append(a.Blocks, handedOverBlock{b.Block, b.Home})
	}
	err := d.c.print(a, func(t *table) {
		t.row("host", d.host(a.Host))
		state := "draining"
		if a.Done {
			state = "cordoned and empty"
		}
		t.row("state", state)
		t.row("moved", len(a.Moved))
		for _, b := range a.Blocks {
			t.row(fmt.Sprintf("block %d", b.Block), "now at "+d.host(b.Home))
		}
		for _, f := range a.Failed {
			t.row("not moved", f.Name+": "+f.Error)
		}
	})
	switch {
	case err != nil:
		return err
	case !a.Done:
		return fmt.Errorf("%d machines are still on this host, which is draining: %s; %w", len(names), strings.Join(names[:min(5, len(names))], ", "), errRepeat)
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(d.amiss)) {
		errs = append(errs, fmt.Errorf("%s: %w", name, d.amiss[name]))
	}
	return errors.Join(errs...)
}
