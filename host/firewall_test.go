package host_test

import (
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host"
)

// nft loads rules into the box's firewall, in place of those before.
func (b *box) nft(rules string) {
	b.t.Helper()
	b.sh("nft -f - <<'END'\nflush ruleset\n" + rules + "\nEND")
}

// probe counts, on their way through the host's firewall, what a test sends.
const probe = `
table ip6 probe {
	chain first { type filter hook prerouting priority -400; udp dport 9 counter; icmpv6 type packet-too-big counter; }
	chain last { type filter hook prerouting priority 400; udp dport 9 counter; icmpv6 type packet-too-big counter; }
}
`

// probed is how many of them came to the firewall, and got through it.
func (b *box) probed() (came, passed uint64) {
	b.t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(b.FD()))
	if err != nil {
		b.t.Fatal(err)
	}
	count := func(chain string) (n uint64) {
		t := &nftables.Table{Family: nftables.TableFamilyIPv6, Name: "probe"}
		rules, err := c.GetRules(t, &nftables.Chain{Table: t, Name: chain})
		if err != nil {
			b.t.Fatal(err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					n += counter.Packets
				}
			}
		}
		return n
	}
	came = count("first")
	return came, count("last")
}

// connect opens a UDP socket in the box that does not fragment.
func (b *box) connect(from, to netip.Addr) *net.UDPConn {
	b.t.Helper()
	var c *net.UDPConn
	b.do(func() (err error) {
		c, err = net.DialUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
		return err
	})
	b.t.Cleanup(func() { c.Close() })
	raw, err := c.SyscallConn()
	if err != nil {
		b.t.Fatal(err)
	}
	var fails error
	err = raw.Control(func(fd uintptr) {
		fails = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO)
	})
	if err := errors.Join(err, fails); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// isTold reports whether a machine of the host is told that a datagram is too big for the underlay: true when it is,
// false when the host's firewall lets none of many through.
func (c *carrier) isTold(g, to *guest) (told bool) {
	c.t.Helper()
	out := g.connect(g.Addr(), to.Addr())
	came0, passed0 := c.probed()
	eventually(c.t, "a datagram that is too big is answered, or stopped by the firewall", func() bool {
		_, err := out.Write(make([]byte, 1400))
		told = errors.Is(err, unix.EMSGSIZE)
		came, passed := c.probed()
		return told || came-came0 >= passed-passed0+3
	})
	return told
}

// isToldByRouter reports whether a service of the host, which speaks with a machine of another one, is told by a router
// in between that a datagram is too big: false when the host's firewall lets none of many messages through.
func (c *carrier) isToldByRouter(from *carrier, g *guest) (told bool) {
	c.t.Helper()
	const mtu = 1300
	self := endpointOf(c.t, c.id)
	out := c.connect(self.Addr(), g.Addr())
	port := out.LocalAddr().(*net.UDPAddr).AddrPort().Port()

	// What the router has seen, and says of it (RFC 4443 section 3.2).
	source, destination := c.routing(self, c.id), c.routing(g.Stable, from.id)
	message := binary.BigEndian.AppendUint32([]byte{2, 0, 0, 0}, mtu)
	message = append(message, 0x60, 0, 0, 0, 1352>>8, 1352&0xff, unix.IPPROTO_UDP, 64)
	message = append(append(message, source.AsSlice()...), destination.AsSlice()...)
	message = binary.BigEndian.AppendUint16(message, port)
	message = append(message, 0, 9, 1352>>8, 1352&0xff, 0, 0)
	var router net.PacketConn
	from.do(func() (err error) {
		err = give("eth0", "2001:db8::99/128")
		if err == nil {
			router, err = net.ListenPacket("ip6:ipv6-icmp", "2001:db8::99")
		}
		return err
	})
	defer router.Close()
	came0, passed0 := c.probed()
	eventually(c.t, "a router's error is heard, or stopped by the firewall", func() bool {
		if _, err := router.WriteTo(message, &net.IPAddr{IP: source.AsSlice()}); err != nil {
			c.t.Fatal(err)
		}
		_, err := out.Write(make([]byte, 1344))
		told = errors.Is(err, unix.EMSGSIZE)
		came, passed := c.probed()
		return told || came-came0 >= passed-passed0+3
	})
	return told
}

func (c *carrier) routing(s addr.Stable, h addr.Host) netip.Addr {
	c.t.Helper()
	r, err := addr.DefaultPlan.Encode(s, h)
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Addr()
}

const (
	toMachines = "Packet Too Big and Time Exceeded to machines"
	toServices = "errors of the underlay's routers to services of this host"
)

