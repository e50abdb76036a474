package nat

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"ip6d/addr"
)

// readEvents reads events until the test ends or stop is called.
func (b *bench) readEvents() (events <-chan Event, stop func()) {
	t, d := b.t, b.Datapath
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out := make(chan Event, 10_000)
	done := make(chan error, 1)
	go func() { done <- d.ReadEvents(ctx, func(e Event) { out <- e }) }()
	var ended bool
	stop = func() {
		if ended {
			return
		}
		ended = true
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("reading events ended with %v", err)
		}
	}
	t.Cleanup(stop)
	return out, stop
}

// toUnderlay addresses a frame to this host's device on the underlay, as a neighbour does: others are not for it.
func (b *bench) toUnderlay(f frame) frame {
	f.to, f.from = b.underlay.mac, mac(2)
	return f
}

// nextEvent waits for an event of that kind.
func nextEvent(t testing.TB, events <-chan Event, kind EventKind) Event {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case e := <-events:
			if e.Kind == kind {
				return e
			}
		case <-deadline:
			t.Fatal("the event does not come")
		}
	}
}

func TestARefusedPacketIsTold(t *testing.T) {
	b := newBench(t, 1, true)
	b.reference.Ports[b.port.index] = alice
	b.load()
	events, _ := b.readEvents()
	nextEvent(t, events, EventDrop)          // of what newBench sent
	lastTime := time.Now().Add(-time.Second) // the clock of events is coarse
	for _, c := range []struct {
		name, program string
		device        device
		frame         frame
		want          Event
	}{
		{"a machine's", fromMachine, b.port, datagram(alice.Addr(), internet), Event{Reason: "no_egress", Way: "from_machine", Sender: alice}},
		{"in another's name", fromMachine, b.port, datagram(bob.Addr(), alice.Addr()), Event{Reason: "foreign_source", Way: "from_machine", Sender: alice}},
		{"from a port without identity", fromMachine, b.other, datagram(bob.Addr(), alice.Addr()), Event{Reason: "unknown_port", Way: "from_machine"}},
		{"from the underlay", fromUnderlay, b.underlay, b.toUnderlay(datagram(bob.Addr(), routing(alice, 1))), Event{Reason: "stable_source", Way: "from_underlay"}},
		{"the host's own", fromStack, b.stack, datagram(internet, internet), Event{Reason: "stack_destination", Way: "from_stack"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sent := c.frame.bytes()
			b.namespace.do(func() error {
				_, _, err := b.run(c.program, c.device.index, sent)
				return err
			})
			e := nextEvent(t, events, EventDrop)
			now := time.Now()
			if e.Time.Before(lastTime) || e.Time.After(now) {
				t.Errorf("it is of %v, sent between %v and %v", e.Time, lastTime, now)
			}
			want := c.want
			want.Kind, want.Time, want.Ifindex, want.Length = EventDrop, e.Time, c.device.index, len(sent)
			want.Source, want.Destination, want.NextHeader = netip.AddrFrom16([16]byte(sent[14+8:])), netip.AddrFrom16([16]byte(sent[14+24:])), sent[14+6]
			if e != want {
				t.Errorf("the event is\n%+v, want\n%+v", e, want)
			}
		})
	}
}

func TestAFrameThatIsNotIPv6HasNoAddresses(t *testing.T) {
	b := newBench(t, 1, true)
	b.reference.Ports[b.port.index] = alice
	b.load()
	events, _ := b.readEvents()
	nextEvent(t, events, EventDrop) // of what newBench sent
	b.namespace.do(func() error {
		_, _, err := b.run(fromMachine, b.port.index, datagram(alice.Addr(), bob.Addr()).typed(0x0806).bytes())
		return err
	})
	if e := nextEvent(t, events, EventDrop); e.Reason != "arp" || e.Source.IsValid() || e.Destination.IsValid() || e.Sender != alice {
		t.Errorf("the event is %+v", e)
	}
}

func TestAPacketAstrayIsToldOnceASecond(t *testing.T) {
	b := newBench(t, 1, true)
	b.nextHop(2, b.underlay.index, forAnHour)
	b.nextHop(3, b.underlay.index, forAnHour)
	moved := stable(5, 1, 0x777)
	b.reference.Blocks[BlockID{Cell: 1, Block: moved.Machine().Block()}] = 3
	b.load()
	events, _ := b.readEvents()
	nextEvent(t, events, EventDrop) // of what newBench sent
	sent := b.toUnderlay(datagram(routing(remote, 2), routing(moved, 1))).bytes()
	b.namespace.do(func() error {
		for range 5 {
			if _, _, err := b.run(fromUnderlay, b.underlay.index, sent); err != nil {
				return err
			}
		}
		return nil
	})
	e := nextEvent(t, events, EventAstray)
	if e.Host != 2 || e.Destination != routing(moved, 1) {
		t.Errorf("the event is %+v, want host 2 and machine %s", e, moved)
	}
	// What is refused after it comes after it.
	b.namespace.do(func() error {
		_, _, err := b.run(fromStack, b.stack.index, datagram(internet, internet).bytes())
		return err
	})
	if e := <-events; e.Kind != EventDrop || e.Reason != "stack_destination" {
		t.Errorf("five packets at once are told of again, by %+v", e)
	}
}

