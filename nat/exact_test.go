package nat

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// reference is the reference translator, which knows what the host's datapath does.
func (h *fleetHost) reference() *Reference {
	h.t.Helper()
	r := &Reference{
		Plan: plan, Cell: 1, Host: h.id, Stack: h.stack.index, StackMAC: h.stack.mac, GatewayMAC: GatewayMAC(),
		Ports: nil, Machines: nil, Moved: nil, Blocks: nil, Hosts: nil, MTU: make(map[int]int),
	}
	b := bench{reference: r}
	b.clear()
	for _, m := range must(h.Machines()) {
		r.Machines[m.ID] = m
	}
	for _, m := range must(h.MovedEntries()) {
		r.Moved[m.ID] = m.Host
	}
	for _, e := range must(h.Blocks()) {
		r.Blocks[BlockID{e.Cell, e.Block}] = e.Home
	}
	for _, hop := range must(h.Hosts()) {
		r.Hosts[hop.Host] = hop
	}
	h.do(func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			r.MTU[l.Attrs().Index] = l.Attrs().MTU
		}
		return err
	})
	return r
}

// everyKind is a packet of each kind, from one machine to another.
func everyKind(from, to *guest) map[string]frame {
	A, B := from.Addr(), to.Addr()
	raw := func(next byte, length int) frame {
		return frame{source: A, destination: B, next: next, payload: randomBytes(length)}
	}
	last := bytes.Clone(secondFragment)
	last[1], last[2] = 0, 16
	return map[string]frame{
		"datagram":                   datagram(A, B),
		"datagram without data":      {source: A, destination: B, payload: udp(A, B)},
		"datagram, wrong checksum":   datagram(A, B).edited(func(b []byte) []byte { b[etherLength+ipv6Length+6] ^= 0x55; return b }),
		"datagram, no checksum":      datagram(A, B).edited(func(b []byte) []byte { be16(b[etherLength+ipv6Length+6:], 0); return b }),
		"traffic class":              datagram(A, B).edited(func(b []byte) []byte { b[etherLength] |= 0xb; b[etherLength+1] |= 0xb0; return b }),
		"padding behind":             datagram(A, B).edited(func(b []byte) []byte { return append(b, 1, 2, 3, 4, 5, 6, 7) }),
		"largest":                    raw(253, 1500-ipv6Length),
		"last fragment":              raw(17, 48).behind([]byte{44}, last),
		"later fragment":             raw(17, 48).behind([]byte{44}, secondFragment),
		"first fragment":             raw(17, 48).behind([]byte{44}, firstFragment),
		"first fragment, echo":       message(A, B, echoRequest, randomBytes(40)...).behind([]byte{44}, firstFragment),
		"hop-by-hop options":         datagram(A, B).behind([]byte{0}, padding),
		"destination options":        datagram(A, B).behind([]byte{60}, padding),
		"options and a fragment":     raw(17, 40).behind([]byte{0, 60, 44, 60}, padding, padding, firstFragment, padding),
		"authentication":             datagram(A, B).behind([]byte{51}, authentication),
		"ESP":                        raw(50, 100),
		"SCTP":                       raw(132, 60),
		"UDP-Lite":                   raw(unix.IPPROTO_UDPLITE, 40),
		"DCCP":                       raw(33, 40),
		"TCP":                        raw(6, 20),
		"IPv6 in IPv6":               {source: A, destination: B, next: 41, payload: embedded(A, B)},
		"GRE":                        raw(47, 30),
		"echo request":               message(A, B, echoRequest, randomBytes(100)...),
		"echo reply":                 message(A, B, echoReply, randomBytes(100)...),
		"ICMPv6 of an unknown type":  message(A, B, 200, randomBytes(9)...),
		"error that quotes":          message(A, B, unreachable, embedded(B, A)...),
		"no next header":             raw(unix.IPPROTO_NONE, 0),
		"no next header, with bytes": raw(unix.IPPROTO_NONE, 33),
		"for experiments":            raw(253, 1),
		"unassigned":                 raw(200, 64),
		"mobility":                   raw(135, 24),
		"host identity":              raw(139, 40),
	}
}