func TestFirewallRulesThatStopTheStacksAnswersAreNamed(t *testing.T) {
	one, two := newCarriers(t, 1400)
	far := two.run(42, 1)
	one.sh("ip -6 route add 2001:db8::/64 dev eth0") // where routers are
	prerouting := func(rules string) string {
		return "table inet filter { chain rp { type filter hook prerouting priority -10; " + rules + "; }; }"
	}
	for i, c := range []struct {
		name, rules string
		command     string // more rules
		told        bool
		rule        string   // that is found
		stops       []string // what it stops
	}{
		{name: "no rules", told: true},
		{name: "firewalld's reverse path filter", rules: prerouting("icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept; meta nfproto ipv6 fib saddr . mark . iif oif missing drop"), told: true,
			rule: "meta nfproto ipv6 fib saddr . mark . iif oif missing drop", stops: []string{toServices}},
		{name: "another", rules: prerouting("fib saddr . iif oif missing drop"), told: true,
			rule: "fib saddr . iif oif missing drop", stops: []string{toServices}},
		{name: "one after what passes", rules: prerouting("iifname { lo, ip6d0 } accept; fib saddr . iif oif missing drop"), told: true},
		{name: "one by ip6tables", command: "ip6tables-nft -t mangle -A PREROUTING -m rpfilter --invert -j DROP", told: true,
			rule: "rpfilter --invert drop", stops: []string{toServices}},
		{name: "a loose one by ip6tables", command: "ip6tables-nft -t mangle -A PREROUTING -m rpfilter --loose --invert -j DROP", told: true},
		{name: "strict addresses", rules: prerouting("fib daddr . iif type != { local, multicast } drop"),
			rule: "fib daddr . iif type != { … } drop", stops: []string{toMachines}},
		{name: "strict addresses, one chain further",
			rules: "table ip6 filter { chain strict { fib daddr . iif type != local jump end; }; chain end { counter drop; }; chain rp { type filter hook prerouting priority 0; icmpv6 type != 0 accept; jump strict; }; }",
			rule:  "fib daddr . iif type != local jump end", stops: []string{toMachines}},
		{name: "ip6d0 itself", rules: prerouting(`iifname "ip6d0*" drop`), rule: `iifname "ip6d0*" drop`, stops: []string{toMachines, toServices}},
		{name: "another device", rules: prerouting(`iifname "wan0" drop; iif lo drop`), told: true},
		{name: "a reverse path filter of marked packets, which have routes of their own",
			rules:   prerouting("meta mark set 7; fib saddr . mark . iif oif missing drop"),
			command: "ip -6 rule add fwmark 7 table 77; ip -6 route add default dev eth0 table 77",
			rule:    "fib saddr . mark . iif oif missing drop", stops: []string{toMachines, toServices}},
	} {
		t.Run(c.name, func(t *testing.T) {
			one.nft(probe + c.rules)
			one.sh(c.command)
			if told := one.isTold(one.run(42, addr.Machine(i)), far); told != c.told {
				t.Errorf("the machine is told: %t, want %t", told, c.told)
			}
			heard := !slices.Contains(c.stops, toServices)
			if told := one.isToldByRouter(two, two.run(42, addr.Machine(i+10))); told != heard {
				t.Errorf("a service of the host is told by a router: %t, want %t", told, heard)
			}
			found, err := one.agent.Firewall()
			if err != nil {
				t.Fatal(err)
			}
			var stops []string
			for _, f := range found {
				if f.Rule != c.rule {
					t.Errorf("found %q, want %q", f.Rule, c.rule)
				}
				stops = append(stops, f.Stops)
			}
			if !slices.Equal(stops, c.stops) {
				t.Fatalf("found %v, want that it stops %v", found, c.stops)
			}
			for _, f := range found {
				one.sh(f.Remedy)
			}
			if found, err := one.agent.Firewall(); err != nil || len(found) != 0 {
				t.Errorf("after its remedy found %v, %v", found, err)
			}
			if !one.isTold(one.run(42, addr.Machine(i+100)), far) {
				t.Error("after its remedy the machine is not told")
			}
			if !one.isToldByRouter(two, two.run(42, addr.Machine(i+100))) {
				t.Error("after its remedy no service of the host is told by a router")
			}
		})
	}
}

// sh runs a command line in the box.
func (b *box) sh(line string) {
	b.t.Helper()
	var out strings.Builder
	cmd := exec.Command("sh", "-c", line)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := b.Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		b.t.Fatalf("%s: %v\n%s", line, err, &out)
	}
}

func TestRulesOfLegacyTablesAreSaidNotToBeSeen(t *testing.T) {
	b := newBox(t)
	a := b.newAgent(host.Options{})
	prepare(t, a)
	if all := a.FirewallWarnings(); len(all) != 0 {
		t.Errorf("without any rule it says %q", all)
	}
	b.sh("ip6tables-legacy -t mangle -A PREROUTING -m rpfilter --invert -j DROP")
	if all := a.FirewallWarnings(); len(all) != 1 || !strings.Contains(all[0], "ip6tables-legacy-save -t mangle") {
		t.Errorf("it says %q", all)
	}
}

func TestAFirewallRuleIsLoggedOnce(t *testing.T) {
	b := newBox(t)
	var logged lines
	a := b.newAgent(host.Options{Interval: 5 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	prepare(t, a)
	const first, second = `iifname "ip6d0" drop`, `fib daddr . iif type != local drop`
	count := func(rule string) int { return logged.count(strings.ReplaceAll(rule, `"`, `\\\"`)) }
	b.nft("table ip6 t { chain c { type filter hook prerouting priority 0; " + first + "; }; }")
	run(t, a)
	eventually(t, "the rule that is there at the start is logged", func() bool { return count(first) > 0 })
	b.nft("table ip6 t { chain c { type filter hook prerouting priority 0; " + second + "; }; }")
	eventually(t, "a rule that comes later is logged", func() bool { return count(second) > 0 })
	b.nft("")
	eventually(t, "that none is left is logged", func() bool { return logged.count("lets everything pass") > 0 })
	if n := count(first); n != 2 { // once for each kind of packet that it stops
		t.Errorf("the first rule was logged %d times:\n%s", n, &logged)
	}
	if n := count(second); n != 1 {
		t.Errorf("the second rule was logged %d times:\n%s", n, &logged)
	}
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// count is the number of lines with a text.
func (l *lines) count(text string) int { return strings.Count(l.String(), text) }
