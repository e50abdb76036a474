package integration

import (
	"fmt"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/integration/lab"
)

// onHost is the machine as the host sees it; nil when it does not know it.
func (f *fleet) onHost(m *lab.Machine, h *lab.Host) (*ip6dv1.Machine, error) {
	answer, err := h.Client().Machines.GetMachine(f.ctx, connect.NewRequest(&ip6dv1.GetMachineRequest{Name: m.Name}))
	if connect.CodeOf(err) == connect.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return answer.Msg.Machine, nil
}

func (f *fleet) stateIs(m *lab.Machine, h *lab.Host, want ip6dv1.MachineState) error {
	now, err := f.onHost(m, h)
	if err != nil {
		return err
	}
	if now.GetState() != want {
		return fmt.Errorf("%s is %v on %s, want %v", m.Name, now.GetState(), h.Name, want)
	}
	return nil
}

func (f *fleet) portIsGone(m *lab.Machine, h *lab.Host) error {
	now, err := f.onHost(m, h)
	if err != nil {
		return err
	}
	if now.GetPort() != nil {
		return fmt.Errorf("%s has the port %v on %s", m.Name, now.Port, h.Name)
	}
	return nil
}
