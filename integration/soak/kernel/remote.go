package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/rpc"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

// Remote is a host's Kernel as its daemon uses it.
type Remote struct {
	client *rpc.Client
	// Gone is called when the process that holds the Kernel has gone.
	Gone func()
}

var (
	_ hwmap.Datapath = (*Remote)(nil)
	_ hwmap.Ports    = (*Remote)(nil)
)

// Dial connects to a Kernel that is served on the unix socket at path.
func Dial(path string) (*Remote, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return &Remote{client: rpc.NewClient(conn)}, nil
}

func (r *Remote) ask(method string, q Question) (Answer, error) {
	var a Answer
	if err := r.client.Call("Kernel."+method, q, &a); err != nil {
		r.Gone()
		return a, err
	}
	switch {
	case a.Refused == 0:
		return a, nil
	case a.Refused <= len(sentinels):
		return a, fmt.Errorf("%w (%s)", sentinels[a.Refused-1], a.Text)
	}
	return a, fmt.Errorf("%s", a.Text)
}

func (r *Remote) tell(method string, q Question) error {
	_, err := r.ask(method, q)
	return err
}

func (r *Remote) AttachPort(ifindex int, s addr.Stable) error {
	return r.tell("AttachProgram", Question{Ifindex: ifindex, ID: s.ID()})
}
func (r *Remote) DetachPort(ifindex int) error {
	return r.tell("DetachProgram", Question{Ifindex: ifindex})
}

// AwaitPacket does nothing: no machine sends anything here.
func (r *Remote) AwaitPacket(int, bool) error { return nil }

func (r *Remote) PutMachine(m nat.Machine) error {
	return r.tell("PutMachine", Question{Machine: m})
}
func (r *Remote) DeleteMachine(id addr.ID, epoch uint64) error {
	return r.tell("DeleteMachine", Question{ID: id, Epoch: epoch})
}
func (r *Remote) Flip(id addr.ID, to addr.Host, epoch uint64) error {
	return r.tell("Flip", Question{ID: id, To: to, Epoch: epoch})
}
func (r *Remote) PutMoved(entries ...nat.Moved) error {
	var errs []error
	for _, m := range entries {
		errs = append(errs, r.tell("PutMoved", Question{Moved: m}))
	}
	return errors.Join(errs...)
}
func (r *Remote) DeleteMoved(id addr.ID, epoch uint64) error {
	return r.tell("DeleteMoved", Question{ID: id, Epoch: epoch})
}
func (r *Remote) PutBlock(b nat.Block) error { return r.tell("PutBlock", Question{Block: b}) }
func (r *Remote) DeleteBlock(c addr.Cell, b addr.Block) error {
	return r.tell("DeleteBlock", Question{Block: nat.Block{Cell: c, Block: b}})
}

func (r *Remote) Machine(id addr.ID) (nat.Machine, bool, error) {
	a, err := r.ask("Machine", Question{ID: id})
	return a.Machine, a.Found, err
}

func (r *Remote) Machines() ([]nat.Machine, error) {
	a, err := r.ask("List", Question{})
	return a.Machines, err
}

func (r *Remote) MovedEntries() ([]nat.Moved, error) {
	a, err := r.ask("List", Question{})
	return a.Moved, err
}

func (r *Remote) Blocks() ([]nat.Block, error) {
	a, err := r.ask("List", Question{})
	return a.Blocks, err
}

func (r *Remote) Witness() (nat.Witness, error) {
	a, err := r.ask("List", Question{})
	return a.Witness, err
}

func (r *Remote) PutWitness(w nat.Witness) error { return r.tell("PutWitness", Question{Witness: w}) }

func (r *Remote) PutDead(h addr.Host) error    { return r.tell("SetDead", Question{To: h, Set: true}) }
func (r *Remote) DeleteDead(h addr.Host) error { return r.tell("SetDead", Question{To: h}) }

func (r *Remote) DeadHosts() ([]addr.Host, error) {
	a, err := r.ask("List", Question{})
	return a.Dead, err
}

func (r *Remote) SetFenced(fenced bool) error { return r.tell("SetFenced", Question{Set: fenced}) }

func (r *Remote) Fenced() (bool, error) {
	a, err := r.ask("List", Question{})
	return a.Fenced, err
}

// Device implements hwmap.Ports.
func (r *Remote) Device(s addr.Stable, _ hwmap.PortSpec) string {
	return fmt.Sprintf("m%d", s.Machine())
}

// Attach implements hwmap.Ports.
func (r *Remote) Attach(s addr.Stable, spec hwmap.PortSpec) (hwmap.LocalPort, nat.Port, error) {
	name := r.Device(s, spec)
	a, err := r.ask("MakeDevice", Question{Device: name, ID: s.ID()})
	return hwmap.LocalPort{PortSpec: spec, Device: name, MAC: "02:00:5e:10:00:01", MTU: 1500}, a.Port, err
}

// Find implements hwmap.Ports.
func (r *Remote) Find(s addr.Stable, p hwmap.LocalPort) (nat.Port, error) {
	a, err := r.ask("FindDevice", Question{Device: p.Device, ID: s.ID()})
	return a.Port, err
}

// Detach implements hwmap.Ports.
func (r *Remote) Detach(s addr.Stable, p hwmap.LocalPort) error {
	return r.tell("RemoveDevice", Question{Device: p.Device, ID: s.ID()})
}

// SetHosts implements hwmap.Ports.
func (r *Remote) SetHosts(hosts []hwmap.Host) error {
	return r.tell("SetHosts", Question{Hosts: hosts})
}
