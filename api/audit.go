package api

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/audit"
)

// auditServer is the AuditService of an Auditor.
type auditServer struct {
	*audit.Auditor
	host *hostServer
}

func (s *auditServer) CheckHost(ctx context.Context, r *connect.Request[ip6dv1.CheckHostRequest]) (*connect.Response[ip6dv1.CheckHostResponse], error) {
	check := s.Check
	if r.Msg.Fleet {
		check = s.CheckFleet
	}
	report, err := check(ctx)
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(&ip6dv1.CheckHostResponse{Report: ReportMessage(report)}), nil
}

func (s *auditServer) RepairHost(ctx context.Context, r *connect.Request[ip6dv1.RepairHostRequest]) (*connect.Response[ip6dv1.RepairHostResponse], error) {
	var kinds []audit.Kind
	for _, k := range r.Msg.Kinds {
		kinds = append(kinds, audit.Kind(k))
	}
	results, err := s.Repair(ctx, ReportFrom(r.Msg.Report), kinds, r.Msg.DryRun)
	if err != nil {
		return nil, answer(err)
	}
	all := &ip6dv1.RepairHostResponse{}
	for _, d := range results {
		all.Repaired = append(all.Repaired, &ip6dv1.Repaired{
			Kind: string(d.Kind), ObjectType: string(d.Object.Type), Object: d.Object.ID, Outcome: string(d.Outcome), Text: d.Text,
		})
	}
	return connect.NewResponse(all), nil
}

func (s *auditServer) TraceMachine(ctx context.Context, r *connect.Request[ip6dv1.TraceMachineRequest]) (*connect.Response[ip6dv1.TraceMachineResponse], error) {
	id, err := s.host.findMachine(r.Msg.Machine)
	if err != nil {
		return nil, answer(err)
	}
	t, err := s.host.Trace(ctx, id)
	if err != nil {
		return nil, answer(err)
	}
	m := &ip6dv1.TraceMachineResponse{Hops: t.Hops}
	for _, l := range t.Layers {
		m.Layers = append(m.Layers, &ip6dv1.TracedLayer{Layer: l.Layer, Says: l.Says, Disagrees: l.Disagrees})
	}
	return connect.NewResponse(m), nil
}

// ReportMessage is a report as the API has it.
func ReportMessage(r audit.Report) *ip6dv1.AuditReport {
	m := &ip6dv1.AuditReport{
		Version: r.Version, Host: uint32(r.Host), Cluster: r.Cluster, Time: timestamppb.New(r.Time),
		Revision: r.Revision, Store: r.Store, Errors: r.Errors,
	}
	for _, u := range r.Unanswered {
		m.Unanswered = append(m.Unanswered, &ip6dv1.UnansweredHost{Host: uint32(u.Host), Why: u.Why})
	}
	for _, d := range r.Differences {
		to := &ip6dv1.Difference{
			Kind: string(d.Kind), ObjectType: string(d.Object.Type), Object: d.Object.ID, Name: d.Name, Address: d.Address,
			Since: timestamppb.New(d.Since), Severity: string(d.Severity), Cause: d.Cause, Remedy: d.Remedy,
			Repairable: d.Repairable, Fingerprint: d.Fingerprint, Host: uint32(d.Host),
		}
		for _, s := range d.Said {
			to.Said = append(to.Said, &ip6dv1.LayerSaid{Layer: s.Layer, Says: s.Says})
		}
		m.Differences = append(m.Differences, to)
	}
	return m
}

// ReportFrom is the way back from ReportMessage.
func ReportFrom(m *ip6dv1.AuditReport) audit.Report {
	r := audit.Report{
		Version: m.GetVersion(), Host: addr.Host(m.GetHost()), Cluster: m.GetCluster(), Time: m.GetTime().AsTime(),
		Revision: m.GetRevision(), Store: m.GetStore(),
		Differences: []audit.Difference{}, Errors: append([]string{}, m.GetErrors()...), Unanswered: []audit.Unanswered{},
	}
	for _, u := range m.GetUnanswered() {
		r.Unanswered = append(r.Unanswered, audit.Unanswered{Host: addr.Host(u.Host), Why: u.Why})
	}
	for _, d := range m.GetDifferences() {
		to := audit.Difference{
			Kind: audit.Kind(d.Kind), Object: audit.Object{Type: audit.ObjectType(d.ObjectType), ID: d.Object}, Name: d.Name, Address: d.Address,
			Since: d.Since.AsTime(), Severity: audit.Severity(d.Severity), Cause: d.Cause, Remedy: d.Remedy,
			Repairable: d.Repairable, Fingerprint: d.Fingerprint, Host: addr.Host(d.Host),
		}
		for _, s := range d.Said {
			to.Said = append(to.Said, audit.Said{Layer: s.Layer, Says: s.Says})
		}
		r.Differences = append(r.Differences, to)
	}
	return r
}
