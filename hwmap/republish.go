package hwmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// republishAtOnce is how many records are published in one transaction; etcd takes 128 conditions.
const republishAtOnce = 64

// republish writes into a store that was restored all that this host knows and the store does not: what it has of others it
// had from the store before. A higher epoch always wins, so that it matters neither who writes first nor how old it is what
// somebody knows; a record that was deleted since is deleted again by its owner or its home. Records of hosts have no epoch:
// each joins again by itself, see also republishHosts.
func (m *Map) republish(ctx context.Context) error {
	for {
		entries, _, err := m.Fleet.List(ctx, mapPrefix)
		if err != nil {
			return fmt.Errorf("list the fleet's map: %w", err)
		}
		missing := m.missing(entries)
		if len(missing) == 0 {
			return nil
		}
		m.Logger.Info("publishing again what the store has lost", "records", len(missing))
		for some := range slices.Chunk(missing, republishAtOnce) {
			var t Txn
			for _, e := range some {
				t.If = append(t.If, Condition{Key: e.Key, ModRevision: e.ModRevision})
				t.Then = append(t.Then, Write{Key: e.Key, Value: e.Value})
			}
			// In a conflict another host was faster, perhaps with the same: the next listing tells.
			if _, err := m.Fleet.Commit(ctx, t); err != nil && !errors.Is(err, ErrConflict) {
				return err
			}
		}
	}
}

// republishHosts writes into a store that is about to be accepted the records of hosts that it has lost, as far as this host
// may: where the store's access control keeps it from that, they do it themselves. Only the daemon that an operator speaks to
// does so: one that was away for long would bring back a host that was removed meanwhile, and for that all would wait.
func (m *Map) republishHosts(ctx context.Context) {
	joined := m.gate.joined()
	m.mu.Lock()
	hosts := maps.Clone(m.fleet.hosts)
	if !joined || m.state == Removing || m.state == Dead {
		delete(hosts, m.Self.ID) // joining decides
	}
	m.mu.Unlock()
	for id, h := range hosts {
		k := hostKey(id)
		_, err := m.gate.Store.Commit(ctx, Txn{If: []Condition{{Key: k}}, Then: []Write{{Key: k, Value: encode(h)}}})
		if err != nil && !errors.Is(err, ErrConflict) { // else it is there
			m.Logger.Warn("record of a host not published again", "host", id, "error", err)
		}
	}
}

// missing returns the records of blocks and machines that this host knows and the listing has not, or older: each with the revision that it has there.
func (m *Map) missing(listing []Entry) (missing []Entry) {
	listed := make(map[Key]Entry, len(listing))
	for _, e := range listing {
		listed[e.Key] = e
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	want := func(k Key, record any) {
		missing = append(missing, Entry{Key: k, Value: encode(record), ModRevision: listed[k].ModRevision})
	}
	for number, b := range m.fleet.blocks {
		k := blockKey(number)
		there, err := optional[Block](listed[k])
		switch {
		case err != nil:
		case there == nil || there.Epoch < b.Epoch || there.Epoch == b.Epoch && there.Home == b.Home && there.EpochFloor < b.EpochFloor:
			want(k, b)
		case b.Home == m.Self.ID && there.Home != b.Home && there.Epoch == b.Epoch:
			// Nobody can have leased it before this host published it; but there are machines with its ids.
			m.Logger.Error("this host's block has another home in the store that was accepted; it is taken back", "block", number, "host", there.Home)
			b.Epoch++
			want(k, b)
		}
	}
	machines := make(map[Key]Machine)
	for number, r := range m.fleet.machines.all() {
		machines[machineKey(number)] = r
	}
	for number, l := range m.local {
		k := machineKey(number)
		_, recorded := machines[k]
		moved := recorded || listed[k].Value != nil || m.fleet.blocks[number.Block()].Home != m.Self.ID
		if l.entry() == 0 || l.State == Incoming || l.State == Away || !moved || machines[k].Epoch >= l.Epoch || m.database.Suspect != "" {
			continue
		}
		r := m.owned(l)
		if l.State != Here {
			r.MovingTo = l.Peer
		}
		machines[k] = r
	}
	for k, r := range machines {
		there, err := optional[Machine](listed[k])
		if err == nil && (there == nil || there.Epoch < r.Epoch || there.Epoch == r.Epoch && r.Destroyed && !there.Destroyed) {
			want(k, r)
		}
	}
	return missing
}
