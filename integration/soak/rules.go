package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/integration/soak/kernel"
	"ip6d/nat"
)

// ownership is one owner of a machine id.
type ownership struct {
	id    addr.ID
	epoch uint64
}

// rules watches over what must hold at every moment. It is told of each write to a kernel's machines as it happens, and
// of each change of a machine's record in the store soon after it happened.
type rules struct {
	mu         sync.Mutex // guards all below
	delivering map[addr.ID]map[addr.Host]uint64
	dead       map[addr.Host]bool                // declared so: what it delivers reaches nobody, until it is fenced
	owners     map[ownership]addr.Host           // by who has ever delivered, or been recorded
	networks   map[ownership]addr.Network        // what it delivers to
	recorded   map[addr.Machine]hwmap.Machine    // the store's record, as far as is known
	delivered  map[ownership]bool                // by a kernel
	homes      map[addr.Block]map[addr.Host]bool // ever
	ever       map[ownership]bool                // recorded in the store
	revision   int64                             // of the store, up to which all is known
	violations []violation
	seen       map[violation]bool
	arose      chan struct{} // holds a value once there is a violation
}

// violation is a rule that did not hold.
type violation struct {
	Rule string `json:"rule"`
	Text string `json:"text"`
}

func newRules() *rules {
	return &rules{
		delivering: make(map[addr.ID]map[addr.Host]uint64), owners: make(map[ownership]addr.Host),
		networks: make(map[ownership]addr.Network), recorded: make(map[addr.Machine]hwmap.Machine),
		delivered: make(map[ownership]bool), ever: make(map[ownership]bool), homes: make(map[addr.Block]map[addr.Host]bool), dead: make(map[addr.Host]bool),
		seen: make(map[violation]bool), arose: make(chan struct{}, 1),
	}
}

// The rules, as DESIGN.md numbers them.
const (
	ruleAddress   = "1: an address is held twice"
	ruleOwner     = "2: two owners at one epoch"
	ruleNetwork   = "2: delivery to another network"
	ruleDelivery  = "3: delivery at two hosts"
	ruleEarly     = "3: delivery before the switchover"
	ruleUndone    = "3: a flip was undone after the commit"
	ruleSurvives  = "4: an acknowledged operation did not survive"
	ruleHistory   = "4: a history is not linearizable"
	ruleCreates   = "5: no create with the store away"
	ruleRefusal   = "5: a move with the store away"
	ruleConverges = "6: it did not converge"
	ruleDaemon    = "6: a daemon lost its way"
	ruleFence     = "2: a dead host is back, and not fenced"
	ruleSoak      = "the soak itself failed"
)

// violate notes a violation, once.
func (r *rules) violate(rule, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.note(rule, format, args...)
}

// note is violate for a caller who holds mu.
func (r *rules) note(rule, format string, args ...any) {
	v := violation{rule, fmt.Sprintf(format, args...)}
	if r.seen[v] {
		return
	}
	r.seen[v] = true
	r.violations = append(r.violations, v)
	select {
	case r.arose <- struct{}{}:
	default:
	}
}

// wrote is the kernel.Watcher of every host.
func (r *rules) wrote(host addr.Host, before, after nat.Machine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := after.ID
	hosts := r.delivering[id]
	if hosts == nil {
		hosts = make(map[addr.Host]uint64)
		r.delivering[id] = hosts
	}
	delete(hosts, host)
	if after.State != nat.Delivering || r.dead[host] {
		return
	}
	hosts[host] = after.Epoch
	if len(hosts) > 1 {
		r.note(ruleDelivery, "machine %s is delivered on more than one host (host: epoch): %v", id, hosts)
	}
	own := ownership{id, after.Epoch}
	r.own(own, host)
	r.delivered[own] = true
	if record := r.recorded[id.Machine]; record.Epoch > after.Epoch && before.State != nat.Delivering {
		r.note(ruleUndone, "host %d delivers machine %s at epoch %d, when the store had it on host %d at epoch %d", host, id, after.Epoch, record.Host, record.Epoch)
	}
	if after.Port.Ifindex == 0 {
		return // nothing is delivered yet: the machine may never have been acknowledged, and its id be issued again
	}
	if n, known := r.networks[own]; known && n != after.Network {
		r.note(ruleNetwork, "machine %s at epoch %d is delivered to network %d, and was to network %d", id, after.Epoch, after.Network, n)
	}
	r.networks[own] = after.Network
}

