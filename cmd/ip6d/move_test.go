package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
)

const (
	here      = ip6dv1.MachineState_MACHINE_STATE_HERE
	leaving   = ip6dv1.MachineState_MACHINE_STATE_LEAVING
	switching = ip6dv1.MachineState_MACHINE_STATE_SWITCHING
	away      = ip6dv1.MachineState_MACHINE_STATE_AWAY
	elsewhere = ip6dv1.MachineState_MACHINE_STATE_ELSEWHERE
	incoming  = ip6dv1.MachineState_MACHINE_STATE_INCOMING
)

// source is the daemon of host 1, from which machines are moved.
type source struct {
	ip6dv1connect.UnimplementedMachineServiceHandler
	ip6dv1connect.UnimplementedMigrationServiceHandler
	ip6dv1connect.UnimplementedHostServiceHandler

	unready  int            // how often the target of a move is asked before it is ready; below 0: it never is
	outcomes []string       // of switchovers: committed, aborted, in doubt, or an error; then committed
	refuse   map[string]int // calls that fail, and how often; below 0: always

	mu       sync.Mutex // guards all below, and what is above from the first call on
	machines map[string]*ip6dv1.Machine
	calls    []string
	drains   *ip6dv1.DrainHostRequest
	changed  chan struct{} // closed, and made anew, at each change
}

// newSource makes one with the machines, each in a state and going to host 2.
func newSource(states map[string]ip6dv1.MachineState) *source {
	s := &source{machines: make(map[string]*ip6dv1.Machine), refuse: make(map[string]int), changed: make(chan struct{})}
	for name, state := range states {
		m := &ip6dv1.Machine{Name: name, Network: 42, Stable: "fdaa:0:2a:1::1:2", State: state, Epoch: 1, Host: 1, Port: &ip6dv1.Port{Device: "tap0"}}
		switch state {
		case leaving, switching, away, incoming:
			m.Peer = 2
		case elsewhere:
			m.Host, m.Epoch = 2, 2
		}
		s.machines[name] = m
	}
	return s
}

func (s *source) start(t *testing.T) (socket string) {
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewMachineServiceHandler(s))
	mux.Handle(ip6dv1connect.NewMigrationServiceHandler(s))
	mux.Handle(ip6dv1connect.NewHostServiceHandler(s))
	return serveStub(t, mux)
}

// do makes a call about one machine.
func (s *source) do(call, name string, f func(*ip6dv1.Machine) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if call != "check" {
		s.calls = append(s.calls, call+" "+name)
	}
	if s.refuse[call] != 0 {
		s.refuse[call]--
		return connect.NewError(connect.CodeUnavailable, errors.New("store unreachable"))
	}
	m, ok := s.machines[name]
	if !ok {
		return connect.NewError(connect.CodeNotFound, fmt.Errorf("unknown machine %q", name))
	}
	defer func() {
		close(s.changed)
		s.changed = make(chan struct{})
	}()
	return f(m)
}

func (s *source) called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// in sets the state, if the machine is in one of the others.
func in(m *ip6dv1.Machine, to ip6dv1.MachineState, from ...ip6dv1.MachineState) error {
	if m.State != to && !slices.Contains(from, m.State) {
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("machine %q is %s", m.Name, m.State))
	}
	m.State = to
	return nil
}

func (s *source) GetMachine(_ context.Context, q *connect.Request[ip6dv1.GetMachineRequest]) (*connect.Response[ip6dv1.GetMachineResponse], error) {
	r := &ip6dv1.GetMachineResponse{Machine: &ip6dv1.Machine{}}
	err := s.do("check", q.Msg.Name, func(m *ip6dv1.Machine) error {
		r.Machine.Name, r.Machine.Network, r.Machine.Stable, r.Machine.State = m.Name, m.Network, m.Stable, m.State
		r.Machine.Epoch, r.Machine.Host, r.Machine.Peer, r.Machine.Port = m.Epoch, m.Host, m.Peer, m.Port
		return nil
	})
	return connect.NewResponse(r), err
}

