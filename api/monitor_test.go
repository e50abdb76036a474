package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/nat"
)

// monitor begins to monitor drops, and waits until nothing is missed any more.
func monitor(t *testing.T, d *daemon, r *ip6dv1.MonitorDropsRequest) (next func() *ip6dv1.MonitorDropsResponse) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := d.Hosts.MonitorDrops(ctx, connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	next = func() *ip6dv1.MonitorDropsResponse {
		t.Helper()
		if !stream.Receive() {
			t.Fatalf("the stream ended: %v", stream.Err())
		}
		return stream.Msg()
	}
	if first := next(); first.Drop != nil || first.Missed != nil {
		t.Fatalf("the first message is %v, want an empty one", first)
	}
	return next
}

func TestDropsAreStreamedWithTheNamesOfTheirMachines(t *testing.T) {
	d := newDaemon(t, 1, nil)
	a := call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "a", Network: 1}).Machine
	b := call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "b", Network: 1}).Machine
	next := monitor(t, d, &ip6dv1.MonitorDropsRequest{})
	sent := time.Now()
	sender, err := addr.DefaultPlan.ParseStable(a.Stable)
	if err != nil {
		t.Fatal(err)
	}
	d.events.Publish(nat.Event{
		Kind: nat.EventDrop, Time: sent, Reason: "foreign_source", Way: "from_machine", Sender: sender, Length: 78, NextHeader: 58,
		Source: netip.MustParseAddr("2001:db8::1"), Destination: netip.MustParseAddr(b.Routing), Ifindex: 1,
	})
	want := &ip6dv1.MonitorDropsResponse{Drop: &ip6dv1.DropEvent{
		Time: timestamppb.New(sent), Reason: "foreign_source", Way: "from_machine", Device: "lo",
		Source: "2001:db8::1", Destination: b.Routing, SourceMachine: "a", DestinationMachine: "b", NextHeader: 58, Length: 78,
	}}
	if diff := cmp.Diff(want, next(), protocmp.Transform()); diff != "" {
		t.Errorf("a drop (-want +got):\n%s", diff)
	}
	d.events.Publish(nat.Event{Kind: nat.EventDrop, Time: sent, Reason: "arp", Way: "from_machine", Sender: sender, Length: 60, Ifindex: 1 << 30})
	want = &ip6dv1.MonitorDropsResponse{Drop: &ip6dv1.DropEvent{
		Time: timestamppb.New(sent), Reason: "arp", Way: "from_machine", SourceMachine: "a", Length: 60,
	}}
	if diff := cmp.Diff(want, next(), protocmp.Transform()); diff != "" {
		t.Errorf("a drop of what is not IPv6 (-want +got):\n%s", diff)
	}
}