// Packets of every kind come out as they went in, but for the hop limit; on the wire they are what the reference says.
func TestPacketsOfEveryKindPassBitByBit(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	a, near, far := one.run(alice, false), one.run(bob, false), two.run(remote, false)
	virtual, distant := one.runVirtual(stable(5, 1, 0x110), false).guest, two.runVirtual(stable(5, 1, 0x210), false).guest
	onWire := two.underlay.capture()
	for _, c := range []struct {
		name     string
		from, to *guest
		host     *fleetHost // of to
	}{
		{"veth to veth", a, near, one},
		{"veth to TAP", a, virtual, one},
		{"TAP to veth", virtual, a, one},
		{"veth to veth, between hosts", a, far, two},
		{"veth to TAP, between hosts", a, distant, two},
		{"TAP to veth, between hosts", virtual, far, two},
		{"TAP to TAP, between hosts", virtual, distant, two},
	} {
		warm(c.from, c.to)
		in, send := c.to.eth0.capture(), c.from.eth0.rawSocket()
		first, second := one.reference(), two.reference()
		first.Ports[c.from.port.index] = c.from.Stable
		for kind, f := range everyKind(c.from, c.to) {
			f.to, f.from = GatewayMAC(), c.from.eth0.mac
			sent := f.marked().bytes()
			ok(t, send(sent))
			want := bytes.Clone(sent)
			copy(want, c.to.eth0.mac)
			copy(want[6:], GatewayMAC())
			want[etherLength+7]--
			said := first.FromMachine(c.from.port.index, sent)
			if c.host == two {
				if wired := onWire.await(kind, isMarked); !bytes.Equal(wired, said.Frame) {
					t.Errorf("%s, %s: on the wire it is not what the reference says (%v %s):\n%s", c.name, kind, said.Action, said.Reason, hexDiff(wired, said.Frame))
				}
				said = second.FromUnderlay(said.Frame)
			}
			got := in.await(kind, isMarked)
			if !bytes.Equal(got, want) {
				t.Errorf("%s, %s: it came in changed:\n%s", c.name, kind, hexDiff(got, want))
			}
			if !bytes.Equal(said.Frame, want) {
				t.Errorf("%s, %s: the reference changes it (%v %s):\n%s", c.name, kind, said.Action, said.Reason, hexDiff(said.Frame, want))
			}
		}
	}
}

// integrity is the check value of an authentication header right behind the IPv6 header: over the whole packet, but for
// what may change on the way, and itself (RFC 4302 section 3.3.3).
func integrity(packet []byte) []byte {
	b := bytes.Clone(packet)
	b[0], b[1], b[2], b[3] = 0x60, 0, 0, 0 // traffic class, flow label
	b[7] = 0                               // hop limit
	clear(b[ipv6Length+12 : ipv6Length+12+16])
	mac := hmac.New(sha256.New, []byte("the two machines' own"))
	mac.Write(b)
	return mac.Sum(nil)[:16]
}

// An authentication header covers the addresses. Both machines see the same ones.
func TestAuthenticationHeadersStayRight(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	a, near, far := one.run(alice, false), one.run(bob, false), two.run(remote, false)
	send := a.eth0.rawSocket()
	for _, to := range []*guest{near, far} {
		warm(a, to)
		in := to.eth0.capture()
		header := make([]byte, 31)    // without the next header's byte
		header[0], header[6] = 6, 100 // in words of 4 bytes, less two (section 2.2); SPI
		sent := datagram(alice.Addr(), to.Addr()).behind([]byte{51}, header).between(a.eth0.mac, GatewayMAC()).marked().bytes()
		copy(sent[etherLength+ipv6Length+12:], integrity(sent[etherLength:]))
		ok(t, send(sent))
		got := in.await("packet with an authentication header", isMarked)
		if !bytes.Equal(integrity(got[etherLength:]), got[etherLength+ipv6Length+12:][:16]) {
			t.Errorf("at %s the check value is wrong:\n%s", to, hexDiff(got, sent))
		}
	}
}

// No fragment needs another one: they arrive in the order that they were sent in, and the machine puts them together.
func TestFragmentsPassInAnyOrder(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	a, near, far := one.run(alice, false), one.run(bob, false), two.runVirtual(remote, false)
	for _, to := range []*guest{near, far.guest} {
		warm(a, to)
		in, send := to.listenUDP(to.Addr(), 2), a.eth0.rawSocket()
		data := randomBytes(200)
		whole := udp(alice.Addr(), to.Addr(), data...)
		const first, second, third = 0, 64, 128
		for number, order := range [][]int{
			{first, second, third}, {first, third, second}, {second, first, third}, {second, third, first}, {third, first, second}, {third, second, first},
		} {
			for _, at := range order {
				end, more := at+64, byte(1)
				if at == third {
					end, more = len(whole), 0
				}
				header := []byte{0, 0, byte(at) | more, 0, 0, 0, byte(number)}
				f := frame{to: GatewayMAC(), from: a.eth0.mac, source: alice.Addr(), destination: to.Addr(), payload: whole[at:end]}
				ok(t, send(f.behind([]byte{44}, header).bytes()))
			}
			got := make([]byte, 1000)
			in.SetReadDeadline(time.Now().Add(patience))
			if n, err := in.Read(got); err != nil || !bytes.Equal(got[:n], data) {
				t.Errorf("fragments at %v to %s: arrived\n%s%v", order, to, hexDiff(got[:n], data), err)
			}
		}
	}
}
