package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// DrainHost names the machines, and ends when they have all gone.
func (s *source) DrainHost(ctx context.Context, q *connect.Request[ip6dv1.DrainHostRequest], to *connect.ServerStream[ip6dv1.DrainHostResponse]) error {
	told := make(map[string]bool)
	for {
		s.mu.Lock()
		s.drains = q.Msg
		changed := s.changed
		var news []*ip6dv1.DrainHostResponse
		left := uint32(0)
		for _, name := range slices.Sorted(maps.Keys(s.machines)) {
			m := s.machines[name]
			there := m.State != elsewhere && (m.State != here || m.Peer != 9) // 9: it came, and does not
			if there {
				left++
			}
			switch {
			case there && !told[name]:
				next := &ip6dv1.DrainHostResponse{Machine: &ip6dv1.Machine{Name: name}, To: 2, Left: left}
				if m.State == incoming {
					next.To, m.Peer = 0, 9
				}
				news = append(news, next)
			case !there && told[name]:
				news = append(news, &ip6dv1.DrainHostResponse{Gone: name, Left: left})
			}
			told[name] = there
		}
		s.mu.Unlock()
		news = append(news, &ip6dv1.DrainHostResponse{Whole: true, Left: left})
		if left == 0 {
			news = append(news, &ip6dv1.DrainHostResponse{Done: true, Whole: true, Blocks: []*ip6dv1.HandedOverBlock{{Block: 3, Home: 2}}})
		}
		for _, r := range news {
			if err := to.Send(r); err != nil {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *source) ListMachines(context.Context, *connect.Request[ip6dv1.ListMachinesRequest]) (*connect.Response[ip6dv1.ListMachinesResponse], error) {
	return connect.NewResponse(&ip6dv1.ListMachinesResponse{Machines: machines}), nil
}

// web are so many machines that are here.
func web(n int) map[string]ip6dv1.MachineState {
	states := make(map[string]ip6dv1.MachineState)
	for i := range n {
		states[fmt.Sprintf("web%d", i+1)] = here
	}
	return states
}

func TestADrainMovesEveryMachineSomeAtATime(t *testing.T) {
	states := web(6)
	states["web2"], states["web3"], states["coming"] = leaving, away, incoming
	s := newSource(states)
	socket := s.start(t)
	// Each hook leaves a file while it runs, and says how many there are.
	dir := t.TempDir()
	hook := fmt.Sprintf(`test $IP6D_STEP != attach || { touch %[1]s/$IP6D_MACHINE; sleep 0.2; ls %[1]s | wc -l; rm %[1]s/$IP6D_MACHINE; }`, dir)
	got := runLine(t, "", "--socket", socket, "-o", "json", "host", "drain", "host1", "--to", "host2", "--parallel", "2", "--hook", hook)
	want := `{"host":1,"done":true,"moved":["web1","web2","web3","web4","web5","web6"],"failed":[],"blocks":[{"block":3,"home":2}]}` + "\n"
	if got.status != exitOK || got.stdout != want {
		t.Fatalf("%+v, want %s", got, want)
	}
	if !strings.Contains(got.stderr, "hook attach: 2\n") || strings.Contains(got.stderr, "hook attach: 3\n") {
		t.Errorf("not two at a time:\n%s", got.stderr)
	}
	if q := s.drains; q.Host != "1" || !slices.Equal(q.To, []string{"host2"}) {
		t.Errorf("it asks %v", q)
	}
	if !slices.Contains(s.called(), "abort coming") {
		t.Errorf("it calls %v", s.called())
	}
}

func TestADrainListsWhatItCouldNotMoveAndGoesOn(t *testing.T) {
	s := newSource(web(5))
	socket := s.start(t)
	got := runLine(t, "", "--socket", socket, "-o", "json", "host", "drain", "1", "--hook", "test $IP6D_MACHINE != web2 && test $IP6D_MACHINE != web4")
	for _, want := range []string{`"done":false,"moved":["web1","web3","web5"],"failed":[{"name":"web2","error":"`, "hook attach: exit status 1", `{"name":"web4"`, `"blocks":[]`} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("%q is missing in %s", want, got.stdout)
		}
	}
	if got.status != exitError || !strings.Contains(got.stderr, "2 machines are still on this host, which is draining: web2, web4") {
		t.Errorf("%+v", got)
	}
	if s.machines["web2"].State != here {
		t.Errorf("web2 is %s", s.machines["web2"].State)
	}
	if got := runLine(t, "", "--socket", socket, "host", "drain", "1"); got.status != exitOK || !strings.Contains(got.stdout, "cordoned and empty") {
		t.Errorf("the same again: %+v", got)
	}
}

func TestADrainWhoseLastHookFailsIsDoneAndSaysSo(t *testing.T) {
	s := newSource(web(1))
	got := runLine(t, "", "--socket", s.start(t), "-o", "json", "host", "drain", "1", "--hook", "test $IP6D_STEP != finished")
	if got.status != exitError || !strings.Contains(got.stdout, `"done":true,"moved":["web1"],"failed":[]`) || !strings.Contains(got.stderr, "web1: the machine has moved; but hook finished: exit status 1") {
		t.Errorf("%+v", got)
	}
}

func TestADrainThatIsInterruptedIsTakenUp(t *testing.T) {
	s := newSource(web(3))
	socket := s.start(t)
	ctx, interrupt := context.WithCancel(t.Context())
	s.mu.Lock()
	changed := s.changed // once the first has begun
	s.mu.Unlock()
	go func() {
		<-changed
		interrupt()
	}()
	var out, said strings.Builder
	status := run(ctx, []string{"--socket", socket, "host", "drain", "1", "--hook", "sleep 100"}, strings.NewReader(""), &out, &said)
	if status != exitError || !strings.Contains(said.String(), "interrupted, and the host is still draining") {
		t.Errorf("exit status %d: %s", status, said.String())
	}
	if slices.ContainsFunc(s.called(), func(call string) bool { return strings.HasPrefix(call, "abort") }) {
		t.Errorf("it calls %v", s.called())
	}
	if got := runLine(t, "", "--socket", socket, "host", "drain", "1"); got.status != exitOK {
		t.Errorf("taken up: %+v", got)
	}
}

func TestADrainIsOfTheHostWhoseDaemonIsAsked(t *testing.T) {
	s := newSource(web(1))
	socket := s.start(t)
	got := runLine(t, "", "--socket", socket, "host", "drain", "host2")
	if got.status != exitError || !strings.Contains(got.stderr, "run this there, or name it by --address") || s.drains != nil {
		t.Errorf("%+v", got)
	}
	checkOneLine(t, got)
	got = runLine(t, "", "--socket", socket, "-o", "json", "host", "drain", "host1", "--list")
	if got.status != exitOK || got.stdout != "["+web1JSON+"]\n" || s.drains != nil {
		t.Errorf("--list: %+v", got)
	}
}

func TestProgressIsDrawnOnATerminalBelowWhatHappened(t *testing.T) {
	var out strings.Builder
	p := &progress{w: &out, width: func() int { return 12 }}
	p.show("one of three, and more")
	p.show("one of three, and more") // the same is not drawn again
	p.say("web1: moved")
	p.show("")
	if want := clearLine + "one of thre" + clearLine + "web1: moved\none of thre" + clearLine; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
	if got := bar(1, 3) + bar(0, 0); got != "[##########....................][##############################]" {
		t.Errorf("%s", got)
	}
}
