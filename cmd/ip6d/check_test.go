package main

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/audit"
)

// auditStub answers what a test tells it to, and keeps what it was asked last.
type auditStub struct {
	ip6dv1connect.UnimplementedAuditServiceHandler

	report *ip6dv1.AuditReport
	mended []*ip6dv1.Repaired
	refuse error // what every call fails with
	asked  *ip6dv1.RepairHostRequest
}

func (s *auditStub) CheckHost(context.Context, *connect.Request[ip6dv1.CheckHostRequest]) (*connect.Response[ip6dv1.CheckHostResponse], error) {
	if s.refuse != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, s.refuse)
	}
	return connect.NewResponse(&ip6dv1.CheckHostResponse{Report: s.report}), nil
}

func (s *auditStub) RepairHost(_ context.Context, q *connect.Request[ip6dv1.RepairHostRequest]) (*connect.Response[ip6dv1.RepairHostResponse], error) {
	s.asked = q.Msg
	return connect.NewResponse(&ip6dv1.RepairHostResponse{Repaired: s.mended}), nil
}

func (s *auditStub) serve(t *testing.T) (socket string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewAuditServiceHandler(s))
	return serveStub(t, mux)
}

// reported is a report with these differences.
func reported(all ...audit.Difference) audit.Report {
	for i := range all {
		all[i].Since = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	}
	return audit.Report{
		Version: "v1", Host: 1, Cluster: "c", Time: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), Revision: 9, Store: "followed",
		Differences: append([]audit.Difference{}, all...), Errors: []string{}, Unanswered: []audit.Unanswered{},
	}
}

func TestCheckTellsByItsStatusWhatItFound(t *testing.T) {
	stray := audit.New(audit.MovedStray, audit.Machine(7), "memory", "", "kernel's moved", "host 3, epoch 1")
	frozen := audit.New(audit.BlockFrozen, audit.Block(4), "blocks", "{}")
	partly := reported()
	partly.Errors = []string{"list routes: no"}
	s := &auditStub{}
	socket := s.serve(t)
	for name, c := range map[string]struct {
		report audit.Report
		refuse error
		status int
		says   []string
	}{
		"nothing":       {report: reported(), status: 0, says: []string{"differences  none"}},
		"differences":   {report: reported(stray, frozen), status: 1, says: []string{"moved_stray: machine 7", "kernel's moved", "host 3, epoch 1", "ip6d repair", "there is 1 difference"}},
		"information":   {report: reported(frozen), status: 0, says: []string{"block_frozen: block 4"}},
		"not all of it": {report: partly, status: 3, says: []string{"list routes: no"}},
		"no answer":     {refuse: errors.New("not now"), status: 3, says: []string{"not now"}},
	} {
		s.report, s.refuse = api.ReportMessage(c.report), c.refuse
		got := runLine(t, "", "--socket", socket, "check")
		if got.status != c.status {
			t.Errorf("%s: exit status %d, want %d", name, got.status, c.status)
		}
		for _, want := range c.says {
			if !strings.Contains(got.stdout+got.stderr, want) {
				t.Errorf("%s: it does not say %q: %+v", name, want, got)
			}
		}
	}
}

func TestRepairSendsTheReportAsCheckWroteIt(t *testing.T) {
	stray := audit.New(audit.MovedStray, audit.Machine(7), "memory", "", "kernel's moved", "host 3, epoch 1")
	s := &auditStub{report: api.ReportMessage(reported(stray))}
	socket := s.serve(t)
	checked := runLine(t, "", "--socket", socket, "-o", "json", "check")
	path := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(path, []byte(checked.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	s.mended = []*ip6dv1.Repaired{{Kind: "moved_stray", ObjectType: "machine", Object: "7", Outcome: "repaired", Text: "it was there"}}
	got := runLine(t, "", "--socket", socket, "-o", "json", "repair", "--from", path, "--only", "moved_stray", "--dry-run")
	if want := `[{"kind":"moved_stray","object":{"type":"machine","id":"7"},"outcome":"repaired","text":"it was there"}]` + "\n"; got.status != exitOK || got.stdout != want {
		t.Errorf("repair: %+v, want %s", got, want)
	}
	want := &ip6dv1.RepairHostRequest{Report: s.report, Kinds: []string{"moved_stray"}, DryRun: true}
	if !proto.Equal(s.asked, want) {
		t.Errorf("it asked %v, want %v", s.asked, want)
	}
	s.mended[0].Outcome = "changed"
	if got := runLine(t, checked.stdout, "--socket", socket, "repair", "--from", "-"); got.status != exitDiffers {
		t.Errorf("where something is left: %+v, want exit status %d", got, exitDiffers)
	}
	if got := runLine(t, "{}", "--socket", socket, "repair", "--from", "-"); got.status != exitUnchecked {
		t.Errorf("what is no report: %+v, want exit status %d", got, exitUnchecked)
	}
	if got := runLine(t, "", "--socket", socket, "repair", "--from", path, "--only", "moved_strey"); got.status != exitUsage {
		t.Errorf("an unknown kind: %+v, want exit status %d", got, exitUsage)
	}
}
