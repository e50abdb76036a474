package nat

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"ip6d/addr"
)

// vectors are addresses of an independent program, checked for package addr in its own tests.
type vectors struct {
	Valid []struct {
		Kind            string
		Host            addr.Host
		Stable, Routing netip.Addr
	}
	Control []struct{ Routing netip.Addr }
	Invalid []struct{ Address, Why string }
}

func readVectors(t *testing.T) (v vectors) {
	t.Helper()
	file, err := os.ReadFile("../addr/testdata/addresses.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(file, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// A machine of each vector is sent to, where it left for the vector's host; and sends from there.
func TestProgramsReproduceTheVectors(t *testing.T) {
	v := readVectors(t)
	if len(v.Valid) == 0 || len(v.Control) == 0 || len(v.Invalid) == 0 {
		t.Fatal("the vectors are not what this test expects")
	}
	one, two := newBench(t, 1, true), newBench(t, 2, true)
	for _, c := range v.Valid {
		s := must(plan.StableFrom(c.Stable))
		t.Run(fmt.Sprintf("%s at %d", c.Stable, c.Host), func(t *testing.T) {
			b := one
			if c.Host == b.host { // the other end has to be another host
				b = two
			}
			// its peer is here: of the same network, and the neighbour by number
			peer := stable(orDefault(s.Network(), 5), 1, s.Machine()^1)
			b.clear()
			b.reference.Ports[b.port.index] = peer
			b.machine(peer, Delivering, 0, peerPort(b.port, 1))
			b.nextHop(c.Host, b.underlay.index, forAnHour)
			if s.Kind() == addr.KindMachine {
				b.machine(s, Away, c.Host, Port{})
			}
			b.load()

			f := datagram(peer.Addr(), c.Stable)
			sent := b.carried(t, fromMachine, b.port, f)
			if got := addressAt(sent[etherLength:], 24); got != c.Routing {
				t.Errorf("encoded as %s, want %s", got, c.Routing)
			}
			f = datagram(c.Routing, routing(peer, b.host))
			received := b.carried(t, fromUnderlay, b.underlay, f)
			if got := addressAt(received[etherLength:], 8); got != c.Stable {
				t.Errorf("decoded as %s, want %s", got, c.Stable)
			}
		})
	}
}

func TestControlAddressesOfTheVectorsReachMachinesAsTheyAre(t *testing.T) {
	b := newBench(t, 1, true)
	b.settle()
	about := embedded(routing(alice, 1), routing(remote, 2))
	for _, c := range readVectors(t).Control {
		f := message(c.Routing, routing(alice, 1), 3, about...)
		received := b.carried(t, fromUnderlay, b.underlay, f)
		if got := addressAt(received[etherLength:], 8); got != c.Routing {
			t.Errorf("error of %s came from %s", c.Routing, got)
		}
	}
}

func TestInvalidAddressesOfTheVectorsAreRefused(t *testing.T) {
	b := newBench(t, 1, true)
	b.settle()
	for _, c := range readVectors(t).Invalid {
		a, err := netip.ParseAddr(c.Address)
		form := plan.Form(a)
		if err != nil || form == addr.FormInvalid {
			continue // no bytes that could be on the wire, or not of the fleet
		}
		asSource, asDestination := "invalid_source", "routing_destination"
		if form == addr.FormStable {
			asSource, asDestination = "stable_source", "invalid_destination"
		}
		t.Run(c.Address, func(t *testing.T) {
			f := datagram(a, routing(alice, 1))
			f.to = b.underlay.mac
			received := packetCase{"", f, Refuse, asSource}
			if _, _, err := plan.RelayFrom(a); err == nil { // what a host writes that forwards for an endpoint
				received.want, received.reason = ToPeer, ""
			}
			b.expect(t, fromUnderlay, b.underlay.index, received)
			b.expect(t, fromMachine, b.port.index, packetCase{"", datagram(alice.Addr(), a), Refuse, asDestination})
		})
	}
}

// carried returns the frame as the program sends it on.
func (b *bench) carried(t *testing.T, program string, on device, f frame) (out []byte) {
	t.Helper()
	f.to = on.mac
	b.namespace.do(func() error {
		verdict, err := b.compare(program, on.index, f.bytes())
		if err != nil {
			t.Error(err)
		}
		if verdict.Action != ToPeer && verdict.Action != ToDevice {
			t.Fatalf("%v %s", verdict.Action, verdict.Reason)
		}
		out = verdict.Frame
		return nil
	})
	return out
}
