package hwmap_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// check compares everything with everything, once the fleet has settled: names are the machines that there are, each
// with the host that it must be on.
func (f *fleet) check(want map[string]addr.Host) {
	f.t.Helper()
	f.settled()
	ctx := f.t.Context()
	view := f.view()
	owners := make(map[string]addr.Host)
	ids := make(map[addr.Machine]string)
	for _, host := range slices.Sorted(maps.Keys(f.servers)) {
		s := f.servers[host]
		isDead := view.hosts[host].State == hwmap.Dead
		if _, err := f.daemon(host); err != nil && !isDead {
			f.t.Error(err)
			continue
		} else if err != nil {
			continue // it is lost
		}
		if reason := f.on(host).Status().DatabaseSuspect; reason != "" {
			f.t.Errorf("host %d: the database is suspect: %s", host, reason)
		}
		if fenced, status := s.kernel.closed(), f.on(host).Status(); fenced != isDead || status.Fenced != isDead {
			f.t.Errorf("host %d: dead is %v, the kernel's maps are fenced %v, and so the daemon says %v", host, isDead, fenced, status.Fenced)
		}
		if isDead {
			continue // what it has is resolved when it is revived
		}
		equal(f.t, fmt.Sprintf("host %d: dead hosts", host), view.dead(), s.kernel.deadHosts())
		s.checkHistory()
		locals := s.locals()
		programs, gotMachines, gotMoved, gotBlocks := s.kernel.content()
		made, _ := s.devices.content()
		entries := make(map[addr.ID]nat.Machine)
		ports := make(map[string]bool)
		for _, l := range locals {
			id := addr.ID{Cell: cell, Machine: l.Machine}
			e := nat.Machine{ID: id, Network: l.Network, Epoch: l.Epoch}
			if l.Port != nil {
				ports[l.Port.Device] = true
				e.Port = made[l.Port.Device].Port
				if e.Port.Ifindex == 0 {
					f.t.Errorf("host %d: machine %q has port %q, which is not there", host, l.Name, l.Port.Device)
				}
				if at := programs[e.Port.Ifindex]; at.ID() != id {
					f.t.Errorf("host %d: port %q may send as %v, not as %v", host, l.Port.Device, at, id)
				}
			}
			switch l.State {
			case hwmap.Here, hwmap.Leaving:
				if other, twice := owners[l.Name]; twice {
					f.t.Errorf("machine %q is on host %d and on host %d", l.Name, other, host)
				}
				if other, twice := ids[l.Machine]; twice {
					f.t.Errorf("id %d is that of %q and of %q", l.Machine, other, l.Name)
				}
				owners[l.Name], ids[l.Machine] = host, l.Name
				e.State = nat.Delivering
				r, moved := view.machines[l.Machine]
				if moved && (r.Host != host || r.Epoch != l.Epoch || r.Destroyed || r.Name != l.Name || r.MovingTo != l.Peer) {
					f.t.Errorf("host %d has %+v, but its record is %+v", host, l, r)
				}
				if !moved && view.blocks[l.Machine.Block()].Home != host {
					f.t.Errorf("host %d has %+v away from home, without a record", host, l)
				}
			case hwmap.Switching, hwmap.Away:
				e.State, e.Host = nat.Away, l.Peer
			case hwmap.Incoming:
				e.State, e.Host = nat.Incoming, l.Peer
				if r := view.machines[l.Machine]; r.MovingTo != host {
					f.t.Errorf("host %d expects machine %q, but its record is %+v", host, l.Name, r)
				}
			default:
				continue
			}
			entries[id] = e
		}
		equal(f.t, fmt.Sprintf("host %d: entries of machines", host), entries, gotMachines)
		equal(f.t, fmt.Sprintf("host %d: devices", host), ports, keys(made))
		if len(programs) != len(ports) {
			f.t.Errorf("host %d: %d programs are attached to %d ports: %v", host, len(programs), len(ports), programs)
		}
		moved := make(map[addr.ID]nat.Moved)
		for number, r := range view.machines {
			if !r.Destroyed && r.Host != host && r.Host != view.blocks[number.Block()].Home {
				id := addr.ID{Cell: cell, Machine: number}
				moved[id] = nat.Moved{ID: id, Host: r.Host, Epoch: r.Epoch}
			}
		}
		equal(f.t, fmt.Sprintf("host %d: moved entries", host), moved, gotMoved)
		blocks := make(map[addr.Block]nat.Block)
		for _, b := range view.blocks {
			blocks[b.Block] = nat.Block{Cell: cell, Block: b.Block, Home: b.Home}
		}
		equal(f.t, fmt.Sprintf("host %d: blocks", host), blocks, gotBlocks)
		cached, _, err := s.cache.List(ctx, "map/")
		if err != nil {
			f.t.Error(err)
		}
		equal(f.t, fmt.Sprintf("host %d: cache", host), values(view.entries), values(cached))
	}
	equal(f.t, "machines and their hosts", want, owners)
	for number, r := range view.machines {
		if name, exists := ids[number]; !r.Destroyed && view.hosts[r.Host].State != hwmap.Dead && (!exists || owners[name] != r.Host) {
			f.t.Errorf("record of a machine that is not there: %+v", r)
		}
	}
}