// A machine that tries all numbers of its network has its host told of few of them.
func TestPacketsAstrayForManyMachinesAreSampled(t *testing.T) {
	b := newBench(t, 1, true)
	b.nextHop(3, b.underlay.index, forAnHour)
	b.reference.Blocks[BlockID{Cell: 1, Block: 7}] = 3
	b.load()
	events, _ := b.readEvents()
	nextEvent(t, events, EventDrop) // of what newBench sent
	b.namespace.do(func() error {
		for n := range addr.Machine(addr.BlockSize) {
			sent := b.toUnderlay(datagram(routing(remote, 2), routing(stable(5, 1, 0x700+n), 1))).bytes()
			if _, _, err := b.run(fromUnderlay, b.underlay.index, sent); err != nil {
				return err
			}
		}
		return nil
	})
	nextEvent(t, events, EventAstray)
	eventually(t, "each packet is told of or counted as lost", func() error {
		lost, err := b.EventsLost()
		if told := 1 + len(events); err == nil && told+int(lost.Sampled) < addr.BlockSize || told > addr.BlockSize/2 {
			err = fmt.Errorf("of %d packets %d were told of, lost are %+v", addr.BlockSize, told, lost)
		}
		return err
	})
}

func TestWhatIsNotToldIsCounted(t *testing.T) {
	b := newBench(t, 1, true)
	events, stop := b.readEvents()
	nextEvent(t, events, EventDrop) // of what newBench sent
	const packets = 2000
	flood := func() {
		b.namespace.do(func() error {
			for range packets {
				if _, _, err := b.run(fromStack, b.stack.index, datagram(internet, internet).bytes()); err != nil {
					return err
				}
			}
			return nil
		})
	}
	flood()
	var lost EventsLost
	eventually(t, "each packet is told of or counted as lost", func() (err error) {
		lost, err = b.EventsLost()
		if told := uint64(len(events)); err == nil && told+lost.Sampled+lost.RingFull < packets {
			err = fmt.Errorf("of %d packets %d were told of, lost are %+v", packets, told, lost)
		}
		return err
	})
	if lost.Sampled < packets/2 || lost.RingFull != 0 {
		t.Errorf("lost events: %+v; want most, by sampling alone", lost)
	}
	stop()
	if n := must(b.EventsLost()); n != lost {
		t.Errorf("lost without a packet: %+v, were %+v", n, lost)
	}
}

// A reader that was killed is followed by another, which finds what came in between.
func TestEventsWaitForTheNextReader(t *testing.T) {
	b := newBench(t, 1, true)
	send := func(source netip.Addr) {
		b.namespace.do(func() error {
			_, _, err := b.run(fromStack, b.stack.index, datagram(source, internet).bytes())
			return err
		})
	}
	events, stop := b.readEvents()
	nextEvent(t, events, EventDrop) // of what newBench sent
	first, second, third := control(2), control(3), control(4)
	send(first)
	if e := nextEvent(t, events, EventDrop); e.Source != first {
		t.Errorf("the event is of %s, want %s", e.Source, first)
	}
	stop()
	send(second)
	b.reopen(func(*Options) {})
	events, _ = b.readEvents()
	send(third)
	for _, want := range []netip.Addr{second, third} {
		if e := nextEvent(t, events, EventDrop); e.Source != want {
			t.Errorf("after a restart the event is of %s, want %s", e.Source, want)
		}
	}
}

// An older version, whose events were smaller, may have left some.
func TestEventsOfAnotherLayoutAreLeftOut(t *testing.T) {
	b := newBench(t, 1, true)
	older, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS,
		Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R0, 0),
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.LoadMapPtr(asm.R1, b.objects.Events.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -8),
			asm.Mov.Imm(asm.R3, 8),
			asm.Mov.Imm(asm.R4, 0),
			asm.FnRingbufOutput.Call(),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer older.Close()
	if _, err := older.Run(&ebpf.RunOptions{Data: make([]byte, 64)}); err != nil {
		t.Fatal(err)
	}
	events, _ := b.readEvents()
	b.namespace.do(func() error {
		_, _, err := b.run(fromStack, b.stack.index, datagram(control(2), internet).bytes())
		return err
	})
	for nextEvent(t, events, EventDrop).Source != control(2) { // what newBench sent comes first
	}
}

func TestValuesOfAnotherVersionHaveANameToo(t *testing.T) {
	for value, want := range map[int]string{0: "unknown_0", 1: "one", 2: "unknown_2"} {
		if got := nameOf([]string{"", "one"}, value); got != want {
			t.Errorf("value %d is %q, want %q", value, got, want)
		}
	}
}