// setDead is told that a host was declared dead, or is fenced.
func (r *rules) setDead(host addr.Host, dead bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dead[host] = dead
	for _, hosts := range r.delivering {
		delete(hosts, host)
	}
}

func (r *rules) isDead(host addr.Host) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dead[host]
}

// own notes an owner. The caller holds mu.
func (r *rules) own(o ownership, host addr.Host) {
	if other, known := r.owners[o]; known && other != host {
		r.note(ruleOwner, "machine %s has owners %d and %d at epoch %d", o.id, other, host, o.epoch)
	}
	r.owners[o] = host
}

// changed is told of each change of a machine's record, in order; nil: it was deleted.
func (r *rules) changed(number addr.Machine, record *hwmap.Machine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if record == nil {
		delete(r.recorded, number)
		return
	}
	before := r.recorded[number]
	if record.Epoch < before.Epoch {
		r.note(ruleOwner, "the record of machine %d went from epoch %d back to %d", number, before.Epoch, record.Epoch)
	}
	own := ownership{addr.ID{Cell: kernel.Cell, Machine: number}, record.Epoch}
	r.own(own, record.Host)
	r.ever[own] = true
	r.recorded[number] = *record
}

// follow tells of every change of the store's map, from its beginning, until ctx ends. Nothing is ever compacted.
func (r *rules) follow(ctx context.Context, client *clientv3.Client) {
	prefix := "/ip6d/" + kernel.Cluster + "/map/"
	revision := int64(1)
	for ctx.Err() == nil {
		for answer := range client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(revision)) {
			for _, e := range answer.Events {
				revision = e.Kv.ModRevision + 1
				if err := r.heard(strings.TrimPrefix(string(e.Kv.Key), prefix), e); err != nil {
					r.violate(ruleConverges, "the store's %s: %v", e.Kv.Key, err)
				}
			}
			r.mu.Lock()
			r.revision = revision - 1
			r.mu.Unlock()
		}
	}
}

// heard takes in one change.
func (r *rules) heard(key string, e *clientv3.Event) error {
	kind, digits, _ := strings.Cut(key, "/")
	number, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return err
	}
	switch kind {
	case "machines":
		if e.Type == clientv3.EventTypeDelete {
			r.changed(addr.Machine(number), nil)
			return nil
		}
		var record hwmap.Machine
		if err := json.Unmarshal(e.Kv.Value, &record); err != nil {
			return err
		}
		r.changed(addr.Machine(number), &record)
	case "blocks":
		if e.Type == clientv3.EventTypeDelete {
			return nil
		}
		var b hwmap.Block
		if err := json.Unmarshal(e.Kv.Value, &b); err != nil {
			return err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.homes[b.Block] == nil {
			r.homes[b.Block] = make(map[addr.Host]bool)
		}
		r.homes[b.Block][b.Home] = true
	}
	return nil
}

// checkDeliveries looks, at the end, whether all that was ever delivered was so by right: by the home of the id, or by whom
// the store had as the owner.
func (r *rules) checkDeliveries() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for own := range r.delivered {
		if host := r.owners[own]; !r.ever[own] && !r.homes[own.id.Machine.Block()][host] {
			r.note(ruleEarly, "host %d delivered machine %s at epoch %d, of which the store never had it as the owner", host, own.id, own.epoch)
		}
	}
}

// all returns the violations so far.
func (r *rules) all() []violation {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]violation(nil), r.violations...)
}
