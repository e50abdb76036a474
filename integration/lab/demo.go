package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"ip6d/addr"
)

// DemoOptions are the settings of a Demo.
type DemoOptions struct {
	Options

	// Out takes the demo's text, for people.
	Out io.Writer
}

const (
	fastRate = 24_000         // UDP packets/s to the machine that moves: above MinRate, for the pauses of a busy computer
	slowRate = 2_000          // and from it
	tcpForth = 50_000_000 / 8 // bytes/s to the machine that moves
	tcpBack  = 10_000_000 / 8 // and from it

	between  = 15_000 // packets of the fast stream between two events
	attempts = 3      // packets for each thing that is refused

	reachTimeout = 15 * time.Second // for two machines to find each other, right after the start
	stepTimeout  = 30 * time.Second // for each step of the demo: many times what it needs

	// MinDemoHosts is how many hosts a demo needs.
	MinDemoHosts = 3
)

// demo is a demo in progress.
type demo struct {
	DemoOptions
	lab    *Lab
	report *Report

	peer, mover *Machine
	streams     *streams
	marks       []Mark
}

// Demo makes a lab, shows on it what ip6d does, and removes it. The report is nil when it could not be brought to its end;
// with it comes ErrFailed when something was lost, or came where or when it should not. Other errors: those of Up.
func Demo(ctx context.Context, o DemoOptions) (_ *Report, err error) {
	start := time.Now()
	if o.Hosts != 0 && o.Hosts < MinDemoHosts {
		return nil, fmt.Errorf("number of hosts %d: a demo needs at least %d", o.Hosts, MinDemoHosts)
	}
	// The senders come back from their naps into Go at once only if one of its processors is free, and on a busy computer
	// the few that it takes by default may all be waiting for a CPU.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(max(16, runtime.NumCPU())))
	d := &demo{DemoOptions: o, report: &Report{}}
	d.title("A fleet on this computer")
	o.Say = func(line string) { d.line("%s", line) }
	if d.lab, err = Up(ctx, o.Options); err != nil {
		return nil, err
	}
	err = d.show(ctx)
	if downErr := d.lab.Down(); downErr != nil || err != nil {
		return nil, endedBy(ctx, err, downErr)
	}
	d.report.Seconds = time.Since(start).Round(10 * time.Millisecond).Seconds()
	err = d.report.check()
	d.report.write(o.Out, err)
	return d.report, err
}

