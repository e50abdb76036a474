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
	epoch  uint64       // 0: not known yet
	moving addr.Host    // where it is about to go
	owners []addr.Host  // one after the other, the last at epoch
}

func (r register) owner() addr.Host { return r.owners[len(r.owners)-1] }

func (r register) ownedBy(h addr.Host) bool { return r.exists && r.owner() == h }

// at returns the owner at that epoch, if the machine has come to it.
func (r register) at(epoch uint64) (addr.Host, bool) {
	i := len(r.owners) - 1 - int(r.epoch-epoch)
	if r.epoch < epoch || i < 0 {
		return 0, false
	}
	return r.owners[i], true
}

// learn takes in the id and the epoch of the present owner, or reports that they are other ones.
func (r register) learn(out output) (bool, register) {
	if r.id != 0 && r.id != out.ID || r.epoch != 0 && r.epoch != out.Epoch {
		return false, r
	}
	r.id, r.epoch = out.ID, out.Epoch
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
		return x.exists == y.exists && x.id == y.id && x.epoch == y.epoch && x.moving == y.moving && slices.Equal(x.owners, y.owners)
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
		return true, register{exists: true, id: out.ID, epoch: out.Epoch, owners: []addr.Host{in.Host}}
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
		if r.epoch >= out.Epoch && r.epoch != 0 { // repeated, and the machine may have been destroyed meanwhile
			source, known := r.at(out.Epoch - 1)
			return known && source == host, r
		}
		if !owned || r.moving == 0 || r.epoch != 0 && r.epoch+1 != out.Epoch {
			return false, r
		}
	}
	r.owners = append(slices.Clone(r.owners), r.moving)
	r.moving = 0
	if r.epoch != 0 {
		r.epoch++
	}
	if out.Epoch != 0 {
		r.epoch = out.Epoch
	}
	return true, r
}
