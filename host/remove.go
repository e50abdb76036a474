package host

import "fmt"

// RemoveStack undoes what Prepare made: ip6d0 goes, and its routes with it. It succeeds when ip6d0 is gone. Call it while
// Run is not running, which would make it again.
func (a *Agent) RemoveStack() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, err := a.kernel.link(StackDevice)
	if err == nil && l != nil && l.Attrs().Index == a.stack.Ifindex { // else it is another's
		err = a.kernel.delete(l)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", StackDevice, err)
	}
	return nil
}
