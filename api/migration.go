package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

// migrationServer is the MigrationService of a Map.
type migrationServer struct {
	*hwmap.Map
	finishTimeout time.Duration
}

func (s *migrationServer) BeginMigration(ctx context.Context, r *connect.Request[ip6dv1.BeginMigrationRequest]) (*connect.Response[ip6dv1.BeginMigrationResponse], error) {
	begin := s.Begin
	if r.Msg.ActivateOnFirstPacket {
		begin = s.BeginOnFirstPacket
	}
	v, err := begin(ctx, r.Msg.Name, addr.Host(r.Msg.To))
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.BeginMigrationResponse{Stable: v.Stable.String()}), nil
}

func (s *migrationServer) CheckMigration(ctx context.Context, r *connect.Request[ip6dv1.CheckMigrationRequest]) (*connect.Response[ip6dv1.CheckMigrationResponse], error) {
	switch err := s.CheckTarget(ctx, r.Msg.Name); {
	case err == nil:
		return connect.NewResponse(&ip6dv1.CheckMigrationResponse{Ready: true}), nil
	case errors.Is(err, hwmap.ErrNotReady):
		return connect.NewResponse(&ip6dv1.CheckMigrationResponse{Problem: err.Error()}), nil
	default:
		return nil, answer(err)
	}
}

func (s *migrationServer) SwitchoverMigration(ctx context.Context, r *connect.Request[ip6dv1.SwitchoverMigrationRequest]) (*connect.Response[ip6dv1.SwitchoverMigrationResponse], error) {
	outcome, epoch, err := s.Switchover(ctx, r.Msg.Name)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.SwitchoverMigrationResponse{Outcome: outcomeMessage(outcome), Epoch: epoch}), nil
}

func (s *migrationServer) FinishMigration(ctx context.Context, r *connect.Request[ip6dv1.FinishMigrationRequest]) (*connect.Response[ip6dv1.FinishMigrationResponse], error) {
	patience := s.finishTimeout
	if deadline, bounded := ctx.Deadline(); bounded {
		// A little less than the caller's own, or he would never hear which hosts he waited for in vain.
		left := time.Until(deadline)
		patience = left - min(left/10, time.Second)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.Finish(ctx, r.Msg.Name); err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.FinishMigrationResponse{}), nil
}

func (s *migrationServer) AbortMigration(ctx context.Context, r *connect.Request[ip6dv1.AbortMigrationRequest]) (*connect.Response[ip6dv1.AbortMigrationResponse], error) {
	if err := s.Abort(ctx, r.Msg.Name); err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.AbortMigrationResponse{}), nil
}

func (s *migrationServer) ClaimMachine(ctx context.Context, r *connect.Request[ip6dv1.ClaimMachineRequest]) (*connect.Response[ip6dv1.ClaimMachineResponse], error) {
	stable, err := s.parseStable(r.Msg.Stable)
	if err != nil {
		return nil, answer(err)
	}
	v, err := s.Claim(ctx, r.Msg.Name, addr.Network(r.Msg.Network), stable)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.ClaimMachineResponse{Machine: (&machineServer{s.Map}).message(v)}), nil
}

func (s *migrationServer) parseStable(text string) (addr.Stable, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return addr.Stable{}, fmt.Errorf("%w: address %q: %w", hwmap.ErrUsage, text, err)
	}
	return s.Plan.StableFrom(a)
}

func outcomeMessage(o hwmap.Outcome) ip6dv1.Outcome {
	switch o {
	case hwmap.Committed:
		return ip6dv1.Outcome_OUTCOME_COMMITTED
	case hwmap.Aborted:
		return ip6dv1.Outcome_OUTCOME_ABORTED
	case hwmap.InDoubt:
		return ip6dv1.Outcome_OUTCOME_IN_DOUBT
	}
	return ip6dv1.Outcome_OUTCOME_UNSPECIFIED
}
