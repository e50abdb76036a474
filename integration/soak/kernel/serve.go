package kernel

import (
	"errors"
	"maps"
	"net"
	"net/rpc"
	"slices"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// Question is a call of a daemon; which fields count depends on the call.
type Question struct {
	Ifindex int
	ID      addr.ID
	Machine nat.Machine
	Moved   nat.Moved
	Block   nat.Block
	To      addr.Host
	Epoch   uint64
	Device  string
	Hosts   []hwmap.Host
	Witness nat.Witness
	Set     bool
}

// Answer is what comes back.
type Answer struct {
	Refused  int // 1 and up: which of sentinels it is
	Text     string
	Found    bool
	Machine  nat.Machine
	Machines []nat.Machine
	Moved    []nat.Moved
	Blocks   []nat.Block
	Port     nat.Port
	Witness  nat.Witness
	Dead     []addr.Host
	Fenced   bool
}

// sentinels are the errors that a daemon tells apart.
var sentinels = []error{nat.ErrStale, nat.ErrNotFound, nat.ErrInvalid, nat.ErrFull, errNoDevice}

// Serve lets the daemon at the other end of conn use k, until it ends. When Serve returns, all that the daemon asked for
// has been done, as system calls are that were under way when a process was killed.
func (k *Kernel) Serve(conn net.Conn) {
	k.forgetLostPrograms()
	s := rpc.NewServer()
	if err := s.RegisterName("Kernel", &service{k}); err != nil {
		panic(err) // its methods are those below
	}
	s.ServeConn(conn)
}

// service is the methods of a Kernel as net/rpc wants them.
type service struct{ k *Kernel }

// refuse puts err into a.
func (a *Answer) refuse(err error) error {
	if err == nil {
		return nil
	}
	a.Text, a.Refused = err.Error(), len(sentinels)+1
	for i, s := range sentinels {
		if errors.Is(err, s) {
			a.Refused = i + 1
		}
	}
	return nil
}

func (s *service) AttachProgram(q Question, a *Answer) error {
	return a.refuse(s.k.attachProgram(q.Ifindex, q.ID))
}
func (s *service) DetachProgram(q Question, a *Answer) error {
	return a.refuse(s.k.detachProgram(q.Ifindex))
}
func (s *service) PutMachine(q Question, a *Answer) error {
	return a.refuse(s.k.putMachine(q.Machine))
}
func (s *service) DeleteMachine(q Question, a *Answer) error {
	return a.refuse(s.k.deleteMachine(q.ID, q.Epoch))
}
func (s *service) Flip(q Question, a *Answer) error {
	return a.refuse(s.k.flip(q.ID, q.To, q.Epoch))
}
func (s *service) PutMoved(q Question, a *Answer) error { return a.refuse(s.k.putMoved(q.Moved)) }
func (s *service) DeleteMoved(q Question, a *Answer) error {
	return a.refuse(s.k.deleteMoved(q.ID, q.Epoch))
}
func (s *service) PutBlock(q Question, a *Answer) error { return a.refuse(s.k.putBlock(q.Block)) }
func (s *service) DeleteBlock(q Question, a *Answer) error {
	return a.refuse(s.k.deleteBlock(q.Block.Block))
}
func (s *service) SetHosts(q Question, a *Answer) error { return a.refuse(s.k.setHosts(q.Hosts)) }

func (s *service) PutWitness(q Question, a *Answer) error {
	return a.refuse(s.k.putWitness(q.Witness))
}

func (s *service) SetDead(q Question, a *Answer) error {
	return a.refuse(s.k.setDead(q.To, q.Set))
}

func (s *service) SetFenced(q Question, a *Answer) error { return a.refuse(s.k.setFenced(q.Set)) }

func (s *service) MakeDevice(q Question, a *Answer) (err error) {
	a.Port, err = s.k.makeDevice(q.Device, q.ID)
	return a.refuse(err)
}

func (s *service) FindDevice(q Question, a *Answer) (err error) {
	a.Port, err = s.k.findDevice(q.Device, q.ID)
	return a.refuse(err)
}

func (s *service) RemoveDevice(q Question, a *Answer) error {
	return a.refuse(s.k.removeDevice(q.Device, q.ID))
}

func (s *service) Machine(q Question, a *Answer) error {
	a.Machine, a.Found = s.k.machine(q.ID)
	return nil
}

func (s *service) List(_ Question, a *Answer) error {
	c := s.k.Snapshot()
	a.Machines = slices.Collect(maps.Values(c.Machines))
	a.Moved = slices.Collect(maps.Values(c.Moved))
	a.Witness, a.Dead, a.Fenced = c.Witness, slices.Sorted(maps.Keys(c.Dead)), c.Fenced
	a.Blocks = slices.Collect(maps.Values(c.Blocks))
	return nil
}
