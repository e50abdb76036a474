package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/integration/soak/kernel"
)

// callTimeout bounds a call: longer than a daemon takes to find out that the store is away.
const callTimeout = 15 * time.Second

// finishTimeout bounds a finish, which may have to wait for hosts that are cut off.
const finishTimeout = 5 * time.Second

// call asks a host, and notes what was asked and answered.
func (s *soak) call(ctx context.Context, client int, name string, in input) (output, error) {
	timeout := callTimeout
	if in.Kind == opFinish {
		timeout = finishTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	called := s.history.now()
	h := s.hosts[in.Host-1]
	if !h.use.TryRLock() { // it is lost
		s.history.count(in.Kind, notSent)
		return output{Result: notSent}, errLost
	}
	defer h.use.RUnlock()
	out, err := h.ask(ctx, name, in)
	if err != nil {
		out.Result = in.Kind.after(err)
	}
	s.note(name, in, out, err)
	if in.Kind != opSee || out.Result == done {
		s.history.add(name, client, called, in, out)
	}
	return out, err
}

// note keeps what was asked and answered in a file, for whoever looks for the cause of a violation.
func (s *soak) note(name string, in input, out output, err error) {
	fmt.Fprintf(s.calls, "%8.3f %s: %s (%v)\n", time.Since(s.began).Seconds(), name, machineModel.DescribeOperation(in, out), err)
}

var errLost = errors.New("the host is lost")

var errNotOwner = errors.New("the host does not say that it owns the machine")

// ask makes one call of the host's API.
func (h *host) ask(ctx context.Context, name string, in input) (out output, err error) {
	out.Result = done
	switch in.Kind {
	case opCreate:
		var r *connect.Response[ip6dv1.CreateMachineResponse]
		if r, err = h.client.Machines.CreateMachine(ctx, connect.NewRequest(&ip6dv1.CreateMachineRequest{Name: name, Network: networkOf(name)})); err == nil {
			out.ID, out.Epoch = addr.Machine(r.Msg.Machine.Machine), r.Msg.Machine.Epoch
		}
	case opSee:
		var r *connect.Response[ip6dv1.GetMachineResponse]
		if r, err = h.client.Machines.GetMachine(ctx, connect.NewRequest(&ip6dv1.GetMachineRequest{Name: name})); err != nil {
			break
		}
		switch r.Msg.Machine.State {
		case ip6dv1.MachineState_MACHINE_STATE_HERE, ip6dv1.MachineState_MACHINE_STATE_LEAVING:
			out.ID, out.Epoch = addr.Machine(r.Msg.Machine.Machine), r.Msg.Machine.Epoch
		default:
			err = errNotOwner
		}
	case opBegin:
		_, err = h.client.Migrations.BeginMigration(ctx, connect.NewRequest(&ip6dv1.BeginMigrationRequest{Name: name, To: uint32(in.To)}))
	case opAttach:
		_, err = h.client.Machines.AttachMachine(ctx, connect.NewRequest(&ip6dv1.AttachMachineRequest{Name: name, Netns: "/run/netns/" + name}))
	case opSwitchover:
		var r *connect.Response[ip6dv1.SwitchoverMigrationResponse]
		if r, err = h.client.Migrations.SwitchoverMigration(ctx, connect.NewRequest(&ip6dv1.SwitchoverMigrationRequest{Name: name})); err != nil {
			break
		}
		switch r.Msg.Outcome {
		case ip6dv1.Outcome_OUTCOME_COMMITTED:
			out.Result, out.Epoch = committed, r.Msg.Epoch
		case ip6dv1.Outcome_OUTCOME_ABORTED:
			out.Result = aborted
		default:
			out.Result = unknown
		}
	case opClaim:
		s, stableErr := addr.DefaultPlan.Stable(addr.Network(networkOf(name)), kernel.Cell, in.ID)
		if stableErr != nil {
			return out, stableErr
		}
		var r *connect.Response[ip6dv1.ClaimMachineResponse]
		r, err = h.client.Migrations.ClaimMachine(ctx, connect.NewRequest(&ip6dv1.ClaimMachineRequest{Name: name, Network: networkOf(name), Stable: s.String()}))
		if err == nil {
			out.ID, out.Epoch = addr.Machine(r.Msg.Machine.Machine), r.Msg.Machine.Epoch
		}
	case opFinish:
		_, err = h.client.Migrations.FinishMigration(ctx, connect.NewRequest(&ip6dv1.FinishMigrationRequest{Name: name}))
	case opAbort:
		_, err = h.client.Migrations.AbortMigration(ctx, connect.NewRequest(&ip6dv1.AbortMigrationRequest{Name: name}))
	case opDestroy:
		_, err = h.client.Machines.DestroyMachine(ctx, connect.NewRequest(&ip6dv1.DestroyMachineRequest{Name: name}))
	}
	return out, err
}

// networkOf gives machines different networks, each always the same.
func networkOf(name string) uint32 {
	n := uint32(1)
	for _, c := range name {
		n = n*31 + uint32(c)
	}
	return n%1000 + 1
}

// after says what an error tells of the operation.
func (k kind) after(err error) result {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return notSent
	}
	if !connect.IsWireError(err) {
		return unknown
	}
	switch connect.CodeOf(err) {
	case connect.CodeNotFound, connect.CodeAlreadyExists, connect.CodeInvalidArgument, connect.CodeResourceExhausted:
		return failed
	case connect.CodeFailedPrecondition, connect.CodeAborted:
		if k != opBegin || !strings.Contains(err.Error(), "did not accept it") { // else it has been recorded
			return failed
		}
	case connect.CodeUnavailable:
		if k == opSwitchover { // else it is an outcome
			return failed
		}
	}
	return unknown
}
