package hwmap

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"ip6d/addr"
	"ip6d/nat"
)

// apply brings entries into the view and the kernel's maps. Where a map is full, what has room is applied all the same.
// The caller holds mu.
func (m *Map) apply(entries []Entry) error {
	var t troubles
	hostsChanged := false
	for _, e := range entries {
		var err error
		switch key := string(e.Key); {
		case strings.HasPrefix(key, string(hostsPrefix)):
			hostsChanged = true
			err = m.applyHost(e)
		case strings.HasPrefix(key, string(blocksPrefix)):
			err = m.applyBlock(e)
		case strings.HasPrefix(key, string(machinesPrefix)):
			err = m.applyMachine(e)
		default:
			m.Logger.Warn("record of an unknown kind left alone; a newer ip6d wrote it", "key", e.Key)
		}
		m.meet(&t, e.Key, err)
	}
	if hostsChanged {
		if err := m.Ports.SetHosts(m.otherHosts()); err != nil {
			t.errs = append(t.errs, fmt.Errorf("set hosts: %w", err))
		}
	}
	return t.join()
}

// troubles are what went wrong with some records of many.
type troubles struct {
	errs []error
	full int // how many have no room
}

// meet takes in what came of applying a record.
func (m *Map) meet(t *troubles, key Key, err error) {
	switch {
	case errors.Is(err, errMalformed):
		m.Logger.Error("record left alone", "error", err)
	case errors.Is(err, nat.ErrStale): // a lower epoch always loses
		m.Logger.Error("the store is older than the kernel's maps; was it restored from a backup?", "key", key, "error", err)
	case errors.Is(err, nat.ErrFull):
		if t.full++; t.full == 1 {
			t.errs = append(t.errs, fmt.Errorf("apply %s: %w", key, err))
		}
	case err != nil:
		t.errs = append(t.errs, fmt.Errorf("apply %s: %w", key, err))
	}
}

func (t *troubles) join() error {
	if t.full > 1 {
		t.errs = append(t.errs, fmt.Errorf("%d records more have no room either", t.full-1))
	}
	return errors.Join(t.errs...)
}

func (m *Map) applyHost(e Entry) error {
	n, err := e.Key.number(hostsPrefix)
	if err != nil {
		return err
	}
	h, err := optional[Host](e)
	if err != nil {
		return err
	}
	put(m.fleet.hosts, addr.Host(n), h)
	m.noticeHost(addr.Host(n), h)
	if addr.Host(n) == m.Self.ID && h != nil {
		if h.State != m.state {
			m.Logger.Warn("this host's state changed", "from", m.state, "to", h.State)
		}
		m.state, m.fleet.stateAt = h.State, e.ModRevision
		wish(m.leaseWanted) // it may take machines again
	}
	return m.refuseDead(addr.Host(n), h)
}

func (m *Map) applyBlock(e Entry) error {
	n, err := e.Key.number(blocksPrefix)
	if err != nil {
		return err
	}
	now, err := optional[Block](e)
	if err != nil {
		return err
	}
	block := addr.Block(n)
	before := m.fleet.blocks[block]
	delete(m.fleet.lost, block)
	for number := range m.fence.silenced {
		if number.Block() == block {
			m.unsettled.add(number)
		}
	}
	put(m.fleet.blocks, block, now)
	if now == nil {
		return m.Datapath.DeleteBlock(m.Cell, block)
	}
	errs := []error{m.Datapath.PutBlock(nat.Block{Cell: m.Cell, Block: block, Home: now.Home})}
	if errs[0] == nil {
		m.issueFrom(*now)
	}
	if given := now.Home == m.Self.ID && !m.isComplete(*now); given || before.Home == m.Self.ID && now.Home != m.Self.ID {
		m.changedHome.add(block)
	}
	if _, unrouted := m.fleet.unrouted[block]; before.Home == now.Home && !unrouted {
		return errs[0]
	}
	// Who counts as moved depends on the home.
	for number, r := range m.fleet.machines.ofBlock(block) {
		errs = append(errs, m.routeTo(number, &r, r.Epoch))
	}
	err = errors.Join(errs...)
	if delete(m.fleet.unrouted, block); err != nil {
		m.fleet.unrouted[block] = struct{}{} // whoever applies it again does all of it
	}
	return err
}

