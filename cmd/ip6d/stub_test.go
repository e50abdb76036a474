package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
)

// stub is a daemon that answers what a test tells it to, and keeps what it was asked last.
type stub struct {
	ip6dv1connect.UnimplementedMachineServiceHandler
	ip6dv1connect.UnimplementedMigrationServiceHandler
	ip6dv1connect.UnimplementedHostServiceHandler
	ip6dv1connect.UnimplementedEventServiceHandler
	ip6dv1connect.UnimplementedSuspectServiceHandler
	ip6dv1connect.UnimplementedDatabaseServiceHandler

	outcome ip6dv1.Outcome
	problem string // of the database map.db
	refuse  error  // what every call fails with
	asked   any

	drops   []*ip6dv1.GetDropsResponse // one after the other, the last again and again
	monitor []*ip6dv1.MonitorDropsResponse
	stop    bool // the stream ends after these
}

// machines are what every stub has.
var machines = []*ip6dv1.Machine{
	{
		Name: "web1", Network: 42, Cell: 1, Machine: 1, Stable: "fdaa:0:2a:1::1:2", Routing: "fdab:0:1:0:2a:0:1:1", Host: 1, Epoch: 18446744073709551615,
		State: ip6dv1.MachineState_MACHINE_STATE_LEAVING, Peer: 2,
		Port: &ip6dv1.Port{Device: "ip6d00000001", Mac: "12:01:00:00:00:01", Mtu: 1500, Netns: "/run/netns/web1", GuestDevice: "eth0"},
	},
	{Name: "web2", Network: 42, Cell: 1, Machine: 2, Stable: "fdaa:0:2a:1::2:2", Host: 2, Epoch: 2, State: ip6dv1.MachineState_MACHINE_STATE_ELSEWHERE},
}

var hosts = []*ip6dv1.Host{
	{Host: 1, Name: "host1", Identity: "one", State: "joined", Underlay: "fd00::1", Prefix: "fdab:0:1::/48", Blocks: []uint32{4, 0, 1, 2}, Self: true},
	{Host: 2, Name: "host2", Identity: "two", State: "joined", Underlay: "fd00::2", Prefix: "fdab:0:2::/48"},
}

// reply answers one call.
func reply[Q, A any](s *stub, q *connect.Request[Q], a *A) (*connect.Response[A], error) {
	s.asked = q.Msg
	if s.refuse != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, s.refuse)
	}
	return connect.NewResponse(a), nil
}

func (s *stub) CreateMachine(_ context.Context, q *connect.Request[ip6dv1.CreateMachineRequest]) (*connect.Response[ip6dv1.CreateMachineResponse], error) {
	return reply(s, q, &ip6dv1.CreateMachineResponse{Machine: machines[0]})
}

func (s *stub) AttachMachine(_ context.Context, q *connect.Request[ip6dv1.AttachMachineRequest]) (*connect.Response[ip6dv1.AttachMachineResponse], error) {
	return reply(s, q, &ip6dv1.AttachMachineResponse{Machine: machines[0]})
}

func (s *stub) ListMachines(_ context.Context, q *connect.Request[ip6dv1.ListMachinesRequest]) (*connect.Response[ip6dv1.ListMachinesResponse], error) {
	return reply(s, q, &ip6dv1.ListMachinesResponse{Machines: machines})
}

func (s *stub) DestroyMachine(_ context.Context, q *connect.Request[ip6dv1.DestroyMachineRequest]) (*connect.Response[ip6dv1.DestroyMachineResponse], error) {
	return reply(s, q, &ip6dv1.DestroyMachineResponse{})
}

func (s *stub) BeginMigration(_ context.Context, q *connect.Request[ip6dv1.BeginMigrationRequest]) (*connect.Response[ip6dv1.BeginMigrationResponse], error) {
	return reply(s, q, &ip6dv1.BeginMigrationResponse{Stable: "fdaa:0:2a:1::1:2"})
}

func (s *stub) SwitchoverMigration(_ context.Context, q *connect.Request[ip6dv1.SwitchoverMigrationRequest]) (*connect.Response[ip6dv1.SwitchoverMigrationResponse], error) {
	return reply(s, q, &ip6dv1.SwitchoverMigrationResponse{Outcome: s.outcome, Epoch: 2})
}

func (s *stub) FinishMigration(ctx context.Context, q *connect.Request[ip6dv1.FinishMigrationRequest]) (*connect.Response[ip6dv1.FinishMigrationResponse], error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return nil, errors.New("finish came without a deadline")
	}
	return reply(s, q, &ip6dv1.FinishMigrationResponse{})
}