func (d *demo) show(ctx context.Context) error {
	d.report.Hosts, d.report.Machines = len(d.lab.Hosts()), len(d.lab.Machines())
	// On host 1 and on host 2: red2 is on its way home when it comes next to its peer.
	d.peer, d.mover = d.lab.Machine("red1"), d.lab.Machine("red2")
	for _, part := range []func(context.Context) error{d.reach, d.refuse, d.move} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// reach shows that all pairs of a network reach each other.
func (d *demo) reach(ctx context.Context) error {
	d.title("Machines of one network reach each other, on whatever host they are")
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	for _, network := range []struct {
		color string
		id    addr.Network
	}{{"red", RedNetwork}, {"blue", BlueNetwork}} {
		pairs := 0
		for _, from := range d.lab.Machines() {
			for _, to := range d.lab.Machines() {
				if from == to || from.Network != network.id || to.Network != network.id {
					continue
				}
				if err := from.Ping(ctx, to); err != nil {
					return err
				}
				pairs++
			}
		}
		d.line("network %d: each %s machine pinged each other one: %d of %d answered", network.id, network.color, pairs, pairs)
	}
	return nil
}

// refuse shows what is not carried.
func (d *demo) refuse(ctx context.Context) error {
	d.title("What must not be carried is refused, and counted by name")
	stranger, third := d.lab.Machine("blue2"), d.lab.Machine("red3")
	routing, err := RoutingDestination(d.peer, d.mover)
	if err != nil {
		return err
	}
	for _, try := range []struct {
		what string
		Refusal
		refused *uint64
	}{
		{"to another network", OtherNetwork(d.peer, stranger, d.lab.Machine("blue1")), &d.report.Refused.OtherNetwork},
		{"under the address of " + third.Name, ForgedSource(d.peer, third, d.mover), &d.report.Refused.ForgedSource},
		{"to a routing address", routing, &d.report.Refused.RoutingDestination},
	} {
		if *try.refused, err = try.Try(ctx, attempts); err != nil {
			return err
		}
		d.line("%s -> %s, %s: %d packets sent, %d refused (%s), none arrived",
			try.From.Name, try.Receiver.Name, try.what, attempts, *try.refused, try.Reason)
	}
	return nil
}

// move shows a machine that moves while it talks.
func (d *demo) move(ctx context.Context) (err error) {
	d.title(fmt.Sprintf("%s moves between hosts while it talks to %s, and stays %s", d.mover.Name, d.peer.Name, d.mover.Stable))
	before, err := backlogDrops()
	if err != nil {
		return err
	}
	if d.streams, err = startStreams(ctx, d.peer, d.mover); err != nil {
		return err
	}
	d.line("a TCP connection both ways, UDP at %s packets/s to it and %s/s from it", thousands(fastRate), thousands(slowRate))
	err = d.journey(ctx)
	result, stopErr := d.streams.stop()
	if err = errors.Join(err, stopErr); err != nil {
		return err
	}
	after, err := backlogDrops()
	if err != nil {
		return err
	}
	if d.report.guarded, err = d.mover.Guarded(); err != nil {
		return err
	}
	fast := result.udp[0]
	d.report.streams, d.report.tcp, d.report.overrun = result.udp, result.tcp, after-before
	d.report.timeline = Timeline{
		Title:   fmt.Sprintf("UDP packets that came from %s to %s", fast.From, fast.To),
		Start:   fast.Start,
		Packets: fast.Timeline,
		Marks:   d.marks,
	}
	d.report.gather()
	return nil
}

// journey is what happens while the streams run.
func (d *demo) journey(ctx context.Context) error {
	home, away, next := d.lab.Host(2), d.lab.Host(3), d.lab.Host(1)
	for _, step := range []func(context.Context) error{
		d.moveTo(away, "away from home"),
		d.killDaemon(away),
		d.moveTo(next, "next to "+d.peer.Name),
		d.moveTo(home, "home again"),
		d.streams.flow,
	} {
		if err := d.streams.flow(ctx); err != nil {
			return err
		}
		stepCtx, cancel := context.WithTimeoutCause(ctx, stepTimeout, fmt.Errorf("not done after %v", stepTimeout))
		err := step(stepCtx)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) moveTo(to *Host, why string) func(context.Context) error {
	return func(ctx context.Context) error {
		from := d.mover.Host()
		begun := time.Now()
		g, err := d.mover.Begin(ctx, to)
		if err != nil {
			return err
		}
		if err := g.Attach(ctx); err != nil {
			return err
		}
		asked := time.Now()
		if err := g.Switchover(ctx); err != nil {
			return err
		}
		answered := time.Now()
		if err := g.Finish(ctx); err != nil {
			return err
		}
		d.report.Moves++
		what := fmt.Sprintf("%s: %s -> %s, %s", d.mover.Name, from.Name, to.Name, why)
		d.marks = append(d.marks, Mark{Sign: rune('0' + d.report.Moves), At: asked, Text: what})
		d.line("%s: %.0f ms from begin to finish, %.1f ms of it for the switchover", what,
			milliseconds(time.Since(begun)), milliseconds(answered.Sub(asked)))
		return nil
	}
}

func (d *demo) killDaemon(h *Host) func(context.Context) error {
	return func(ctx context.Context) error {
		d.marks = append(d.marks, Mark{Sign: 'x', At: time.Now(), Text: h.Name + ": daemon killed"})
		if err := h.KillDaemon(); err != nil {
			return err
		}
		d.report.DaemonKills++
		before := d.streams.fast.Received()
		if err := d.streams.flow(ctx); err != nil {
			return err
		}
		carried := d.streams.fast.Received() - before
		d.marks = append(d.marks, Mark{Sign: 's', At: time.Now(), Text: h.Name + ": daemon started again"})
		if err := h.StartDaemon(ctx); err != nil {
			return err
		}
		d.line("%s: daemon killed (SIGKILL), %s packets carried without it, started again", h.Name, thousands(carried))
		return nil
	}
}

func (d *demo) title(text string) { fmt.Fprintf(d.Out, "\n%s\n", text) }

func (d *demo) line(format string, args ...any) { fmt.Fprintf(d.Out, "  "+format+"\n", args...) }

// streams is the talk between two machines.
type streams struct {
	fast, slow *UDPStream
	tcp        *TCPStream
}

// talk is how it went.
type talk struct {
	udp []UDPResult // the fast one first
	tcp TCPResult
}

func startStreams(ctx context.Context, peer, mover *Machine) (*streams, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	s := &streams{}
	var err error
	if s.tcp, err = StartTCP(ctx, peer, mover, TCPOptions{Forth: tcpForth, Back: tcpBack}); err != nil {
		return nil, err
	}
	if s.slow, err = StartUDP(mover, peer, slowRate); err == nil {
		s.fast, err = StartUDP(peer, mover, fastRate)
	}
	if err != nil {
		_, stopErr := s.stop()
		return nil, errors.Join(err, stopErr)
	}
	return s, nil
}

// flow waits until the talk has gone on for a while, in packets and not in time.
func (s *streams) flow(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stepTimeout, fmt.Errorf("waited %v", stepTimeout))
	defer cancel()
	if err := s.fast.WaitReceived(ctx, between); err != nil {
		return err
	}
	return errors.Join(s.slow.WaitReceived(ctx, 1), s.tcp.WaitReceived(ctx, 1))
}

func (s *streams) stop() (talk, error) {
	var t talk
	var errs []error
	for _, u := range []*UDPStream{s.fast, s.slow} {
		if u == nil {
			continue
		}
		r, err := u.Stop()
		t.udp = append(t.udp, r)
		errs = append(errs, err)
	}
	t.tcp = s.tcp.Stop()
	return t, errors.Join(errs...)
}