func (m *Map) applyMachine(e Entry) error {
	n, err := e.Key.number(machinesPrefix)
	if err != nil {
		return err
	}
	now, err := optional[Machine](e)
	if err != nil {
		return err
	}
	number := addr.Machine(n)
	before, _ := m.fleet.machines.get(number)
	m.fleet.putMachine(number, now)
	_, known := m.local[number]
	if known || now != nil && m.fleet.blocks[number.Block()].Home == m.Self.ID {
		m.unsettled.add(number)
	}
	epoch := before.Epoch
	if now != nil {
		epoch = now.Epoch
	}
	if epoch != before.Epoch { // the owner changed: a finish waits for it, and it must not wait behind a begin
		wish(m.appliedWanted)
	} else {
		m.wishAppliedLater()
	}
	return errors.Join(m.leftSince(number), m.routeTo(number, now, epoch))
}

// appliedDelay is long enough for a begin not to be published before the switchover that follows it.
const appliedDelay = 3 * time.Second

// wishAppliedLater has what is applied published in a while. A source that learned only later that its switchover was
// committed knows no earlier revision than the record's last, which may be that of a begin or an abort since; its finish
// waits for that. The caller holds mu.
func (m *Map) wishAppliedLater() {
	if m.appliedLater {
		return
	}
	m.appliedLater = true
	time.AfterFunc(appliedDelay, func() {
		m.mu.Lock()
		m.appliedLater = false
		m.mu.Unlock()
		wish(m.appliedWanted)
	})
}

// routeTo keeps the machine's `moved` entry: there is one while the record names a host that is not the block's home,
// nor this one, which knows better. A delete carries the epoch, so that it cannot take the id's next user with it.
func (m *Map) routeTo(number addr.Machine, r *Machine, epoch uint64) error {
	if r == nil && epoch == 0 {
		return nil // never seen
	}
	if !m.leads(r, m.fleet.blocks[number.Block()].Home) {
		return m.Datapath.DeleteMoved(m.id(number), epoch)
	}
	if m.fleet.restoring {
		return nil // putRestored does it
	}
	return m.Datapath.PutMoved(nat.Moved{ID: m.id(number), Host: r.Host, Epoch: r.Epoch})
}

// putRestored puts the `moved` entries that restoring has come to: a million, one by one, would take seconds. The caller
// holds mu.
func (m *Map) putRestored() error {
	var t troubles
	var entries []nat.Moved
	for block, records := range m.fleet.machines.blocks() {
		home := m.fleet.blocks[block].Home
		entries = entries[:0]
		for number, r := range records {
			if m.leads(&r, home) {
				entries = append(entries, nat.Moved{ID: m.id(number), Host: r.Host, Epoch: r.Epoch})
			}
		}
		if m.Datapath.PutMoved(entries...) == nil {
			continue
		}
		for _, e := range entries { // which of them, and why
			m.meet(&t, machineKey(e.ID.Machine), m.Datapath.PutMoved(e))
		}
	}
	return t.join()
}

// leads reports whether a machine with the record r, nil for none, and that home has a `moved` entry.
func (m *Map) leads(r *Machine, home addr.Host) bool {
	return r != nil && !r.Destroyed && r.Host != m.Self.ID && r.Host != home
}

// dropStrays deletes entries of the kernel's maps that the view does not have: what a crash or an older daemon left. It
// runs only after a listing, never on the word of the cache.
func (m *Map) dropStrays() error {
	if m.standalone && m.trusted() != nil {
		return nil // the listing is that of the suspect truth
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	moved, err := m.Datapath.MovedEntries()
	if err != nil {
		return err
	}
	errs := []error{m.dropStrayDead()}
	for _, e := range moved {
		if r, ok := m.fleet.machines.get(e.ID.Machine); !ok || e.ID.Cell != m.Cell || r.Destroyed {
			m.Logger.Info("stray moved entry deleted", "machine", e.ID, "host", e.Host)
			errs = append(errs, m.Datapath.DeleteMoved(e.ID, e.Epoch))
		}
	}
	blocks, err := m.Datapath.Blocks()
	if err != nil {
		return err
	}
	for _, b := range blocks {
		if _, ok := m.fleet.blocks[b.Block]; !ok || b.Cell != m.Cell {
			m.Logger.Info("stray block deleted", "block", b.Block, "host", b.Home)
			errs = append(errs, m.Datapath.DeleteBlock(b.Cell, b.Block))
		}
	}
	return errors.Join(errs...)
}

// otherHosts returns the hosts that packets may be sent to: a dead one's machines, should they run, could not answer. The
// caller holds mu.
func (m *Map) otherHosts() []Host {
	var hosts []Host
	for id, h := range m.fleet.hosts {
		if id != m.Self.ID && h.Underlay.IsValid() && h.State != Dead {
			hosts = append(hosts, h)
		}
	}
	return hosts
}
