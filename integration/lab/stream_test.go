package lab

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"ip6d/addr"
	"ip6d/integration/lab/guard"
)

// patience is how long a test waits for what it waits for, before it fails.
const patience = 60 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// guardOf puts an open guard on the machine's device.
func guardOf(t *testing.T, m *Machine) *guard.Guard {
	t.Helper()
	link, err := m.space.link.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	var g *guard.Guard
	err = m.Do(func() error {
		g, err = guard.Attach(guard.Options{Machine: m.Stable, Ifindex: link.Attrs().Index})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := g.Open(); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestAUDPStreamOverACableLosesNothing(t *testing.T) {
	a, b := pair(t)
	s, err := StartUDP(a, b, 5000)
	if err != nil {
		t.Fatal(err)
	}
	waitErr := s.WaitReceived(testContext(t), 2000)
	r, err := s.Stop()
	if err := errors.Join(waitErr, err); err != nil {
		t.Fatal(err)
	}
	var drawn uint64
	for _, n := range r.Timeline {
		drawn += uint64(n)
	}
	if r.Sent < 2000 || r.Lost+r.Duplicated+r.Reordered+r.Foreign != 0 || r.SendError != nil || drawn != r.Sent {
		t.Errorf("result %+v, with %d packets in its timeline", r, drawn)
	}
}

func TestAUDPStreamCountsExactlyWhatIsDropped(t *testing.T) {
	a, b := pair(t)
	g := guardOf(t, b)
	s, err := StartUDP(a, b, 5000)
	if err != nil {
		t.Fatal(err)
	}
	ctx := testContext(t)
	dropped := func() uint64 {
		c, err := g.Counts()
		if err != nil {
			t.Fatal(err)
		}
		return c.Late.UDP
	}
	err = errors.Join(s.WaitReceived(ctx, 500), g.Shut())
	for err == nil && dropped() < 100 {
		if err = ctx.Err(); err == nil {
			time.Sleep(time.Millisecond)
		}
	}
	err = errors.Join(err, g.Open(), s.WaitReceived(ctx, 500))
	r, stopErr := s.Stop()
	if err := errors.Join(err, stopErr); err != nil {
		t.Fatal(err)
	}
	if want := dropped(); r.Lost != want || r.Duplicated+r.Foreign != 0 {
		t.Errorf("the guard dropped %d packets; the stream found %d lost (%+v)", want, r.Lost, r)
	}
	if len(r.Missing) == 0 {
		t.Error("no example of a lost packet")
	}
}

func TestATCPStreamOverACableIsWhole(t *testing.T) {
	a, b := pair(t)
	ctx := testContext(t)
	s, err := StartTCP(ctx, a, b, TCPOptions{Forth: 5e6, Back: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	waitErr := s.WaitReceived(ctx, 2e6)
	r := s.Stop()
	if waitErr != nil || r.Broken != nil || r.Bytes < 2e6 {
		t.Errorf("wait: %v; result %+v", waitErr, r)
	}
}

func TestATCPStreamTellsAWrongByte(t *testing.T) {
	a, b := pair(t)
	ctx := testContext(t)
	s, err := StartTCP(ctx, a, b, TCPOptions{Forth: 1e6, Back: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	waitErr := s.WaitReceived(ctx, 1e5)
	if _, err := s.ends[0].conn.Write([]byte("not of the stream")); err != nil {
		t.Error(err)
	}
	r := s.Stop()
	if waitErr != nil || r.Broken == nil {
		t.Errorf("wait: %v; a stream with foreign bytes in it is not broken: %+v", waitErr, r)
	}
}

func TestPingIsAnsweredByTheMachineAlone(t *testing.T) {
	a, b := pair(t)
	if err := a.Ping(testContext(t), b); err != nil {
		t.Error(err)
	}
	nobody := &Machine{Name: "nobody"}
	var err error
	if nobody.Stable, err = addr.DefaultPlan.Stable(42, 1, 99); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.Ping(ctx, nobody); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("ping of nobody: %v, want ErrNoAnswer", err)
	}
}

func TestTheKernelsBacklogDropsAreRead(t *testing.T) {
	if _, err := backlogDrops(); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
