package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"ip6d/addr"
)

// kind is what an operation does to a machine.
type kind string

const (
	opCreate     kind = "create"
	opBegin      kind = "begin"
	opSwitchover kind = "switchover"
	opAbort      kind = "abort"
	opDestroy    kind = "destroy"
	opClaim      kind = "claim"
	opSee        kind = "see"  // a host said that it owns the machine
	opGone       kind = "gone" // at the end, no host does

	// These change no owner, and are only counted.
	opAttach kind = "attach"
	opFinish kind = "finish"
)

// result is what came of an operation.
type result string

const (
	done      result = "ok"
	committed result = "committed"
	aborted   result = "aborted"
	failed    result = "failed"   // it was refused, and has done nothing
	unknown   result = "unknown"  // it may have been done, or may be yet
	notSent   result = "not sent" // the daemon was down
)

// input is what was asked of a host about a machine.
type input struct {
	Kind kind
	Host addr.Host
	To   addr.Host    // of begin
	ID   addr.Machine // of claim
}

// output is what was answered.
type output struct {
	Result result
	ID     addr.Machine // of create and see
	Epoch  uint64       // of create, see, switchover
}

// history is all that was asked and answered, by the name of the machine.
type history struct {
	start time.Time

	mu        sync.Mutex // guards all below
	names     map[string][]porcupine.Operation
	outcomes  map[kind]map[result]int
	checked   int
	undecided int
}

func newHistory() *history {
	return &history{start: time.Now(), names: make(map[string][]porcupine.Operation), outcomes: make(map[kind]map[result]int)}
}

func (h *history) now() int64 { return int64(time.Since(h.start)) }

// add adds an operation that was called at the time.
func (h *history) add(name string, client int, called int64, in input, out output) {
	returned := h.now()
	h.count(in.Kind, out.Result)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case out.Result == failed, out.Result == notSent, in.Kind == opAttach, in.Kind == opFinish:
		return // it tells nothing of who owns the machine
	case out.Result == unknown:
		returned = math.MaxInt64
	}
	h.names[name] = append(h.names[name], porcupine.Operation{ClientId: client, Input: in, Call: called, Output: out, Return: returned})
}

func (h *history) count(k kind, r result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.outcomes[k] == nil {
		h.outcomes[k] = make(map[result]int)
	}
	h.outcomes[k][r]++
}

// all returns the names of all machines.
func (h *history) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.names))
}

// checkTimeout bounds the search for an order of one machine's operations.
const checkTimeout = 20 * time.Second

// check looks, for each machine, for an order of its operations that explains all answers; and for two machines that had one
// address.
func (h *history) check(r *rules) {
	for _, name := range h.all() {
		h.mu.Lock()
		operations := h.names[name]
		h.checked++
		h.mu.Unlock()
		switch porcupine.CheckOperationsTimeout(machineModel, operations, checkTimeout) {
		case porcupine.Illegal:
			r.violate(ruleHistory, "machine %s:%s", name, describe(operations))
		case porcupine.Unknown:
			h.mu.Lock()
			h.undecided++
			h.mu.Unlock()
		}
	}
	h.checkAddresses(r)
}

// describe lists operations in the order of their calls.
func describe(operations []porcupine.Operation) string {
	text := ""
	for _, o := range slices.SortedFunc(slices.Values(operations), func(a, b porcupine.Operation) int { return int(a.Call - b.Call) }) {
		until := "-"
		if o.Return != math.MaxInt64 {
			until = fmt.Sprintf("%.3f", time.Duration(o.Return).Seconds())
		}
		text += fmt.Sprintf("\n\t%.3f to %s: %s", time.Duration(o.Call).Seconds(), until, machineModel.DescribeOperation(o.Input, o.Output))
	}
	return text
}

// use is the time in which a machine certainly held an address.
type use struct {
	name       string
	epoch      uint64 // the highest known
	first      uint64 // the lowest known
	from, till int64
}

// checkAddresses looks for two machines that held one address at a time, or one after the other without a quarantine, or
// with an epoch that did not grow.
func (h *history) checkAddresses(r *rules) {
	h.mu.Lock()
	defer h.mu.Unlock()
	uses := make(map[addr.Machine][]use)
	for name, operations := range h.names {
		for id, u := range usesOf(name, operations) {
			uses[id] = append(uses[id], u)
		}
	}
	for id, all := range uses {
		slices.SortFunc(all, func(a, b use) int { return int(a.from - b.from) })
		for i := range len(all) - 1 {
			a, b := all[i], all[i+1]
			switch {
			case a.till == math.MaxInt64 || b.from < a.till:
				r.violate(ruleAddress, "machine %d is %q and %q", id, a.name, b.name)
			case b.from < a.till+int64(quarantine):
				r.violate(ruleAddress, "machine %d was %q until %v, and %q from %v on, within its quarantine", id, a.name, time.Duration(a.till), b.name, time.Duration(b.from))
			case b.first <= a.epoch:
				r.violate(ruleAddress, "machine %d was %q up to epoch %d, and %q from epoch %d on", id, a.name, a.epoch, b.name, b.first)
			}
		}
	}
}

// usesOf finds when a machine of that name held which ids: from when it was first said to hold one, to when its destruction
// was first asked for after that.
func usesOf(name string, operations []porcupine.Operation) map[addr.Machine]use {
	uses := make(map[addr.Machine]use)
	for _, o := range operations {
		out := o.Output.(output)
		if out.ID == 0 {
			continue
		}
		u, known := uses[out.ID]
		if !known {
			u = use{name: name, epoch: out.Epoch, first: out.Epoch, from: o.Return, till: math.MaxInt64}
		}
		u.from, u.epoch, u.first = min(u.from, o.Return), max(u.epoch, out.Epoch), min(u.first, out.Epoch)
		uses[out.ID] = u
	}
	for id, u := range uses {
		for _, o := range operations {
			if o.Input.(input).Kind == opDestroy && (o.Return > u.from) {
				u.till = min(u.till, o.Call)
			}
		}
		uses[id] = u
	}
	return uses
}