func (s *stub) AbortMigration(_ context.Context, q *connect.Request[ip6dv1.AbortMigrationRequest]) (*connect.Response[ip6dv1.AbortMigrationResponse], error) {
	return reply(s, q, &ip6dv1.AbortMigrationResponse{})
}

func (s *stub) ListHosts(_ context.Context, q *connect.Request[ip6dv1.ListHostsRequest]) (*connect.Response[ip6dv1.ListHostsResponse], error) {
	return reply(s, q, &ip6dv1.ListHostsResponse{Hosts: hosts})
}

func (s *stub) GetHost(_ context.Context, q *connect.Request[ip6dv1.GetHostRequest]) (*connect.Response[ip6dv1.GetHostResponse], error) {
	return reply(s, q, &ip6dv1.GetHostResponse{Host: hosts[1]})
}

func (s *stub) CordonHost(_ context.Context, q *connect.Request[ip6dv1.CordonHostRequest]) (*connect.Response[ip6dv1.CordonHostResponse], error) {
	return reply(s, q, &ip6dv1.CordonHostResponse{Host: &ip6dv1.Host{Host: 2, Name: "host2", Identity: "two", State: "cordoned", Prefix: "fdab:0:2::/48"}})
}

func (s *stub) RemoveHost(_ context.Context, q *connect.Request[ip6dv1.RemoveHostRequest]) (*connect.Response[ip6dv1.RemoveHostResponse], error) {
	return reply(s, q, &ip6dv1.RemoveHostResponse{Host: 2})
}

func (s *stub) UncordonHost(_ context.Context, q *connect.Request[ip6dv1.UncordonHostRequest]) (*connect.Response[ip6dv1.UncordonHostResponse], error) {
	return reply(s, q, &ip6dv1.UncordonHostResponse{Host: hosts[1]})
}

func (s *stub) DeclareHostDead(_ context.Context, q *connect.Request[ip6dv1.DeclareHostDeadRequest]) (*connect.Response[ip6dv1.DeclareHostDeadResponse], error) {
	return reply(s, q, &ip6dv1.DeclareHostDeadResponse{Host: &ip6dv1.Host{Host: 2, Name: "host2", Identity: "two", State: "dead", Prefix: "fdab:0:2::/48"}})
}

func (s *stub) ReviveHost(_ context.Context, q *connect.Request[ip6dv1.ReviveHostRequest]) (*connect.Response[ip6dv1.ReviveHostResponse], error) {
	return reply(s, q, &ip6dv1.ReviveHostResponse{Host: hosts[1]})
}

func (s *stub) AdoptBlocks(_ context.Context, q *connect.Request[ip6dv1.AdoptBlocksRequest]) (*connect.Response[ip6dv1.AdoptBlocksResponse], error) {
	return reply(s, q, &ip6dv1.AdoptBlocksResponse{Blocks: []uint32{4, 5, 7}, To: 1})
}

func (s *stub) UnfreezeBlocks(_ context.Context, q *connect.Request[ip6dv1.UnfreezeBlocksRequest]) (*connect.Response[ip6dv1.UnfreezeBlocksResponse], error) {
	return reply(s, q, &ip6dv1.UnfreezeBlocksResponse{})
}

func (s *stub) ClaimMachine(_ context.Context, q *connect.Request[ip6dv1.ClaimMachineRequest]) (*connect.Response[ip6dv1.ClaimMachineResponse], error) {
	return reply(s, q, &ip6dv1.ClaimMachineResponse{Machine: machines[0]})
}

func (s *stub) GetStatus(_ context.Context, q *connect.Request[ip6dv1.GetStatusRequest]) (*connect.Response[ip6dv1.GetStatusResponse], error) {
	return reply(s, q, &ip6dv1.GetStatusResponse{
		Version: "v1", Host: hosts[0], Endpoints: []string{"http://[fd00::ffff]:2379"}, Revision: 7, StoreError: "store unreachable", StaleSince: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
		Machines: map[string]uint32{"here": 3, "away": 1}, InDoubt: []string{"web1"}, IdsFree: 200,
		Drops:    []*ip6dv1.Drop{{Reason: "not_here", Packets: 9007199254740993}},
		Maps:     []*ip6dv1.MapFill{{Map: "moved", Entries: 3, Size: 512}, {Map: "blocks", Entries: 1, Size: 2}},
		Firewall: []string{"rule 1 stops errors"},
	})
}

