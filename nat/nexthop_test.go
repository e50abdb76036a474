package nat

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// What the daemon has written of a next hop outlives it, but not for long.
func TestAMACIsUsedOnlyAsLongAsItIsTrusted(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	a, b := one.run(alice, false), two.run(remote, false)
	warm(a, b)
	arrived := count(b.listenUDP(remote.Addr(), 7))
	out := a.listenUDP(alice.Addr(), 0)
	frames := two.underlay.capture().next
	send := func() {
		if _, err := out.WriteTo([]byte("hello"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote.Addr(), 7))); err != nil {
			t.Fatal(err)
		}
	}
	late := one.options
	late.Monotonic = func() time.Duration { return two.readJiffies() - time.Hour } // as if the daemon had written it then
	for _, c := range []struct {
		name    string
		trusted time.Duration // from an hour ago
		right   bool
	}{
		{"it is still", time.Hour + time.Minute, false},
		{"it is not any more", time.Hour - time.Second, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			ok(t, one.Close())
			one.Datapath = one.open(late)
			// The neighbour has another MAC by now.
			ok(t, one.PutHost(NextHop{Host: 2, Ifindex: one.underlay.index, Kind: HopNeighbour, Gateway: two.address, Source: one.underlay.mac, MAC: mac(9), Trusted: c.trusted}))
			ok(t, one.Close()) // dead
			before := arrived.Load()
			eventually(t, "a packet goes to the underlay", func() error {
				send()
				for frame := frames(); frame != nil; frame = frames() {
					p, isIPv6 := readPacket(frame)
					if !isIPv6 || p.destination != routing(remote, 2) {
						continue
					}
					if wrong := bytes.Equal(frame[:6], mac(9)); wrong == c.right {
						return fmt.Errorf("to %x", frame[:6])
					}
					return nil
				}
				return errors.New("none")
			})
			if c.right {
				eventually(t, "the packet arrives", func() error {
					if arrived.Load() == before {
						return errors.New("it has not")
					}
					return nil
				})
			}
		})
	}
}
