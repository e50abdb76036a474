package host_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/nat"
)

// examples are the rules of docs/FIREWALL.md, by the title of their section.
func examples(t *testing.T) map[string]string {
	t.Helper()
	document, err := os.ReadFile("../docs/FIREWALL.md")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for _, section := range strings.Split(string(document), "\n## ")[1:] {
		title, text, _ := strings.Cut(section, "\n")
		_, example, found := strings.Cut(text, "```nft\n")
		rules, _, ends := strings.Cut(example, "\n```")
		if !found || !ends {
			t.Fatalf("section %q has no example", title)
		}
		all[title] = rules
	}
	return all
}

// asked counts what asks the host's services, before and after the host's own rules.
const asked = `
table ip6 probe {
	chain first { type filter hook input priority -400; ct state new th dport { 53, 9100 } counter; }
	chain last { type filter hook input priority 400; ct state new th dport { 53, 9100 } counter; }
}
`

// serve has services on the host's endpoint that answer each request.
func (c *carrier) serve(port uint16) {
	c.t.Helper()
	at := netip.AddrPortFrom(endpointOf(c.t, c.id).Addr(), port)
	var datagrams *net.UDPConn
	var streams net.Listener
	c.do(func() (err error) {
		if datagrams, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(at)); err != nil {
			return err
		}
		streams, err = net.Listen("tcp6", at.String())
		return err
	})
	c.t.Cleanup(func() { datagrams.Close(); streams.Close() })
	go func() {
		for b := make([]byte, 100); ; {
			n, from, err := datagrams.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			datagrams.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	go func() {
		for {
			s, err := streams.Accept()
			if err != nil {
				return
			}
			s.Write([]byte("hello"))
			s.Close()
		}
	}()
}

// reaches reports whether somebody in the box is answered by a service of the host: false when its firewall lets none
// of many requests through.
func (c *carrier) reaches(b *box, from addr.Stable, network string, port uint16) (answered bool) {
	c.t.Helper()
	to := netip.AddrPortFrom(endpointOf(c.t, c.id).Addr(), port).String()
	d := net.Dialer{Timeout: 200 * time.Millisecond}
	if d.LocalAddr = net.Addr(&net.TCPAddr{IP: from.Addr().AsSlice()}); network == "udp6" {
		d.LocalAddr = &net.UDPAddr{IP: from.Addr().AsSlice()}
	}
	came0, passed0 := c.probed()
	eventually(c.t, "a request from "+from.String()+" is answered, or stopped by the firewall", func() bool {
		b.do(func() error {
			s, err := d.Dial(network, to)
			if err != nil {
				return nil // not answered
			}
			defer s.Close()
			s.SetDeadline(time.Now().Add(d.Timeout))
			s.Write([]byte("hello"))
			n, _ := s.Read(make([]byte, 10))
			answered = answered || n > 0
			return nil
		})
		came, passed := c.probed()
		return answered || came-came0 >= passed-passed0+3
	})
	return answered
}

func TestTheExamplesOfFirewallRulesDoWhatTheySay(t *testing.T) {
	one, two := newCarriers(t, 1500)
	one.serve(53)
	one.serve(9100)
	friend, far, stranger := one.run(42, 1), two.run(42, 2), one.run(43, 3)
	type request struct {
		what    string
		box     *box
		from    addr.Stable
		network string
		port    uint16
	}
	requests := []request{
		{"a machine of network 42 by UDP", friend.box, friend.Stable, "udp6", 53},
		{"a machine of network 42 by TCP", friend.box, friend.Stable, "tcp6", 53},
		{"one on another host", far.box, far.Stable, "udp6", 53},
		{"one that asks another service", friend.box, friend.Stable, "tcp6", 9100},
		{"a machine of network 43", stranger.box, stranger.Stable, "udp6", 53},
		{"another host", two.box, endpointOf(t, 2), "tcp6", 9100},
		{"another host that asks another service", two.box, endpointOf(t, 2), "tcp6", 53},
	}
	all := examples(t)
	all["no rules"] = ""
	for title, answered := range map[string][]bool{
		"no rules":                     {true, true, true, true, true, true, true},
		"Name service for one network": {true, true, true, false, false, false, false},
		"Metrics for other hosts":      {false, false, false, false, false, true, false},
		"A reverse path filter":        {true, true, true, true, true, true, true},
	} {
		t.Run(title, func(t *testing.T) {
			rules, ok := all[title]
			if !ok {
				t.Fatal("docs/FIREWALL.md has no such section")
			}
			delete(all, title)
			one.nft(asked + rules)
			for i, r := range requests {
				if got := one.reaches(r.box, r.from, r.network, r.port); got != answered[i] {
					t.Errorf("%s is answered: %t, want %t", r.what, got, answered[i])
				}
			}
			// The other way round, whatever the rules.
			for _, g := range []*guest{friend, far, stranger} {
				if err := one.ping(g.Addr().String()); err != nil {
					t.Errorf("from a service of the host: %v", err)
				}
			}
			one.nft(probe + rules)
			if !one.isToldByRouter(two, two.run(42, addr.Machine(len(all)+10))) {
				t.Error("a service of the host is not told by a router of the underlay")
			}
			if found, err := one.agent.Firewall(); err != nil || len(found) != 0 {
				t.Errorf("the daemon finds %v, %v", found, err)
			}
		})
	}
	for title := range all {
		t.Errorf("section %q of docs/FIREWALL.md is not tested", title)
	}
}

// What a machine may send to the endpoint does not get it to machines of other networks.
func TestTheEndpointIsNoWayToAnotherNetwork(t *testing.T) {
	one, two := newCarriers(t, 1500)
	from, near, far := one.run(42, 1), one.run(43, 2), two.run(43, 3)
	endpoint := endpointOf(t, 1).Addr()
	for _, to := range []*guest{near, far} {
		heard := to.capture(to.mustLink("eth0").Attrs().Index)
		for _, c := range []struct {
			reason              string
			source, destination netip.Addr
			routed              bool // by way of a routing header
		}{
			{"other_network", from.Addr(), to.Addr(), false},
			{"foreign_source", endpoint, to.Addr(), false},
			{"routing_destination", from.Addr(), one.routing(to.Stable, 1), false},
			{"routing_destination", from.Addr(), one.routing(to.Stable, 2), false},
			{"routing_header", from.Addr(), endpoint, true},
		} {
			before := one.dropped(c.reason)
			eventually(t, "it is refused as "+c.reason, func() bool {
				from.sendFrame(c.source, c.destination, c.routed, to.Addr())
				return one.dropped(c.reason) > before
			})
		}
		for frame := heard(); frame != nil; frame = heard() {
			if strings.Contains(string(frame), "by way of the endpoint") {
				t.Errorf("a machine of network %d has received\n%x", to.Network(), frame)
			}
		}
	}
}

// sendFrame sends a datagram from a machine's device as a hostile machine would, with or without a routing header that
// has it sent on (RFC 5095 is about such).
func (g *guest) sendFrame(source, destination netip.Addr, routed bool, next netip.Addr) {
	g.t.Helper()
	data := append([]byte{0, 9, 0, 9, 0, 30, 0, 0}, "by way of the endpoint"...)
	protocol := byte(unix.IPPROTO_UDP)
	if routed {
		data = append(append([]byte{protocol, 2, 0, 1, 0, 0, 0, 0}, next.AsSlice()...), data...)
		protocol = unix.IPPROTO_ROUTING
	}
	l := g.mustLink("eth0")
	frame := append(append([]byte{}, nat.GatewayMAC()...), l.Attrs().HardwareAddr...)
	frame = append(frame, 0x86, 0xdd, 0x60, 0, 0, 0)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(data)))
	frame = append(append(append(frame, protocol, 64), source.AsSlice()...), destination.AsSlice()...)
	frame = append(frame, data...)
	g.do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index})
	})
}