// stored is the fleet's map in the store.
type stored struct {
	entries  []hwmap.Entry
	hosts    map[addr.Host]hwmap.Host
	blocks   map[addr.Block]hwmap.Block
	machines map[addr.Machine]hwmap.Machine
}

func (f *fleet) view() stored {
	f.t.Helper()
	entries, _, err := f.store.List(f.t.Context(), "map/")
	if err != nil {
		f.t.Fatal(err)
	}
	v := stored{entries: entries, hosts: make(map[addr.Host]hwmap.Host), blocks: make(map[addr.Block]hwmap.Block), machines: make(map[addr.Machine]hwmap.Machine)}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(string(e.Key), "map/hosts/"):
			h := record[hwmap.Host](f.t, e)
			v.hosts[h.ID] = h
		case strings.HasPrefix(string(e.Key), "map/blocks/"):
			b := record[hwmap.Block](f.t, e)
			v.blocks[b.Block] = b
		case strings.HasPrefix(string(e.Key), "map/machines/"):
			r := record[hwmap.Machine](f.t, e)
			v.machines[r.Machine] = r
		}
	}
	return v
}

// dead returns the dead hosts, by id.
func (v stored) dead() (dead []addr.Host) {
	for _, id := range slices.Sorted(maps.Keys(v.hosts)) {
		if v.hosts[id].State == hwmap.Dead {
			dead = append(dead, id)
		}
	}
	return dead
}

// locals is the truth of one server.
func (s *server) locals() []hwmap.Local {
	s.fleet.t.Helper()
	entries, _, err := s.truth.List(s.fleet.t.Context(), "local/")
	if err != nil {
		s.fleet.t.Fatal(err)
	}
	var all []hwmap.Local
	for _, e := range entries {
		all = append(all, record[hwmap.Local](s.fleet.t, e))
	}
	return all
}

// local is what the truth of one server says of a machine; the zero Local where it says nothing.
func (s *server) local(number addr.Machine) hwmap.Local {
	s.fleet.t.Helper()
	for _, l := range s.locals() {
		if l.Machine == number {
			return l
		}
	}
	return hwmap.Local{}
}

func record[T any](t tester, e hwmap.Entry) (r T) {
	t.Helper()
	if err := json.Unmarshal(e.Value, &r); err != nil {
		t.Fatalf("%s: %v", e.Key, err)
	}
	return r
}

func encoded(t tester, record any) []byte {
	t.Helper()
	b, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func values(entries []hwmap.Entry) map[hwmap.Key]string {
	m := make(map[hwmap.Key]string)
	for _, e := range entries {
		m[e.Key] = string(e.Value)
	}
	return m
}

func keys[K comparable, V any](m map[K]V) map[K]bool {
	all := make(map[K]bool)
	for k := range m {
		all[k] = true
	}
	return all
}

func equal[T any](t tester, what string, want, got T) {
	t.Helper()
	if diff := diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}
