package hwmap

import (
	"cmp"
	"context"
	"fmt"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/nat"
)

// Ways says how the kernel reaches another host, and false where it has no way.
type Ways func(addr.Host) (string, bool, error)

// Trace says what each layer believes of a machine of this cell, and which way a packet from this host would take. Errors:
// those of the kernel's maps and of the databases; a store or a host that does not answer is part of what is said.
func (a Audit) Trace(ctx context.Context, number addr.Machine, ways Ways) (audit.Trace, error) {
	r, err := a.readSome(ctx, nil, []addr.Machine{number})
	if err != nil {
		return audit.Trace{}, err
	}
	var l layers
	a.mu.Lock()
	a.fillFromMemory(&l, number)
	a.mu.Unlock()
	r.fill(&l)
	var t audit.Trace
	add := func(layer, says string) {
		t.Layers = append(t.Layers, audit.TracedLayer{Layer: layer, Says: cmp.Or(says, audit.None)})
	}
	name, address := a.nameOf(&l)
	add("machine", fmt.Sprintf("number %d of cell %d, block %d", number, a.Cell, number.Block()))
	add("name", name)
	add("stable address", address)
	add("truth", said(l.truth))
	store := string(l.storedBytes)
	if r.storeErr != nil {
		store = "does not answer: " + r.storeErr.Error()
	}
	add("store", store)
	add("memory", said(l.view))
	if a.Cache != nil {
		add("cache", string(l.cachedBytes))
	}
	add("blocks", said(l.block))
	add("kernel's machines", saidEntry(l.entry))
	add("kernel's moved", saidMoved(l.moved))
	home, inKernel := r.blocks[number.Block()]
	if inKernel {
		add("kernel's blocks", fmt.Sprintf("home %d", home.Home))
	} else {
		add("kernel's blocks", "")
	}
	if l.truth != nil && l.truth.Port != nil {
		port, err := a.Ports.Find(a.stableOf(*l.truth), *l.truth.Port)
		switch {
		case err != nil:
			add("port", fmt.Sprintf("%s: %v", l.truth.Port.Device, err))
		default:
			add("port", fmt.Sprintf("%s, device %d, MAC %s", l.truth.Port.Device, port.Ifindex, port.MAC))
		}
	}
	t.Mark(a.compare(&l, &r))
	return t, a.walk(ctx, &t, &l, home.Home, ways)
}

func (a Audit) stableOf(l Local) addr.Stable {
	s, _ := a.stable(l) // the zero Stable is no port's
	return s
}

// walk adds the hops of a packet from this host, as the kernel's maps lead it, and what the hosts on the way say.
func (a Audit) walk(ctx context.Context, t *audit.Trace, l *layers, home addr.Host, ways Ways) error {
	hop := func(format string, args ...any) { t.Hops = append(t.Hops, fmt.Sprintf(format, args...)) }
	here := fmt.Sprintf("host %d (this one)", a.Self.ID)
	var to addr.Host
	switch e := l.entry; {
	case e != nil && e.State == nat.Delivering && e.Port.Ifindex == 0:
		hop("%s: would be dropped as no_port", here)
		return nil
	case e != nil && e.State == nat.Delivering:
		hop("%s: into its port, device %d", here, e.Port.Ifindex)
		return nil
	case e != nil:
		to = e.Host
		hop("%s: the machine is %s, so to host %d", here, e.State, to)
	case l.moved != nil:
		to = l.moved.Host
		hop("%s: it has moved, so to host %d", here, to)
	case home == a.Self.ID:
		hop("%s: it would be at home here, and is not: would be dropped as not_here", here)
		return nil
	case home == 0:
		hop("%s: nobody is home of its block: would be dropped as not_here", here)
		return nil
	default:
		to = home
		hop("%s: at home on host %d", here, to)
	}
	way, ok, err := ways(to)
	if err != nil {
		return err
	}
	if !ok {
		hop("%s: there is no next hop to host %d: would be dropped as unknown_host", here, to)
		return nil
	}
	hop("%s: by %s", here, way)
	for seen := map[addr.Host]bool{a.Self.ID: true}; ; {
		seen[to] = true
		delivers, says := a.answerOf(ctx, to, l.number)
		t.Layers = append(t.Layers, audit.TracedLayer{Layer: fmt.Sprintf("host %d", to), Says: says})
		if delivers {
			hop("host %d: delivers it", to)
			return nil
		}
		next := home
		if l.stored != nil && !l.stored.Destroyed {
			next = l.stored.Host
		}
		if seen[next] || next == 0 {
			hop("host %d: %s", to, says)
			return nil
		}
		hop("host %d: %s; it relays to host %d, where the record says that it is", to, says, next)
		to = next
	}
}

// answerOf asks a host what it does for a machine.
func (a Audit) answerOf(ctx context.Context, h addr.Host, number addr.Machine) (delivers bool, says string) {
	host, err := a.host(h)
	if err != nil {
		return false, "it is not among the hosts"
	}
	if a.Peers == nil {
		return false, "there is nobody to ask"
	}
	v, err := a.Peers.Check(ctx, host, number)
	switch {
	case err != nil:
		return false, "does not answer: " + err.Error()
	case v.Delivering:
		return true, fmt.Sprintf("delivers it, epoch %d", v.Epoch)
	case v.Epoch != 0:
		return false, fmt.Sprintf("knows it at epoch %d, and does not deliver it", v.Epoch)
	}
	return false, "does not have it"
}