func (s *source) BeginMigration(_ context.Context, q *connect.Request[ip6dv1.BeginMigrationRequest]) (*connect.Response[ip6dv1.BeginMigrationResponse], error) {
	err := s.do("begin", q.Msg.Name, func(m *ip6dv1.Machine) error {
		m.Peer = q.Msg.To
		return in(m, leaving, here)
	})
	return connect.NewResponse(&ip6dv1.BeginMigrationResponse{}), err
}

func (s *source) CheckMigration(_ context.Context, q *connect.Request[ip6dv1.CheckMigrationRequest]) (*connect.Response[ip6dv1.CheckMigrationResponse], error) {
	r := &ip6dv1.CheckMigrationResponse{}
	err := s.do("check", q.Msg.Name, func(*ip6dv1.Machine) error {
		if r.Ready = s.unready == 0; !r.Ready {
			s.unready--
			r.Problem = "host 2 has no port for the machine; attach it there first"
		}
		return nil
	})
	return connect.NewResponse(r), err
}

func (s *source) SwitchoverMigration(_ context.Context, q *connect.Request[ip6dv1.SwitchoverMigrationRequest]) (*connect.Response[ip6dv1.SwitchoverMigrationResponse], error) {
	r := &ip6dv1.SwitchoverMigrationResponse{Outcome: ip6dv1.Outcome_OUTCOME_COMMITTED, Epoch: 2}
	err := s.do("switchover", q.Msg.Name, func(m *ip6dv1.Machine) error {
		if len(s.outcomes) > 0 {
			next := s.outcomes[0]
			s.outcomes = s.outcomes[1:]
			switch next {
			case "aborted":
				r.Outcome, r.Epoch = ip6dv1.Outcome_OUTCOME_ABORTED, 1
				return in(m, here, leaving, switching)
			case "in doubt":
				r.Outcome, r.Epoch = ip6dv1.Outcome_OUTCOME_IN_DOUBT, 1
				return in(m, switching, leaving)
			}
		}
		return in(m, away, leaving, switching)
	})
	return connect.NewResponse(r), err
}

func (s *source) FinishMigration(_ context.Context, q *connect.Request[ip6dv1.FinishMigrationRequest]) (*connect.Response[ip6dv1.FinishMigrationResponse], error) {
	err := s.do("finish", q.Msg.Name, func(m *ip6dv1.Machine) error {
		m.Host = m.Peer
		return in(m, elsewhere, away)
	})
	return connect.NewResponse(&ip6dv1.FinishMigrationResponse{}), err
}

func (s *source) AbortMigration(_ context.Context, q *connect.Request[ip6dv1.AbortMigrationRequest]) (*connect.Response[ip6dv1.AbortMigrationResponse], error) {
	err := s.do("abort", q.Msg.Name, func(m *ip6dv1.Machine) error { return in(m, here, leaving, switching, incoming) })
	return connect.NewResponse(&ip6dv1.AbortMigrationResponse{}), err
}

func (s *source) ListHosts(context.Context, *connect.Request[ip6dv1.ListHostsRequest]) (*connect.Response[ip6dv1.ListHostsResponse], error) {
	return connect.NewResponse(&ip6dv1.ListHostsResponse{Hosts: hosts}), nil
}

