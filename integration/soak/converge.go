package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"ip6d/addr"
	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/audit"
	"ip6d/hwmap"
	"ip6d/integration/soak/kernel"
	"ip6d/nat"
)

// tidy ends every migration, as an orchestrator would that comes back after all this.
func (s *soak) tidy(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, s.Convergence)
	defer cancel()
	for {
		err := s.tidyOnce(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.rules.violate(ruleConverges, "migrations could not be ended within %v: %v", s.Convergence, err)
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// tidyOnce returns an error while there is a migration left.
func (s *soak) tidyOnce(ctx context.Context) error {
	var all errgroup.Group
	all.SetLimit(16)
	for _, h := range s.hosts {
		r, err := h.client.Machines.ListMachines(ctx, connect.NewRequest(&ip6dv1.ListMachinesRequest{}))
		if err != nil {
			return errors.Join(err, all.Wait())
		}
		for _, m := range r.Msg.Machines {
			all.Go(func() error { return s.tidyMachine(ctx, h.id, m) })
		}
	}
	return all.Wait()
}

func (s *soak) tidyMachine(ctx context.Context, at addr.Host, m *ip6dv1.Machine) error {
	l := life{soak: s, ctx: ctx, client: 400, name: m.Name, at: at}
	switch m.State {
	case ip6dv1.MachineState_MACHINE_STATE_LEAVING, ip6dv1.MachineState_MACHINE_STATE_SWITCHING:
		l.until(input{Kind: opAbort, Host: at}, 1)
	case ip6dv1.MachineState_MACHINE_STATE_AWAY:
		if m.Host != 0 && addr.Host(m.Host) != at {
			l.until(input{Kind: opAttach, Host: addr.Host(m.Host)}, 1) // it is not delivered without a port
		}
		l.until(input{Kind: opFinish, Host: at}, 1)
	case ip6dv1.MachineState_MACHINE_STATE_HERE:
		if m.Port != nil {
			l.until(input{Kind: opAttach, Host: at}, 1) // a reboot took it
		}
		return nil
	case ip6dv1.MachineState_MACHINE_STATE_INCOMING:
	default:
		return nil
	}
	return fmt.Errorf("machine %q is %s on host %d", m.Name, m.State, at)
}

// mustConverge waits until the store, the databases and the kernels agree.
func (s *soak) mustConverge(ctx context.Context, when string) {
	ctx, cancel := context.WithTimeout(ctx, s.Convergence)
	defer cancel()
	var last []string // the last look is cut short
	for {
		differences, err := s.differences(ctx)
		if err == nil && len(differences) == 0 {
			s.say("all agrees, %s", when)
			return
		}
		if err == nil {
			last = differences
		}
		select {
		case <-ctx.Done():
			s.rules.violate(ruleConverges, "%s, within %v: %s (%v)", when, s.Convergence, strings.Join(last, "; "), err)
			return
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// view is the fleet's map as the store has it.
type view struct {
	revision int64
	hosts    map[addr.Host]hwmap.Host
	blocks   map[addr.Block]hwmap.Block
	machines map[addr.Machine]hwmap.Machine
	values   map[hwmap.Key]string
}

func (s *soak) view(ctx context.Context) (view, error) {
	v := view{
		hosts: make(map[addr.Host]hwmap.Host), blocks: make(map[addr.Block]hwmap.Block), machines: make(map[addr.Machine]hwmap.Machine),
		values: make(map[hwmap.Key]string),
	}
	prefix := "/ip6d/" + kernel.Cluster + "/"
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := s.store.client.Get(ctx, prefix+"map/", clientv3.WithPrefix())
	if err != nil {
		return v, err
	}
	v.revision = r.Header.Revision
	for _, kv := range r.Kvs {
		key := strings.TrimPrefix(string(kv.Key), prefix)
		v.values[hwmap.Key(key)] = string(kv.Value)
		switch {
		case strings.HasPrefix(key, "map/hosts/"):
			var h hwmap.Host
			err = json.Unmarshal(kv.Value, &h)
			v.hosts[h.ID] = h
		case strings.HasPrefix(key, "map/blocks/"):
			var b hwmap.Block
			err = json.Unmarshal(kv.Value, &b)
			v.blocks[b.Block] = b
		case strings.HasPrefix(key, "map/machines/"):
			var m hwmap.Machine
			err = json.Unmarshal(kv.Value, &m)
			v.machines[m.Machine] = m
		}
		if err != nil {
			return v, fmt.Errorf("%s: %w", key, err)
		}
	}
	return v, nil
}

// locals are the records of machines in a truth.
func locals(d kernel.Databases) (map[addr.Machine]hwmap.Local, error) {
	all := make(map[addr.Machine]hwmap.Local)
	for _, e := range d.Truth {
		if !strings.HasPrefix(string(e.Key), "local/machines/") {
			continue
		}
		var l hwmap.Local
		if err := json.Unmarshal(e.Value, &l); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Key, err)
		}
		all[l.Machine] = l
	}
	return all, nil
}

// comparison collects what differs.
type comparison struct {
	view
	differences []string
	owners      map[string]addr.Host
	ids         map[addr.Machine]string
}

func (c *comparison) differ(format string, args ...any) {
	c.differences = append(c.differences, fmt.Sprintf(format, args...))
}

// differences compares everything with everything, when no migration is under way.
func (s *soak) differences(ctx context.Context) ([]string, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	c := &comparison{view: v, owners: make(map[string]addr.Host), ids: make(map[addr.Machine]string)}
	for _, h := range s.hosts {
		status, err := h.client.Hosts.GetStatus(ctx, connect.NewRequest(&ip6dv1.GetStatusRequest{}))
		if err != nil {
			return nil, err
		}
		if !status.Msg.Following {
			c.differ("host %d does not follow the store: %s", h.id, status.Msg.StoreError)
		}
		d, err := h.databases(ctx)
		if err != nil {
			return nil, err
		}
		local, err := locals(d)
		if err != nil {
			return nil, err
		}
		c.compareMachines(h.id, local, h.kernel.Snapshot())
		c.compareMap(h.id, h.kernel.Snapshot(), d)
	}
	slices.Sort(c.differences)
	if len(c.differences) > 0 {
		return c.differences, nil
	}
	return s.audited(ctx)
}

// audited returns what the daemons themselves find to differ.
func (s *soak) audited(ctx context.Context) ([]string, error) {
	var differences []string
	for _, h := range s.hosts {
		r, err := h.client.Audits.CheckHost(ctx, connect.NewRequest(&ip6dv1.CheckHostRequest{}))
		if err != nil {
			return nil, err
		}
		report := api.ReportFrom(r.Msg.Report)
		for _, d := range report.Differences {
			if d.Severity != audit.Info {
				differences = append(differences, fmt.Sprintf("host %d finds: %s", h.id, d.Text()))
			}
		}
		differences = append(differences, report.Errors...)
	}
	return differences, nil
}

// compareMachines compares a host's truth with its kernel and the store.
func (c *comparison) compareMachines(host addr.Host, local map[addr.Machine]hwmap.Local, k kernel.Content) {
	entries, ports := make(map[addr.ID]nat.Machine), 0
	for _, l := range local {
		id := addr.ID{Cell: kernel.Cell, Machine: l.Machine}
		e := nat.Machine{ID: id, Network: l.Network, Epoch: l.Epoch, State: nat.Delivering}
		if l.Port != nil {
			ports++
			e.Port = k.Devices[l.Port.Device].Port
			if k.Programs[e.Port.Ifindex] != id {
				c.differ("host %d: the port of %q may send as %v", host, l.Name, k.Programs[e.Port.Ifindex])
			}
		}
		switch l.State {
		case hwmap.Issued, hwmap.Quarantined, hwmap.Free:
			continue
		case hwmap.Here:
		default:
			c.differ("host %d: %q is still %s", host, l.Name, l.State)
			continue
		}
		if other, twice := c.owners[l.Name]; twice {
			c.differ("%q is on host %d and on host %d", l.Name, other, host)
		}
		if other, twice := c.ids[l.Machine]; twice {
			c.differ("id %d is that of %q and of %q", l.Machine, other, l.Name)
		}
		c.owners[l.Name], c.ids[l.Machine] = host, l.Name
		r, moved := c.machines[l.Machine]
		if moved && (r.Host != host || r.Epoch != l.Epoch || r.Destroyed || r.Name != l.Name || r.MovingTo != 0) {
			c.differ("host %d has %+v, its record is %+v", host, l, r)
		}
		if !moved && c.blocks[l.Machine.Block()].Home != host {
			c.differ("host %d has %+v away from home, without a record", host, l)
		}
		if got := k.Machines[id]; fmt.Sprint(got) != fmt.Sprint(e) {
			c.differ("host %d: the entry of %q is %+v, must be %+v", host, l.Name, got, e)
		}
		entries[id] = e
	}
	if len(entries) != len(k.Machines) || ports != len(k.Devices) || ports != len(k.Programs) {
		c.differ("host %d has %d machines with %d ports, its kernel %d entries, %d devices, %d programs", host, len(entries), ports, len(k.Machines), len(k.Devices), len(k.Programs))
	}
}

// compareMap compares a host's kernel and cache with the store.
func (c *comparison) compareMap(host addr.Host, k kernel.Content, d kernel.Databases) {
	moved := 0
	for number, r := range c.machines {
		if r.Destroyed || r.Host == host || r.Host == c.blocks[number.Block()].Home {
			continue
		}
		moved++
		id := addr.ID{Cell: kernel.Cell, Machine: number}
		if got := k.Moved[id]; got.Host != r.Host || got.Epoch != r.Epoch {
			c.differ("host %d: the moved entry of %s is %+v, its record %+v", host, id, got, r)
		}
	}
	if moved != len(k.Moved) {
		c.differ("host %d has %d moved entries, must have %d", host, len(k.Moved), moved)
	}
	for _, b := range c.blocks {
		if k.Blocks[b.Block].Home != b.Home {
			c.differ("host %d: block %d is of host %d, must be of %d", host, b.Block, k.Blocks[b.Block].Home, b.Home)
		}
	}
	if len(k.Blocks) != len(c.blocks) {
		c.differ("host %d has %d blocks, must have %d", host, len(k.Blocks), len(c.blocks))
	}
	if len(k.Hosts) != len(c.hosts)-1 {
		c.differ("host %d has routes to %d hosts, must have to %d", host, len(k.Hosts), len(c.hosts)-1)
	}
	for _, e := range d.Cache {
		if c.values[e.Key] != string(e.Value) {
			c.differ("host %d: %s is cached as %s, in the store it is %q", host, e.Key, e.Value, c.values[e.Key])
		}
	}
	if len(d.Cache) != len(c.values) {
		c.differ("host %d has cached %d records, the store has %d", host, len(d.Cache), len(c.values))
	}
}

// readAll looks, when all has settled, where each machine is that there ever was.
func (s *soak) readAll(ctx context.Context) {
	for _, name := range s.history.all() {
		found := 0
		for _, h := range s.hosts {
			if out, _ := s.call(ctx, 500, name, input{Kind: opSee, Host: h.id}); out.Result == done {
				found++
			}
		}
		if found == 0 {
			s.history.add(name, 500, s.history.now(), input{Kind: opGone, Host: 1}, output{Result: done})
		}
	}
}
