package nat

import (
	"errors"
	"testing"

	"ip6d/bpf"
)

// What the machine of a port sends is told of while it is awaited, whatever becomes of the packet; what others send is not,
// nor what has another source.
func TestAMachineThatIsAwaitedIsToldOfWhenItSends(t *testing.T) {
	b := newBench(t, 1, true)
	b.settle()
	b.reference.Awaited[b.other.index] = true
	b.load()
	for _, c := range []struct {
		name  string
		port  device
		frame frame
		sent  bool
	}{
		{"to another host", b.other, datagram(mallet.Addr(), remote.Addr()), true},
		{"to a machine of this host", b.other, datagram(mallet.Addr(), bob.Addr()), true},
		{"what is refused", b.other, datagram(mallet.Addr(), internet), true},
		{"a solicitation of the gateway", b.other, solicitation(mallet.Addr(), gatewayAddress, gatewayAddress), true},
		{"an advertisement to a group", b.other, message(mallet.Addr(), allRouters, 136), true},
		{"a solicitation from its link-local address", b.other, solicitation(linkLocal, gatewayAddress, gatewayAddress), false},
		{"in another's name", b.other, datagram(bob.Addr(), remote.Addr()), false},
		{"by a port that is not awaited", b.port, datagram(alice.Addr(), remote.Addr()), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b.namespace.do(func() error {
				verdict, err := b.compare(fromMachine, c.port.index, c.frame.bytes())
				if verdict.Sent != c.sent {
					t.Errorf("told of: %v", verdict.Sent)
				}
				return err
			})
		})
	}
}

func TestAMachineThatIsAwaitedIsToldOfOnceASecondUntilItIsNot(t *testing.T) {
	b := newBench(t, 1, true)
	b.settle()
	events, _ := b.readEvents()
	nextEvent(t, events, EventDrop) // of what newBench sent
	send := func() {
		t.Helper()
		b.namespace.do(func() error {
			for range 5 {
				if _, _, err := b.run(fromMachine, b.port.index, datagram(alice.Addr(), remote.Addr()).bytes()); err != nil {
					return err
				}
			}
			// What is refused after it comes after it.
			_, _, err := b.run(fromStack, b.stack.index, datagram(internet, internet).bytes())
			return err
		})
	}
	ok(t, b.AwaitPacket(b.port.index, true))
	b.namespace.do(func() error { return b.AttachPort(b.port.index, alice) }) // which changes nothing
	send()
	if e := <-events; e.Kind != EventSent || e.Sender != alice || e.Host != 1 {
		t.Errorf("the event is %+v", e)
	}
	if e := <-events; e.Kind != EventDrop {
		t.Errorf("five packets at once are told of again, by %+v", e)
	}
	ok(t, b.AwaitPacket(b.port.index, false))
	ok(t, b.objects.Told.Delete(bpf.DatapathTold{Machine: uint32(alice.Machine()), Cell: uint16(alice.Cell()), Host: 1}))
	send()
	if e := <-events; e.Kind != EventDrop {
		t.Errorf("it is not awaited any more, and told of by %+v", e)
	}
	if err := b.AwaitPacket(9999, true); !errors.Is(err, ErrNotFound) {
		t.Errorf("a device that is no port: %v", err)
	}
}

// A port that is another machine's now is not awaited for the one that it was before.
func TestAPortOfAnotherMachineIsNotAwaited(t *testing.T) {
	b := newBench(t, 1, true)
	b.settle()
	ok(t, b.AwaitPacket(b.port.index, true))
	b.namespace.do(func() error { return b.AttachPort(b.port.index, bob) })
	b.reference.Ports[b.port.index] = bob
	b.namespace.do(func() error {
		_, err := b.compare(fromMachine, b.port.index, datagram(bob.Addr(), remote.Addr()).bytes())
		return err
	})
}