func (s *source) GetHost(_ context.Context, q *connect.Request[ip6dv1.GetHostRequest]) (*connect.Response[ip6dv1.GetHostResponse], error) {
	for _, h := range hosts {
		if q.Msg.Host == h.Name || q.Msg.Host == fmt.Sprint(h.Host) {
			return connect.NewResponse(&ip6dv1.GetHostResponse{Host: h}), nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, errors.New("unknown host"))
}

// hookLog is a hook that writes down what it is told, and then does more; it returns what was written.
func hookLog(t *testing.T, more string) (command string, written func() []string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	command = `echo "$IP6D_STEP $IP6D_MACHINE $IP6D_NETWORK $IP6D_ADDRESS $IP6D_PORT $IP6D_SOURCE $IP6D_SOURCE_ID $IP6D_TARGET $IP6D_TARGET_ID" >>` + path + "; " + more
	return command, func() []string {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var steps []string
		for line := range strings.Lines(string(text)) {
			step, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			if want := "42 fdaa:0:2a:1::1:2 tap0 host1 1 host2 2"; !strings.HasSuffix(rest, want) {
				t.Errorf("hook %s is told %q, want %q", step, rest, want)
			}
			steps = append(steps, step)
		}
		return steps
	}
}

func TestAMoveIsRunFromWhereverItIs(t *testing.T) {
	for name, c := range map[string]struct {
		state        ip6dv1.MachineState
		outcomes     []string
		refuse       map[string]int
		calls, steps string
	}{
		"from the begin":            {state: here, calls: "begin switchover finish", steps: "attach switched finished"},
		"begun":                     {state: leaving, calls: "begin switchover finish", steps: "attach switched finished"},
		"in doubt":                  {state: switching, outcomes: []string{"in doubt"}, calls: "switchover switchover finish", steps: "switched finished"},
		"switched over":             {state: away, calls: "finish", steps: "switched finished"},
		"finished":                  {state: elsewhere, steps: "finished"},
		"with an outcome in doubt":  {state: here, outcomes: []string{"in doubt", "in doubt"}, calls: "begin switchover switchover switchover finish", steps: "attach switched finished"},
		"with a store that is slow": {state: here, refuse: map[string]int{"switchover": 1, "finish": 2}, calls: "begin switchover switchover finish finish finish", steps: "attach switched finished"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSource(map[string]ip6dv1.MachineState{"web1": c.state})
			s.outcomes, s.unready = c.outcomes, 2
			for call, n := range c.refuse {
				s.refuse[call] = n
			}
			socket := s.start(t)
			command, written := hookLog(t, "echo done")
			got := runLine(t, "", "--socket", socket, "-o", "json", "migrate", "run", "web1", "--to", "host2", "--hook", command)
			want := `{"name":"web1","stable":"fdaa:0:2a:1::1:2","from":1,"to":2,"epoch":2}` + "\n"
			if got.status != exitOK || got.stdout != want {
				t.Fatalf("%+v, want %s", got, want)
			}
			if calls := strings.ReplaceAll(strings.Join(s.called(), " "), " web1", ""); calls != c.calls {
				t.Errorf("it calls %q, want %q", calls, c.calls)
			}
			if steps := strings.Join(written(), " "); steps != c.steps {
				t.Errorf("the hook is run for %q, want %q", steps, c.steps)
			}
			if !strings.Contains(got.stderr, "web1: hook finished: done\n") || strings.Contains(got.stderr, "\x1b") {
				t.Errorf("it says\n%q", got.stderr)
			}
		})
	}
}