func (s *stub) AcceptDatabase(_ context.Context, q *connect.Request[ip6dv1.AcceptDatabaseRequest]) (*connect.Response[ip6dv1.AcceptDatabaseResponse], error) {
	return reply(s, q, &ip6dv1.AcceptDatabaseResponse{Reason: "it is older", FrozenBlocks: []uint32{0, 1}})
}

func (s *stub) GetDatabaseStats(_ context.Context, q *connect.Request[ip6dv1.GetDatabaseStatsRequest]) (*connect.Response[ip6dv1.GetDatabaseStatsResponse], error) {
	return reply(s, q, &ip6dv1.GetDatabaseStatsResponse{Databases: []*ip6dv1.DatabaseStats{{
		Database: "host.db", Path: "/var/lib/ip6d/host.db", Size: 3 << 20, PageSize: 4096, Pages: 600, FreePages: 256,
		Records: map[string]uint64{"local/machines": 20, "history": 640}, Revision: 9007199254740993, Commits: 70, Writes: 7, Slow: 2, Compacted: compacted,
	}}})
}

func (s *stub) CheckDatabase(_ context.Context, q *connect.Request[ip6dv1.CheckDatabaseRequest]) (*connect.Response[ip6dv1.CheckDatabaseResponse], error) {
	sound := &ip6dv1.DatabaseCheck{Database: "host.db", Path: "/var/lib/ip6d/host.db", Pages: 600, FreePages: 256, Records: 660, Revision: 70}
	broken := &ip6dv1.DatabaseCheck{Database: "map.db", Path: "/var/lib/ip6d/map.db", Problem: s.problem}
	if s.problem == "" {
		return reply(s, q, &ip6dv1.CheckDatabaseResponse{Checks: []*ip6dv1.DatabaseCheck{sound}})
	}
	return reply(s, q, &ip6dv1.CheckDatabaseResponse{Checks: []*ip6dv1.DatabaseCheck{sound, broken}})
}

func (s *stub) CompactDatabase(_ context.Context, q *connect.Request[ip6dv1.CompactDatabaseRequest]) (*connect.Response[ip6dv1.CompactDatabaseResponse], error) {
	return reply(s, q, &ip6dv1.CompactDatabaseResponse{Compactions: []*ip6dv1.Compaction{compacted}})
}

// compacted is what every stub says of a compaction.
var compacted = &ip6dv1.Compaction{
	Database: "host.db", Time: timestamppb.New(time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)), Before: 80 << 20, After: 3 << 20,
	Took: durationpb.New(2 * time.Second), Pause: durationpb.New(8 * time.Millisecond),
}

func (s *stub) AcceptStore(_ context.Context, q *connect.Request[ip6dv1.AcceptStoreRequest]) (*connect.Response[ip6dv1.AcceptStoreResponse], error) {
	return reply(s, q, &ip6dv1.AcceptStoreResponse{Generation: 2})
}

func (s *stub) GetDrops(_ context.Context, q *connect.Request[ip6dv1.GetDropsRequest]) (*connect.Response[ip6dv1.GetDropsResponse], error) {
	now := s.drops[0]
	if len(s.drops) > 1 {
		s.drops = s.drops[1:]
	}
	return reply(s, q, now)
}

func (s *stub) MonitorDrops(ctx context.Context, q *connect.Request[ip6dv1.MonitorDropsRequest], to *connect.ServerStream[ip6dv1.MonitorDropsResponse]) error {
	if _, err := reply(s, q, &ip6dv1.MonitorDropsResponse{}); err != nil {
		return err
	}
	for _, m := range s.monitor {
		if err := to.Send(m); err != nil {
			return err
		}
	}
	if s.stop {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// startStub serves a stub until the test ends, and returns its socket.
func startStub(t *testing.T, s *stub) (socket string) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewMachineServiceHandler(s))
	mux.Handle(ip6dv1connect.NewMigrationServiceHandler(s))
	mux.Handle(ip6dv1connect.NewHostServiceHandler(s))
	mux.Handle(ip6dv1connect.NewEventServiceHandler(s))
	mux.Handle(ip6dv1connect.NewSuspectServiceHandler(s))
	mux.Handle(ip6dv1connect.NewDatabaseServiceHandler(s))
	return serveStub(t, mux)
}

func serveStub(t *testing.T, h http.Handler) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := api.NewServer(h, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return socket
}
