package hwmap

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ip6d/addr"
	"ip6d/audit"
)

// compareBlocks compares the blocks; only nil: all.
func (a Audit) compareBlocks(r *readings, only map[addr.Block]bool) (all []audit.Difference) {
	a.mu.Lock()
	view, hosts := maps.Clone(a.fleet.blocks), maps.Clone(a.fleet.hosts)
	a.mu.Unlock()
	for _, b := range numbersOf(r, blocksPrefix, only, maps.Keys(view), maps.Keys(r.blocks)) {
		add := func(k audit.Kind, says ...string) { all = append(all, audit.New(k, audit.Block(b), says...)) }
		known, has := view[b]
		saysView := ""
		if has {
			saysView = said(&known)
		}
		e := r.records[blockKey(b)]
		if e.Value == nil && has && known.Home == a.Self.ID && r.storeErr == nil {
			add(audit.BlockUnpublished, "store", audit.None, "memory", saysView)
		} else {
			compareKept(a, r, e, blockKey(b), saysView, normal[Block], add)
		}
		entry, inKernel := r.blocks[b]
		want := fmt.Sprintf("home %d", known.Home)
		switch {
		case !has && inKernel:
			add(audit.BlockStray, "memory", audit.None, "kernel's blocks", fmt.Sprintf("home %d", entry.Home))
		case has && !inKernel:
			add(audit.BlockMissing, "memory", want, "kernel's blocks", audit.None)
		case has && entry.Home != known.Home:
			add(audit.BlockDiffers, "memory", want, "kernel's blocks", fmt.Sprintf("home %d", entry.Home))
		}
		if !has {
			continue
		}
		switch home, ok := hosts[known.Home]; {
		case !ok:
			add(audit.HomeUnknown, "blocks", saysView, "hosts", fmt.Sprintf("host %d is not among them", known.Home))
		case home.State == Dead:
			add(audit.HomeDead, "blocks", saysView, "hosts", fmt.Sprintf("host %d is dead", known.Home))
		}
		if known.Frozen {
			add(audit.BlockFrozen, "blocks", saysView)
		}
	}
	return all
}

// compareHosts compares the records of hosts; only nil: all.
func (a Audit) compareHosts(r *readings, only map[addr.Host]bool) (all []audit.Difference) {
	a.mu.Lock()
	view := maps.Clone(a.fleet.hosts)
	a.mu.Unlock()
	for _, h := range numbersOf(r, hostsPrefix, only, maps.Keys(view), maps.Keys(r.dead)) {
		known, has := view[h]
		all = append(all, a.compareDeath(r, h, known.State == Dead)...)
		says := ""
		if has {
			says = said(&known)
		}
		compareKept(a, r, r.records[hostKey(h)], hostKey(h), says, normal[Host], func(k audit.Kind, says ...string) {
			all = append(all, audit.New(k, audit.Host(h), says...))
		})
	}
	return all
}

// compareDeath compares whether a host is dead with what the kernel refuses: of this host, everything.
func (a Audit) compareDeath(r *readings, h addr.Host, dead bool) (all []audit.Difference) {
	kind, want, is, layer := audit.DeadStray, dead, r.dead[h], "kernel's dead"
	switch {
	case h == a.Self.ID: // it is fenced longer than it is dead
		kind, want, is, layer = audit.FenceDiffers, a.checkFence() != nil, r.fenced, "kernel's fence"
	case dead:
		kind = audit.DeadMissing
	}
	if want != is {
		all = append(all, audit.New(kind, audit.Host(h), "memory", refusal(want), layer, refusal(is)))
	}
	return all
}

func refusal(refused bool) string {
	if refused {
		return "refused"
	}
	return "carried"
}