func TestAMoveThatFailsBeforeItsSwitchoverIsCalledOff(t *testing.T) {
	for name, c := range map[string]struct {
		prepare      func(*source)
		args         []string
		more         string
		says         string
		calls, steps string
		state        ip6dv1.MachineState
	}{
		"the store is away":     {func(s *source) { s.refuse["begin"] = -1 }, nil, "", "store unreachable", "begin abort", "aborted", here},
		"the hook fails":        {nil, nil, "test $IP6D_STEP != attach", "hook attach: exit status 1", "begin abort", "attach aborted", here},
		"the target is unready": {func(s *source) { s.unready = -1 }, []string{"--wait", "300ms"}, "", "not within 300ms: host 2 has no port", "begin abort", "attach aborted", here},
		"the hook takes long":   {nil, []string{"--wait", "300ms"}, "test $IP6D_STEP != attach || sleep 100", "not within 300ms", "begin abort", "attach aborted", here},
		"it is called off":      {func(s *source) { s.outcomes = []string{"aborted"} }, nil, "", "called off by somebody else", "begin switchover", "attach aborted", here},
		"it is kept":            {nil, []string{"--keep"}, "test $IP6D_STEP != attach", "the same command again", "begin", "attach", leaving},
		"the abort fails too":   {func(s *source) { s.refuse["begin"], s.refuse["abort"] = -1, -1 }, nil, "", "not called off", "begin abort", "", here},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSource(map[string]ip6dv1.MachineState{"web1": here})
			if c.prepare != nil {
				c.prepare(s)
			}
			socket := s.start(t)
			command, written := hookLog(t, c.more)
			got := runLine(t, "", append([]string{"--socket", socket, "migrate", "run", "web1", "--to", "2", "--hook", command}, c.args...)...)
			if got.status != exitError || got.stdout != "" || !strings.Contains(got.stderr, c.says) {
				t.Errorf("%+v, want it to say %q", got, c.says)
			}
			if calls := strings.ReplaceAll(strings.Join(s.called(), " "), " web1", ""); calls != c.calls {
				t.Errorf("it calls %q, want %q", calls, c.calls)
			}
			if steps := strings.Join(written(), " "); steps != c.steps {
				t.Errorf("the hook is run for %q, want %q", steps, c.steps)
			}
			if state := s.machines["web1"].State; state != c.state {
				t.Errorf("the machine is %s, want %s", state, c.state)
			}
		})
	}
}

func TestAMoveInDoubtIsNotCalledOff(t *testing.T) {
	s := newSource(map[string]ip6dv1.MachineState{"web1": here})
	s.outcomes = slices.Repeat([]string{"in doubt"}, 1000)
	got := runLine(t, "", "--socket", s.start(t), "migrate", "run", "web1", "--to", "2", "--wait", "300ms")
	if got.status != exitError || !strings.Contains(got.stderr, "in doubt") || !strings.Contains(got.stderr, "the same command again") {
		t.Errorf("%+v", got)
	}
	if slices.Contains(s.called(), "abort web1") {
		t.Errorf("it calls %v", s.called())
	}
}

func TestAMoveThatIsInterruptedStaysAndIsTakenUp(t *testing.T) {
	s := newSource(map[string]ip6dv1.MachineState{"web1": here})
	socket := s.start(t)
	ctx, interrupt := context.WithCancel(t.Context())
	started := filepath.Join(t.TempDir(), "started")
	go func() {
		defer interrupt()
		for {
			if _, err := os.Stat(started); err == nil || t.Context().Err() != nil {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	var out, said strings.Builder
	status := run(ctx, []string{"--socket", socket, "migrate", "run", "web1", "--to", "2", "--hook", "touch " + started + "; sleep 100"}, strings.NewReader(""), &out, &said)
	if status != exitError || !strings.Contains(said.String(), "the same command again") {
		t.Errorf("exit status %d: %s", status, said.String())
	}
	if state := s.machines["web1"].State; state != leaving {
		t.Errorf("it is %s, want it left leaving", state)
	}
	if got := runLine(t, "", "--socket", socket, "migrate", "run", "web1", "--to", "2"); got.status != exitOK {
		t.Errorf("taken up: %+v", got)
	}
}

func TestAMachineThatGoesElsewhereIsNotTakenFromThere(t *testing.T) {
	for name, c := range map[string]struct {
		state ip6dv1.MachineState
		says  string
	}{
		"leaving":  {leaving, "is leaving, to host 2 (host2): end that migration first"},
		"away":     {away, "is away, to host 2 (host2)"},
		"there":    {elsewhere, "is on host 2 (host2): migrate it from there"},
		"incoming": {incoming, "is incoming on this host"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSource(map[string]ip6dv1.MachineState{"web1": c.state})
			got := runLine(t, "", "--socket", s.start(t), "migrate", "run", "web1", "--to", "7")
			if got.status != exitError || !strings.Contains(got.stderr, c.says) || len(s.called()) > 0 {
				t.Errorf("%+v, calls %v; want it to say %q", got, s.called(), c.says)
			}
		})
	}
}
