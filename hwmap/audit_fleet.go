package hwmap

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"ip6d/addr"
	"ip6d/audit"
)

// AskLocals asks another host what its truth has: number, epoch and state of each machine.
type AskLocals func(context.Context, Host) ([]Local, error)

// asksAtOnce is how many hosts are asked at once.
const asksAtOnce = 16

// Locals returns the machines of this host's truth from that number on, at most so many, and whether there are more.
func (m *Map) Locals(from addr.Machine, most int) (some []Local, more bool) {
	m.mu.Lock()
	for number, l := range m.local {
		if number >= from {
			some = append(some, l)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(some, func(a, b Local) int { return cmp.Compare(a.Machine, b.Machine) })
	if len(some) > most {
		return some[:most], true
	}
	return some, false
}

// LookAtFleet asks all hosts that are not dead what they have, and compares it with the store. What is on its way differs
// too: look twice. Errors: ErrUnavailable of the store.
func (a Audit) LookAtFleet(ctx context.Context, ask AskLocals) ([]audit.Difference, []audit.Unanswered, error) {
	locals, unanswered := a.askAll(ctx, ask)
	// After the hosts, so that what they have said since cannot be older than it.
	records, _, err := a.Fleet.List(ctx, machinesPrefix)
	if err != nil {
		return nil, unanswered, fmt.Errorf("list machines: %w", err)
	}
	var all []audit.Difference
	add := func(k audit.Kind, number addr.Machine, name string, says ...string) {
		d := audit.New(k, audit.Machine(number), says...)
		d.Name = name
		all = append(all, d)
	}
	for number, owners := range ownersOf(locals) {
		if len(owners) > 1 {
			add(audit.TwoOwners, number, "", owners...)
		}
	}
	for _, e := range records {
		r, err := decode[Machine](e)
		if err != nil {
			continue // Look names it
		}
		a.mu.Lock()
		home := a.fleet.blocks[r.Machine.Block()].Home
		a.mu.Unlock()
		if r.Destroyed {
			if has, answered := locals[home]; answered && has[r.Machine].State == "" {
				add(audit.DestroyedUnknown, r.Machine, r.Name, "store", said(&r), fmt.Sprintf("host %d", home), audit.None)
			}
			continue
		}
		has, answered := locals[r.Host]
		if !answered {
			continue
		}
		owner := fmt.Sprintf("host %d", r.Host)
		switch l := has[r.Machine]; l.State {
		case Here, Leaving, Switching:
			if l.Epoch != r.Epoch {
				add(audit.EpochOfOwnerDiffers, r.Machine, r.Name, "store", said(&r), owner, saidLocal(l))
			}
		default:
			add(audit.OwnerDoesNotHave, r.Machine, r.Name, "store", said(&r), owner, saidLocal(l))
		}
	}
	return all, unanswered, nil
}

func saidLocal(l Local) string {
	if l.State == "" {
		return audit.None
	}
	return fmt.Sprintf("%s, epoch %d", l.State, l.Epoch)
}

// ownersOf returns who says that it has each machine, as pairs of a host and what it says, ordered by host.
func ownersOf(locals map[addr.Host]map[addr.Machine]Local) map[addr.Machine][]string {
	count := make(map[addr.Machine]int)
	owners := make(map[addr.Machine][]string)
	for _, h := range slices.Sorted(maps.Keys(locals)) {
		for number, l := range locals[h] {
			if l.State == Here || l.State == Leaving {
				count[number]++
				owners[number] = append(owners[number], fmt.Sprintf("host %d", h), saidLocal(l))
			}
		}
	}
	maps.DeleteFunc(owners, func(number addr.Machine, _ []string) bool { return count[number] < 2 })
	return owners
}

// askAll asks all hosts that are not dead. Those that do not answer are returned with why.
func (a Audit) askAll(ctx context.Context, ask AskLocals) (map[addr.Host]map[addr.Machine]Local, []audit.Unanswered) {
	var mu sync.Mutex // guards both
	locals, unanswered := make(map[addr.Host]map[addr.Machine]Local), []audit.Unanswered{}
	var g errgroup.Group
	g.SetLimit(asksAtOnce)
	a.mu.Lock()
	hosts := maps.Clone(a.fleet.hosts)
	a.mu.Unlock()
	for id, h := range hosts {
		if h.State == Dead {
			continue
		}
		g.Go(func() error {
			var has []Local
			var err error
			if id == a.Self.ID {
				has, _ = a.Locals(0, int(addr.MaxBlock+1)*addr.BlockSize)
			} else {
				has, err = ask(ctx, h)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				unanswered = append(unanswered, audit.Unanswered{Host: id, Why: err.Error()})
				return nil
			}
			locals[id] = make(map[addr.Machine]Local, len(has))
			for _, l := range has {
				locals[id][l.Machine] = l
			}
			return nil
		})
	}
	_ = g.Wait() // they return none
	slices.SortFunc(unanswered, func(x, y audit.Unanswered) int { return cmp.Compare(x.Host, y.Host) })
	return locals, unanswered
}
