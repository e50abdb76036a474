package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// gather is how long Run waits for further changes after the first: they come in flocks.
const gather = 10 * time.Millisecond

// Run keeps this host's network as it should be, until ctx ends. It returns an error when it cannot start, or cannot
// follow the kernel any more. What else goes wrong is logged, and tried again.
func (a *Agent) Run(ctx context.Context) error {
	a.mu.Lock()
	hops := a.NextHops
	a.mu.Unlock()
	if hops == nil {
		return fmt.Errorf("%w: the agent has no next hops", ErrInvalid)
	}
	// Before the first look, so that no change falls between the two.
	socket, err := a.kernel.subscribe()
	if err != nil {
		return err
	}
	if err := a.start(); err != nil {
		socket.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.watch(ctx, socket) })
	group.Go(func() error {
		a.watchFirewall(ctx)
		return nil
	})
	group.Go(func() error {
		defer socket.Close() // which ends watch
		a.keep(ctx)
		return nil
	})
	return group.Wait()
}

// String names the task in logs.
func (a *Agent) String() string { return "network of this host" }

// Ready is closed when Run has brought everything to what it should be, as far as it could, once.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// start takes the steps without which no packet can be carried.
func (a *Agent) start() error {
	if err := a.lookAtStack(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seeUnderlay()
}

// keep looks at everything at once, then whenever there is a cause, and now and then without.
func (a *Agent) keep(ctx context.Context) {
	tick := time.NewTicker(a.Interval)
	defer tick.Stop()
	var last string
	closely := false
	for first := true; ; first = false {
		err := a.lookAtAll(closely)
		if ctx.Err() != nil {
			return
		}
		switch { // a trouble that lasts is told once
		case err != nil && err.Error() != last:
			a.Logger.Warn("network of this host is not as it should be; trying again", "error", err)
			last = err.Error()
		case err == nil && last != "":
			a.Logger.Info("network of this host is as it should be")
			last = ""
		}
		if first {
			close(a.ready)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			closely = true
			continue
		case <-a.kick:
			closely = false
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gather):
		}
	}
}

// lookAtAll compares what is with what should be, and mends what differs. The kernel tells of no program that is taken
// from a device, so the daemon is told of all devices again when it looks closely.
func (a *Agent) lookAtAll(closely bool) error {
	if closely {
		a.mu.Lock()
		a.stackTold, a.underlay.ifindex = false, 0
		a.mu.Unlock()
	}
	errs := []error{a.lookAtStack()}
	a.mu.Lock()
	err := a.seeUnderlay()
	if err == nil {
		err = a.ensureHosts()
	}
	a.mu.Unlock()
	return errors.Join(append(errs, err, a.lookAtPorts(closely))...)
}

// lookAtStack mends ip6d0 and forwarding, and tells the daemon when ip6d0 is another device than before.
func (a *Agent) lookAtStack() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.forward(allDevices); err != nil {
		return err
	}
	if err := a.ensureStack(); err != nil {
		return fmt.Errorf("keep %s: %w", StackDevice, err)
	}
	if a.stackTold {
		return nil
	}
	if a.OnStack != nil {
		if err := a.OnStack(a.stack); err != nil {
			return fmt.Errorf("take %s: %w", StackDevice, err)
		}
	}
	a.stackTold = true
	return nil
}
