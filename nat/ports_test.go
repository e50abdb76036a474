package nat

import (
	"errors"
	"testing"

	"ip6d/bpf"
)

// Devices whose numbers lead to one place in `ports` take the next ones, and are found there, also after a restart.
func TestPortsWhosePlacesMeetAreKeptApart(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	const first = 7
	number := func(i int) int { return first + i*portPlaces }
	for i := range portProbes {
		ok(t, d.putPort(number(i), portValue(number(i), stable(5, 1, 0x100+1))))
	}
	if err := d.putPort(number(portProbes), bpf.DatapathPort{}); !errors.Is(err, ErrFull) {
		t.Errorf("one more than there are places near its number: error %v, want ErrFull", err)
	}
	ok(t, d.removePort(number(2)))
	ok(t, d.removePort(number(2)))
	ok(t, d.Close())

	d = open(t, o)
	ok(t, d.putPort(number(9), portValue(number(9), alice)))
	for i := range 10 {
		v, found, err := d.port(number(i))
		if want := i < portProbes && i != 2 || i == 9; err != nil || found != want || found && v.Ifindex != uint32(number(i)) {
			t.Errorf("port %d: %+v, %v, %v; want it: %v", number(i), v, found, err, want)
		}
	}
}

func TestProgramFindsAPortBesideItsPlace(t *testing.T) {
	b := newBench(t, 1, true)
	b.settle()
	ok(t, b.removePort(b.port.index))
	taken := b.port.index + portPlaces // of the same place
	ok(t, b.putPort(taken, portValue(taken, mallet)))
	ok(t, b.putPort(b.port.index, portValue(b.port.index, alice)))
	b.expect(t, fromMachine, b.port.index, packetCase{"", datagram(alice.Addr(), bob.Addr()), ToDevice, ""})
	b.expect(t, fromMachine, b.port.index, packetCase{"", datagram(mallet.Addr(), bob.Addr()), Refuse, "foreign_source"})
}
