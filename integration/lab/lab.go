package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ip6d/addr"
)

// Lab is a throwaway fleet. Its methods are for one goroutine at a time; those of its hosts, machines and streams are too,
// but different ones may be used at once.
type Lab struct {
	o    Options
	lock *lock

	underlay *space
	etcd     *Process
	hosts    []*Host
	machines []*Machine
	spaces   []*space // all of them, to be closed
}

// The networks of the machines that Up makes, one of each on each host. See Machine.
const (
	RedNetwork  addr.Network = 42
	BlueNetwork addr.Network = 77
)

// upTimeout is how long the fleet may take until every host knows every other: seconds, on a computer with time for it.
const upTimeout = 60 * time.Second

// Up makes a lab, after removing what an earlier one of that name left. The caller ends it by Down, or leaves it to live on
// by Release. When Up fails or ctx ends, nothing is left. Errors: ErrNotRoot, ErrMissing, ErrRunning, ErrForeign, ErrEnded.
func Up(ctx context.Context, o Options) (_ *Lab, err error) {
	if err := checkRoot(); err != nil {
		return nil, err
	}
	if o, err = o.fill(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(o.directory()); err == nil {
		o.Say("removing the lab that is there")
	}
	if err := Down(o.Name); err != nil {
		return nil, err
	}
	l := &Lab{o: o}
	if l.lock, err = lockDirectory(o.directory()); err != nil {
		return nil, err
	}
	caller := ctx
	defer func() {
		if err != nil {
			err = endedBy(caller, err, l.Down())
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, upTimeout, fmt.Errorf("the fleet was not ready after %v", upTimeout))
	defer cancel()
	if err := l.makeFleet(ctx); err != nil {
		return nil, fmt.Errorf("make the fleet: %w", err)
	}
	if o.Bare {
		return l, nil
	}
	for _, h := range l.hosts {
		for _, m := range []MachineOptions{
			{Name: fmt.Sprintf("red%d", h.Number), Network: RedNetwork, Mobile: true},
			{Name: fmt.Sprintf("blue%d", h.Number), Network: BlueNetwork},
		} {
			if _, err := l.AddMachine(ctx, h, m); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

// endedBy is the error of what ended by err, and by downErr of removing it. Where ctx ended it, nothing else matters.
func endedBy(ctx context.Context, err, downErr error) error {
	if ctx.Err() != nil && downErr == nil {
		return fmt.Errorf("%w; the lab was removed", context.Cause(ctx))
	}
	return errors.Join(err, downErr)
}

func (l *Lab) makeFleet(ctx context.Context) error {
	if err := l.mountBPF(); err != nil {
		return err
	}
	if err := l.makeUnderlay(); err != nil {
		return err
	}
	l.say("underlay: %s, with etcd at %s", l.o.namespace("underlay"), storeAddress())
	if err := l.StartStore(ctx); err != nil {
		return err
	}
	for number := 1; number <= l.o.Hosts; number++ {
		if err := l.addHost(number); err != nil {
			return err
		}
	}
	// One after the other, so that each has the same block, and each machine the same address, in every lab.
	for _, h := range l.hosts {
		if err := h.StartDaemon(ctx); err != nil {
			return err
		}
	}
	for _, h := range l.hosts {
		if err := h.waitAcquainted(ctx, len(l.hosts)); err != nil {
			return err
		}
		l.say("%s: %s, its ip6d has pid %d and listens on %s", h.Name, h.Namespace(), h.daemon.PID(), h.Socket())
	}
	return nil
}

// Down ends and removes everything.
func (l *Lab) Down() error {
	// What is closed later than its namespace is deleted keeps the namespace alive.
	err := l.close()
	return errors.Join(err, l.o.remove(), l.lock.release())
}

// Release leaves the lab to live on without this process. Guards end with the process that attached them.
func (l *Lab) Release() error { return errors.Join(l.close(), l.lock.release()) }

func (l *Lab) close() error {
	errs := []error{closeAll(l.machines), closeAll(l.hosts), closeAll(l.spaces)}
	l.machines, l.hosts, l.spaces = nil, nil, nil
	return errors.Join(errs...)
}

// Hosts returns all hosts, by number.
func (l *Lab) Hosts() []*Host { return l.hosts }

// Host returns the host of that number, from 1. There must be one.
func (l *Lab) Host(number int) *Host { return l.hosts[number-1] }

// Machines returns all machines.
func (l *Lab) Machines() []*Machine { return l.machines }

// Machine returns the machine of that name. There must be one.
func (l *Lab) Machine(name string) *Machine {
	for _, m := range l.machines {
		if m.Name == name {
			return m
		}
	}
	panic(fmt.Sprintf("lab has no machine %q", name))
}

func (l *Lab) say(format string, args ...any) { l.o.Say(fmt.Sprintf(format, args...)) }