// compareKept compares a record of the store with the view and the cache.
func compareKept(a Audit, r *readings, e Entry, key Key, view string, normal func(Entry) (string, error), add func(audit.Kind, ...string)) {
	text, err := normal(e)
	switch {
	case err != nil:
		add(audit.RecordMalformed, "store", err.Error())
	case text != view:
		add(audit.ViewDiffers, r.where(), text, "memory", view)
	}
	if cached := r.cached[key].Value; a.Cache != nil && r.storeErr == nil && !bytes.Equal(cached, e.Value) {
		add(audit.CacheDiffers, "store", string(e.Value), "cache", string(cached))
	}
}

// normal writes a record as this version does.
func normal[T any](e Entry) (string, error) {
	record, err := optional[T](e)
	if err != nil || record == nil {
		return "", err
	}
	return said(record), nil
}

// numbersOf returns the numbers of all records of that kind, in order: of the store, the cache, and of more.
func numbersOf[N ~uint32](r *readings, prefix Key, only map[N]bool, more ...func(func(N) bool)) []N {
	all := make(map[N]bool)
	for _, records := range []map[Key]Entry{r.records, r.cached} {
		for k := range records {
			if n, err := k.number(prefix); err == nil {
				all[N(n)] = true
			}
		}
	}
	for _, seq := range more {
		for n := range seq {
			all[n] = true
		}
	}
	if only != nil {
		maps.DeleteFunc(all, func(n N, _ bool) bool { return !only[n] })
	}
	return slices.Sorted(maps.Keys(all))
}

// compareKeys looks at what is not about one machine, block or host: how this host stands with the store, keys that cannot be
// read, and keys of hosts that have gone.
func (a Audit) compareKeys(r *readings) (all []audit.Difference) {
	store := audit.Object{Type: audit.StoreObject, ID: "fleet"}
	if r.storeErr != nil {
		return append(all, audit.New(audit.StoreUnreachable, store, "store", "does not answer"))
	}
	a.mu.Lock()
	following := a.fleet.following
	hosts := maps.Clone(a.fleet.hosts)
	a.mu.Unlock()
	if !following {
		all = append(all, audit.New(audit.StoreNotFollowed, store, "store", "answers", "memory", "does not follow it"))
	}
	for key := range r.records {
		var err error
		switch k := string(key); {
		case strings.HasPrefix(k, string(hostsPrefix)):
			_, err = key.number(hostsPrefix)
		case strings.HasPrefix(k, string(blocksPrefix)):
			_, err = key.number(blocksPrefix)
		case strings.HasPrefix(k, string(machinesPrefix)):
			_, err = key.number(machinesPrefix)
		}
		if err != nil {
			all = append(all, audit.New(audit.RecordMalformed, audit.Object{Type: audit.KeyObject, ID: string(key)}, "store", err.Error()))
		}
	}
	for _, e := range r.applied {
		if n, err := e.Key.number(appliedPrefix); err == nil && !has(hosts, addr.Host(n)) && !has(r.records, hostKey(addr.Host(n))) {
			all = append(all, staleApplied(e, addr.Host(n)))
		}
	}
	for _, e := range r.alive {
		if n, err := e.Key.number(alivePrefix); err == nil && !has(hosts, addr.Host(n)) && !has(r.records, hostKey(addr.Host(n))) {
			all = append(all, audit.New(audit.AliveUnknown, audit.Object{Type: audit.KeyObject, ID: string(e.Key)},
				"store", "it lives", "hosts", fmt.Sprintf("host %d is not among them", n)))
		}
	}
	return all
}

func staleApplied(e Entry, h addr.Host) audit.Difference {
	return audit.New(audit.AppliedStale, audit.Object{Type: audit.KeyObject, ID: string(e.Key)},
		"store", fmt.Sprintf("revision %d", e.ModRevision), "hosts", fmt.Sprintf("host %d is not among them", h))
}

// where the records were read.
func (r *readings) where() string {
	if r.storeErr != nil {
		return "cache"
	}
	return "store"
}

func has[K comparable, V any](m map[K]V, k K) bool { _, ok := m[k]; return ok }
