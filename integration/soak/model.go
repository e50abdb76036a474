package main

import (
	"fmt"
	"slices"

	"github.com/anishathalye/porcupine"

	"ip6d/addr"
)

// register is who owns a machine: what its operations, in some order, make of it.
type register struct {
	exists bool         // else what follows is of the machine that there was
	id     addr.Machine // 0: not known yet
	moving addr.Host    // where it is about to go
	owners []tenure     // one after the other
}

// tenure is an owner.
type tenure struct {
	host  addr.Host
	epoch uint64 // 0: not known yet
}

func (r register) last() tenure { return r.owners[len(r.owners)-1] }

func (r register) ownedBy(h addr.Host) bool { return r.exists && r.last().host == h }

// pass makes another host the owner.
func (r register) pass(to tenure) register {
	r.owners, r.moving = append(slices.Clone(r.owners), to), 0
	return r
}

// learn takes in the id and the epoch of the present owner, or reports that they are other ones.
func (r register) learn(out output) (bool, register) {
	now := r.last()
	if r.id != 0 && r.id != out.ID || now.epoch != 0 && now.epoch != out.Epoch {
		return false, r
	}
	r.id, r.owners = out.ID, slices.Clone(r.owners)
	r.owners[len(r.owners)-1].epoch = out.Epoch
	return true, r
}

// machineModel is the register of one machine. An operation whose outcome is unknown has its effect where it can have one,
// and none otherwise; one that had none at all is found to be the last.
var machineModel = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, in, out any) (bool, any) {
		ok, next := step(state.(register), in.(input), out.(output))
		return ok, next
	},
	Equal: func(a, b any) bool {
		x, y := a.(register), b.(register)
		return x.exists == y.exists && x.id == y.id && x.moving == y.moving && slices.Equal(x.owners, y.owners)
	},
	DescribeOperation: func(in, out any) string {
		i, o := in.(input), out.(output)
		text := fmt.Sprintf("%s on host %d", i.Kind, i.Host)
		if i.To != 0 {
			text += fmt.Sprintf(" to host %d", i.To)
		}
		text += ": " + string(o.Result)
		if o.Epoch != 0 {
			text += fmt.Sprintf(", epoch %d", o.Epoch)
		}
		if o.ID != 0 {
			text += fmt.Sprintf(", id %d", o.ID)
		}
		return text
	},
}

func step(r register, in input, out output) (bool, register) {
	owned := r.ownedBy(in.Host)
	switch in.Kind {
	case opCreate:
		if r.exists {
			// The machine as it was created, or as it is now: the same answer again.
			return out.Result == unknown || r.id == 0 || r.id == out.ID, r
		}
		return true, register{exists: true, id: out.ID, owners: []tenure{{in.Host, out.Epoch}}}
	case opSee:
		if !owned {
			return false, r
		}
		return r.learn(out)
	case opGone:
		return !r.exists, r
	case opDestroy:
		if owned {
			r.exists, r.moving = false, 0
			return true, r
		}
		return out.Result == unknown, r
	case opBegin:
		if owned {
			r.moving = in.To
			return true, r
		}
		return out.Result == unknown, r
	case opClaim:
		// Whoever owned it is dead. That its destruction is not undone is the operator's business.
		switch {
		case out.Result == unknown:
			if !r.exists {
				return true, r
			}
		case len(r.owners) == 0 || r.id != 0 && r.id != out.ID || r.last().epoch >= out.Epoch && !owned:
			return false, r
		case owned && r.last().epoch == out.Epoch: // repeated
			return true, r
		}
		return true, r.pass(tenure{in.Host, out.Epoch})
	case opAbort:
		if owned || r.moving == in.Host {
			r.moving = 0
		}
		return true, r
	case opSwitchover:
		return r.switchover(in.Host, owned, out)
	}
	return false, r
}

func (r register) switchover(host addr.Host, owned bool, out output) (bool, register) {
	now := uint64(0)
	if len(r.owners) > 0 {
		now = r.last().epoch
	}
	switch out.Result {
	case aborted:
		if owned {
			r.moving = 0
		}
		return owned, r
	case unknown:
		if !owned || r.moving == 0 {
			return true, r
		}
	default:
		if now >= out.Epoch { // repeated, and the machine may have been destroyed meanwhile
			i := slices.IndexFunc(r.owners, func(t tenure) bool { return t.epoch == out.Epoch })
			return i > 0 && r.owners[i-1].host == host, r
		}
		if !owned || r.moving == 0 || now != 0 && now+1 != out.Epoch {
			return false, r
		}
	}
	next := tenure{r.moving, out.Epoch}
	if next.epoch == 0 && now != 0 {
		next.epoch = now + 1
	}
	return true, r.pass(next)
}