func TestOnlyDropsThatAreAskedForAreStreamed(t *testing.T) {
	d := newDaemon(t, 1, nil)
	a := call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "a", Network: 1}).Machine
	b := call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "b", Network: 2}).Machine
	address := netip.MustParseAddr
	stableB, err := addr.DefaultPlan.ParseStable(b.Stable)
	if err != nil {
		t.Fatal(err)
	}
	outside := address("2001:db8::1")
	events := []nat.Event{ // Length is the number that a test knows it by
		1: {Reason: "loop", Source: address(a.Routing), Destination: outside},
		2: {Reason: "not_here", Source: outside, Destination: address(a.Stable)},
		3: {Reason: "not_here", Source: address(b.Stable), Destination: outside},
		4: {Reason: "not_here", Sender: stableB}, // of b's port, though not in b's name
		5: {Reason: "loop", Source: address(b.Routing), Destination: address(a.Routing)},
		6: {Reason: "loop", Source: outside, Destination: outside},
	}
	two := uint32(2)
	for name, c := range map[string]struct {
		ask  *ip6dv1.MonitorDropsRequest
		want []uint32
	}{
		"all":                   {&ip6dv1.MonitorDropsRequest{}, []uint32{1, 2, 3, 4, 5, 6}},
		"a reason":              {&ip6dv1.MonitorDropsRequest{Reasons: []string{"loop"}}, []uint32{1, 5, 6}},
		"two reasons":           {&ip6dv1.MonitorDropsRequest{Reasons: []string{"loop", "not_here"}}, []uint32{1, 2, 3, 4, 5, 6}},
		"a machine":             {&ip6dv1.MonitorDropsRequest{Machine: "a"}, []uint32{1, 2, 5}},
		"its address":           {&ip6dv1.MonitorDropsRequest{Machine: a.Stable}, []uint32{1, 2, 5}},
		"its routing address":   {&ip6dv1.MonitorDropsRequest{Machine: a.Routing}, []uint32{1, 2, 5}},
		"its number":            {&ip6dv1.MonitorDropsRequest{Machine: "1"}, []uint32{1, 2, 5}},
		"its cell and number":   {&ip6dv1.MonitorDropsRequest{Machine: "1/1"}, []uint32{1, 2, 5}},
		"of another cell":       {&ip6dv1.MonitorDropsRequest{Machine: "2/1"}, nil},
		"a network":             {&ip6dv1.MonitorDropsRequest{Network: &two}, []uint32{3, 4, 5}},
		"a machine of a reason": {&ip6dv1.MonitorDropsRequest{Machine: "b", Reasons: []string{"not_here"}}, []uint32{3, 4}},
		"a machine's network":   {&ip6dv1.MonitorDropsRequest{Machine: "a", Network: &two}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			next := monitor(t, d, c.ask)
			all := monitor(t, d, &ip6dv1.MonitorDropsRequest{})
			for i, e := range events[1:] {
				e.Kind, e.Length = nat.EventDrop, i+1
				d.events.Publish(e)
			}
			for range events[1:] {
				all() // so that all of them have been handed on
			}
			for _, want := range c.want {
				if got := next(); got.Drop.GetLength() != want {
					t.Errorf("got %v, want event %d", got, want)
				}
			}
		})
	}
}

func TestAFilterThatCannotMatchIsRefused(t *testing.T) {
	d := newDaemon(t, 1, nil)
	none := uint32(0)
	for _, c := range []struct {
		ask  *ip6dv1.MonitorDropsRequest
		code connect.Code
		says string
	}{
		{&ip6dv1.MonitorDropsRequest{Reasons: []string{"loop", "lop"}}, connect.CodeInvalidArgument, `no reason "lop"; the reasons are: not_here, loop`},
		{&ip6dv1.MonitorDropsRequest{Machine: "nobody"}, connect.CodeNotFound, `unknown machine "nobody"`},
		{&ip6dv1.MonitorDropsRequest{Machine: "2001:db8::1"}, connect.CodeInvalidArgument, "is not the address of a machine"},
		{&ip6dv1.MonitorDropsRequest{Network: &none}, connect.CodeInvalidArgument, "network 0"},
	} {
		stream, err := d.Hosts.MonitorDrops(t.Context(), connect.NewRequest(c.ask))
		if err == nil {
			stream.Receive()
			err = stream.Err()
			stream.Close()
		}
		if connect.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v: %v, want %v with %q", c.ask, err, c.code, c.says)
		}
	}
}

func TestAStreamTellsHowManyDropsItDoesNotShow(t *testing.T) {
	d := newDaemon(t, 1, nil)
	lose := func(lost nat.EventsLost) { _ = d.datapath.locked(func() { d.datapath.lost = lost }) }
	lose(nat.EventsLost{RingFull: 5, Sampled: 50}) // before
	next := monitor(t, d, &ip6dv1.MonitorDropsRequest{})
	lose(nat.EventsLost{RingFull: 6, Sampled: 52})
	if got := next(); got.Missed.GetRingFull() != 1 || got.Missed.GetSampled() != 2 || got.Missed.GetTooSlow() != 0 {
		t.Errorf("it tells of %v, want one and two", got)
	}
	lose(nat.EventsLost{RingFull: 6, Sampled: 55})
	if got := next(); got.Missed.GetRingFull() != 0 || got.Missed.GetSampled() != 3 {
		t.Errorf("then it tells of %v, want three more", got)
	}
}

