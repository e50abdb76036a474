package hwmap

import (
	"context"
	"fmt"

	"ip6d/addr"
	"ip6d/nat"
)

// PortLost takes in that the device of the machine's port has gone: it was deleted, or its namespace ended. The machine
// keeps its address, and the record of its port: attaching it with the same spec makes the port anew. Until then, what
// comes for it is refused here. Errors: those of the datapath, and ctx's.
func (m *Map) PortLost(ctx context.Context, number addr.Machine, ifindex int) error {
	unlock, err := m.operations.lock(ctx, number)
	if err != nil {
		return err
	}
	defer unlock()
	if err := m.Datapath.DetachPort(ifindex); err != nil {
		return fmt.Errorf("take in the loss of device %d: %w", ifindex, err)
	}
	e, ok, err := m.Datapath.Machine(m.id(number))
	if err != nil || !ok || e.Port.Ifindex != ifindex { // it has another port by now
		return err
	}
	e.Port = nat.Port{}
	return m.Datapath.PutMachine(e)
}
