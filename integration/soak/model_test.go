package main

import (
	"math"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"ip6d/addr"
)

// op is an operation that took from one second to another; until 0: it was never answered.
func op(from, until int64, in input, out output) porcupine.Operation {
	if until == 0 {
		until, out.Result = math.MaxInt64, unknown
	} else {
		until *= int64(time.Second)
	}
	return porcupine.Operation{Input: in, Output: out, Call: from * int64(time.Second), Return: until}
}

func on(k kind, host addr.Host) input { return input{Kind: k, Host: host} }

func TestHistoriesAreExplainedOrNot(t *testing.T) {
	create := op(1, 2, on(opCreate, 1), output{done, 7, 3})
	begin := op(3, 4, input{Kind: opBegin, Host: 1, To: 2}, output{Result: done})
	switchover := op(5, 6, on(opSwitchover, 1), output{committed, 0, 4})
	seeAt := func(from int64, host addr.Host, epoch uint64) porcupine.Operation {
		return op(from, from+1, on(opSee, host), output{done, 7, epoch})
	}
	gone := op(100, 101, on(opGone, 1), output{Result: done})
	for _, c := range []struct {
		name  string
		legal bool
		ops   []porcupine.Operation
	}{
		{"created, moved, seen", true, []porcupine.Operation{create, begin, switchover, seeAt(7, 2, 4)}},
		{"an acknowledged create is lost", false, []porcupine.Operation{create, gone}},
		{"a create that was not acknowledged is lost", true, []porcupine.Operation{op(1, 0, on(opCreate, 1), output{}), gone}},
		{"a create that was not acknowledged is there", true, []porcupine.Operation{op(1, 0, on(opCreate, 1), output{}), seeAt(7, 1, 3)}},
		{"the source still has it after the switchover", false, []porcupine.Operation{create, begin, switchover, seeAt(7, 1, 3)}},
		{"the target has it before the switchover", false, []porcupine.Operation{create, begin, seeAt(4, 2, 4), op(8, 9, on(opSwitchover, 1), output{committed, 0, 4})}},
		{"a switchover in doubt was committed", true, []porcupine.Operation{create, begin, op(5, 0, on(opSwitchover, 1), output{}), seeAt(7, 1, 3), seeAt(20, 2, 4)}},
		{"a switchover in doubt was undone after it was committed", false, []porcupine.Operation{create, begin, op(5, 0, on(opSwitchover, 1), output{}), seeAt(7, 2, 4), seeAt(20, 1, 3)}},
		{"an abort and the switchover after it both won", false, []porcupine.Operation{create, begin, op(5, 6, on(opAbort, 1), output{Result: done}), op(7, 8, on(opSwitchover, 1), output{committed, 0, 4})}},
		{"an abort won, and a switchover in doubt was committed after it", false, []porcupine.Operation{create, begin, op(5, 0, on(opSwitchover, 1), output{}), op(6, 7, on(opAbort, 2), output{Result: done}), seeAt(8, 1, 3), seeAt(20, 2, 4)}},
		{"the epoch did not grow", false, []porcupine.Operation{create, begin, op(5, 6, on(opSwitchover, 1), output{committed, 0, 3}), seeAt(7, 2, 3)}},
		{"a destroyed machine is there", false, []porcupine.Operation{create, op(3, 4, on(opDestroy, 1), output{Result: done}), seeAt(7, 1, 3)}},
		{"a destroy that was not acknowledged was not done", true, []porcupine.Operation{create, op(3, 0, on(opDestroy, 1), output{}), seeAt(7, 1, 3)}},
		{"the address changed", false, []porcupine.Operation{create, op(3, 4, on(opSee, 1), output{done, 8, 3})}},
		{"claimed from a dead host", true, []porcupine.Operation{create, begin, op(5, 0, on(opSwitchover, 1), output{}), op(8, 9, input{Kind: opClaim, Host: 3, ID: 7}, output{done, 7, 4}), seeAt(10, 3, 4)}},
		{"a claim does not pass the epoch", false, []porcupine.Operation{create, begin, switchover, op(8, 9, input{Kind: opClaim, Host: 3, ID: 7}, output{done, 7, 4})}},
		{"the owner before a claim still has it", false, []porcupine.Operation{create, op(8, 9, input{Kind: opClaim, Host: 3, ID: 7}, output{done, 7, 4}), seeAt(10, 1, 3)}},
		{"a repeated switchover answers the same", true, []porcupine.Operation{create, begin, switchover, op(7, 8, on(opSwitchover, 1), output{committed, 0, 4})}},
	} {
		want := porcupine.Illegal
		if c.legal {
			want = porcupine.Ok
		}
		if got := porcupine.CheckOperationsTimeout(machineModel, c.ops, checkTimeout); got != want {
			t.Errorf("%s: %s, must be %s:%s", c.name, got, want, describe(c.ops))
		}
	}
}

func TestAnAddressIsNotForTwo(t *testing.T) {
	const q = int64(quarantine / time.Second)
	created := func(from int64, epoch uint64) porcupine.Operation {
		return op(from, from+1, on(opCreate, 1), output{done, 7, epoch})
	}
	destroyed := op(10, 11, on(opDestroy, 1), output{Result: done})
	for _, c := range []struct {
		name   string
		legal  bool
		first  []porcupine.Operation
		second porcupine.Operation
	}{
		{"after the quarantine", true, []porcupine.Operation{created(1, 1), destroyed}, created(10+q, 2)},
		{"at the same time", false, []porcupine.Operation{created(1, 1)}, created(20, 2)},
		{"within the quarantine", false, []porcupine.Operation{created(1, 1), destroyed}, created(9+q-1, 2)},
		{"at the same epoch", false, []porcupine.Operation{created(1, 1), destroyed}, created(20+q, 1)},
	} {
		h, r := newHistory(), newRules()
		h.names["a"], h.names["b"] = c.first, []porcupine.Operation{c.second}
		h.checkAddresses(r)
		if legal := len(r.all()) == 0; legal != c.legal {
			t.Errorf("%s: legal is %t, must be %t: %v", c.name, legal, c.legal, r.all())
		}
	}
}