// One who does not read fills the buffers on the way; then it misses drops, and is told how many.
func TestASlowCallerIsToldHowManyDropsItMissed(t *testing.T) {
	d := newDaemon(t, 1, nil)
	next := monitor(t, d, &ip6dv1.MonitorDropsRequest{})
	const sent = 200_000
	for range sent {
		d.events.Publish(nat.Event{Kind: nat.EventDrop, Reason: "loop"})
	}
	var shown, missed uint64
	for shown+missed < sent {
		m := next()
		if m.Drop != nil {
			shown++
		}
		missed += m.Missed.GetTooSlow()
	}
	if shown+missed != sent || missed == 0 || shown == 0 {
		t.Errorf("of %d drops %d were shown and %d missed", sent, shown, missed)
	}
}

// stuckPipe is the server's end of a pipe, which holds nothing: what is written waits for the reader.
type stuckPipe struct {
	net.Conn
	writing atomic.Bool
}

func (p *stuckPipe) Write(b []byte) (int, error) {
	p.writing.Store(true)
	defer p.writing.Store(false)
	return p.Conn.Write(b)
}

func TestACallerWhoReadsNothingDoesNotHoldUpTheEndOfTheServer(t *testing.T) {
	d := newDaemon(t, 1, nil)
	serving, end := context.WithCancel(context.Background())
	defer end()
	s := NewServer(NewHandler(HandlerOptions{Map: d.hwmap, Datapath: d.datapath, Events: d.events}), slog.New(slog.DiscardHandler))
	s.BaseContext = func(net.Listener) context.Context { return serving }
	l := &pipes{accept: make(chan net.Conn), closed: make(chan struct{})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	ours, theirs := net.Pipe()
	pipe := &stuckPipe{Conn: theirs}
	client := newClient("http://ip6d", &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		l.accept <- pipe
		return ours, nil
	}})
	defer client.Close()
	stream, err := client.Hosts.MonitorDrops(t.Context(), connect.NewRequest(&ip6dv1.MonitorDropsRequest{}))
	if err != nil || !stream.Receive() {
		t.Fatalf("%v, %v", err, stream.Err())
	}
	defer stream.Close()
	d.events.Publish(nat.Event{Kind: nat.EventDrop, Reason: "loop", Way: strings.Repeat("x", 1e5)})
	for deadline := time.Now().Add(patience); !pipe.writing.Load(); {
		if time.Now().After(deadline) {
			t.Fatal("nothing is written")
		}
		runtime.Gosched()
	}
	end()
	patient, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Shutdown(patient); err != nil {
		t.Errorf("the server ends with %v", err)
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// pipes is a listener whose connections are handed to it.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func TestDropsAreToldForEveryReason(t *testing.T) {
	d := newDaemon(t, 1, nil)
	_ = d.datapath.locked(func() { d.datapath.lost = nat.EventsLost{RingFull: 5, Sampled: 50} })
	want := &ip6dv1.GetDropsResponse{
		Drops: []*ip6dv1.Drop{
			{Reason: "not_here", Packets: 3, Meaning: "the machine is not on this host"},
			{Reason: "loop", Meaning: "it came from there"},
		},
		Missed: &ip6dv1.MissedDrops{RingFull: 5, Sampled: 50},
	}
	if diff := cmp.Diff(want, call(t, d.Hosts.GetDrops, &ip6dv1.GetDropsRequest{}), protocmp.Transform()); diff != "" {
		t.Errorf("drops (-want +got):\n%s", diff)
	}
}
