package hwmap

import (
	"bytes"
	"fmt"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/nat"
)

// compare says what differs of one machine.
func (a Audit) compare(l *layers, r *readings) []audit.Difference {
	var all []audit.Difference
	add := func(k audit.Kind, says ...string) {
		d := audit.New(k, audit.Machine(l.number), says...)
		d.Name, d.Address = a.nameOf(l)
		all = append(all, d)
	}
	if said(l.truth) != said(l.memory) {
		add(audit.TruthDiffers, "truth", said(l.truth), "memory", said(l.memory))
	}
	a.compareEntry(l, add)
	a.compareView(l, r, add)
	if r.storeErr == nil {
		a.compareRecord(l, add)
	}
	if t := l.truth; t != nil {
		switch t.State {
		case Switching:
			add(audit.InDoubt, "truth", said(t), "store", said(l.stored))
		case Leaving, Incoming, Away:
			add(audit.MigrationStands, "truth", said(t), "store", said(l.stored))
		}
	}
	return all
}

// nameOf returns the name and the stable address of a machine, as far as any layer knows them.
func (a Audit) nameOf(l *layers) (name, address string) {
	var network addr.Network
	for _, r := range []*Machine{l.view, l.stored} {
		if r != nil {
			name, network = r.Name, r.Network
		}
	}
	if l.truth != nil && l.truth.Name != "" {
		name, network = l.truth.Name, l.truth.Network
	}
	if l.entry != nil && network == 0 {
		network = l.entry.Network
	}
	if s, err := a.Plan.Stable(network, a.Cell, l.number); err == nil {
		address = s.String()
	}
	return name, address
}

// compareEntry compares the truth and the kernel's entry, but for its port, which is the devices' matter.
func (a Audit) compareEntry(l *layers, add func(audit.Kind, ...string)) {
	var want *nat.Machine
	if l.truth != nil && l.truth.entry() != 0 {
		e := a.natMachine(*l.truth, nat.Port{})
		want = &e
	}
	says := []string{"truth", saidEntry(want), "kernel's machines", saidEntry(l.entry)}
	switch {
	case want == nil && l.entry == nil:
	case want == nil:
		add(audit.EntryStray, says...)
	case l.entry == nil:
		add(audit.EntryMissing, says...)
	case want.State != l.entry.State || want.Network != l.entry.Network || want.Epoch != l.entry.Epoch || want.Host != l.entry.Host:
		add(audit.EntryDiffers, says...)
	}
}

func saidEntry(e *nat.Machine) string {
	if e == nil {
		return ""
	}
	text := fmt.Sprintf("%s, network %d, epoch %d", e.State, e.Network, e.Epoch)
	if e.Host != 0 {
		text += fmt.Sprintf(", host %d", e.Host)
	}
	return text
}

func saidMoved(e *nat.Moved) string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf("host %d, epoch %d", e.Host, e.Epoch)
}

// compareView compares what this host knows of the fleet's map with the store, the cache and the kernel.
func (a Audit) compareView(l *layers, r *readings, add func(audit.Kind, ...string)) {
	switch {
	case l.malformed != nil:
		add(audit.RecordMalformed, "store", l.malformed.Error())
	case said(l.stored) != said(l.view):
		add(audit.ViewDiffers, r.where(), said(l.stored), "memory", said(l.view))
	}
	if a.Cache != nil && r.storeErr == nil && !bytes.Equal(l.cachedBytes, l.storedBytes) {
		add(audit.CacheDiffers, "store", string(l.storedBytes), "cache", string(l.cachedBytes))
	}
	var want *nat.Moved
	if l.view != nil && a.leads(l.view, l.home) {
		want = &nat.Moved{ID: a.id(l.number), Host: l.view.Host, Epoch: l.view.Epoch}
	}
	says := []string{"memory", saidMoved(want), "kernel's moved", saidMoved(l.moved)}
	switch {
	case want == nil && l.moved == nil:
	case want == nil:
		add(audit.MovedStray, says...)
	case l.moved == nil:
		add(audit.MovedMissing, says...)
	case *want != *l.moved:
		add(audit.MovedDiffers, says...)
	}
}

// compareRecord compares the store's record with this host's truth, and with the hosts and blocks that it names.
func (a Audit) compareRecord(l *layers, add func(audit.Kind, ...string)) {
	self, t, r := a.Self.ID, l.truth, l.stored
	says := []string{"truth", said(t), "store", said(r)}
	if r != nil {
		owner, known := a.hostState(r.Host)
		switch {
		case r.Destroyed:
		case !known:
			add(audit.OwnerUnknown, append(says, "hosts", fmt.Sprintf("host %d is not among them", r.Host))...)
		case owner == Dead:
			add(audit.OwnerDead, append(says, "hosts", fmt.Sprintf("host %d is dead", r.Host))...)
		}
		if _, known := a.hostState(r.MovingTo); r.MovingTo != 0 && !known {
			add(audit.TargetUnknown, append(says, "hosts", fmt.Sprintf("host %d is not among them", r.MovingTo))...)
		}
		if l.block == nil {
			add(audit.BlockUnrecorded, append(says, "blocks", fmt.Sprintf("block %d is not among them", l.number.Block()))...)
		}
	}
	if t == nil {
		switch {
		case r == nil:
		case r.Host == self && !r.Destroyed:
			add(audit.MachineNotHere, says...)
		case l.home == self && r.Destroyed:
			add(audit.DestroyUnfinished, says...)
		case l.home == self:
			add(audit.IssuedUnknown, says...)
		}
		return
	}
	s := stored{record: r}
	switch disputed := a.disputed(*t, r); t.State {
	case Here:
		owned := a.owned(*t)
		switch {
		case r == nil && l.home == self, r != nil && *r == owned:
		case r == nil:
			add(audit.MachineUnrecorded, says...)
		case r.Destroyed && r.Epoch == t.Epoch && r.Host == self:
			add(audit.DestroyUnfinished, says...)
		case disputed != nil:
			add(audit.MachineDisputed, says...)
		default:
			add(audit.RecordDiffers, says...)
		}
	case Leaving:
		switch {
		case disputed != nil && r.Epoch == t.Epoch+1 && r.Host == t.Peer: // the switchover won, which settling takes in
			add(audit.RecordDiffers, says...)
		case disputed != nil:
			add(audit.MachineDisputed, says...)
		case r == nil || r.Epoch < t.Epoch || r.MovingTo != t.Peer:
			add(audit.RecordDiffers, says...)
		}
	case Incoming:
		if s.arrived(self, *t) {
			add(audit.RecordDiffers, says...)
		} else if !t.Claiming && !s.invites(self, *t) {
			add(audit.IncomingUninvited, says...)
		}
	case Destroying:
		add(audit.DestroyUnfinished, says...)
	case Issued:
		switch {
		case r == nil:
			add(audit.IssuedUnrecorded, says...)
		case r.Destroyed:
			add(audit.DestroyUnfinished, says...)
		case r.Host == self:
			add(audit.MachineNotHere, says...)
		}
	case Quarantined, Free:
		if r != nil && disputed != nil && !r.Destroyed {
			add(audit.IDInUse, says...)
		} else if r != nil && (t.State == Free || !r.Destroyed) {
			add(audit.DestroyUnfinished, says...)
		}
	}
}

// hostState returns the state of a host of the fleet.
func (m *Map) hostState(h addr.Host) (HostState, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.fleet.hosts[h]
	return r.State, ok
}
