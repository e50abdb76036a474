package doctor

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/certificate"
	"ip6d/config"
	"ip6d/hwmap"
)

// is checks a finding: how bad it is, and that value and remedy have these words.
func is(t *testing.T, what string, f Finding, severity Severity, words ...string) {
	t.Helper()
	if f.Severity != severity {
		t.Errorf("%s: %+v, want %s", what, f, severity)
	}
	if (severity == Warning || severity == Error) && f.Remedy == "" {
		t.Errorf("%s: %+v has no remedy", what, f)
	}
	for _, word := range words {
		if !strings.Contains(f.Value+" "+f.Remedy, word) {
			t.Errorf("%s: %+v, want %q in it", what, f, word)
		}
	}
}

// one returns the finding of that check, of which there must be one.
func one(t *testing.T, all []Finding, check string) Finding {
	t.Helper()
	var found []Finding
	for _, f := range all {
		if f.Check == check {
			found = append(found, f)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d findings about %s in %+v, want one", len(found), check, all)
	}
	return found[0]
}

func TestTheWorstFindingCounts(t *testing.T) {
	for _, c := range []struct {
		all  []Severity
		want Severity
	}{{nil, OK}, {[]Severity{Info, OK}, Info}, {[]Severity{OK, Warning, Info}, Warning}, {[]Severity{Warning, Error, OK}, Error}} {
		var findings []Finding
		for _, s := range c.all {
			findings = append(findings, Finding{Severity: s})
		}
		if got := Worst(findings); got != c.want {
			t.Errorf("%v: %s, want %s", c.all, got, c.want)
		}
	}
}

func TestADaemonIsSaidToBeDownOldOrLost(t *testing.T) {
	fleet := config.Config{Endpoints: []string{"http://a:1"}}
	is(t, "down", one(t, Options{Version: "v2"}.daemon(), "daemon"), Info, "systemctl start")
	is(t, "old", one(t, Options{Version: "v2", Daemon: &Daemon{Version: "v1"}}.daemon(), "daemon"), Warning, "v1", "v2", "restart")
	well := Options{Config: fleet, Version: "v2", Daemon: &Daemon{Version: "v2", Following: true}}.daemon()
	if is(t, "well", one(t, well, "daemon"), OK, "v2"); len(well) != 1 {
		t.Errorf("more about a daemon that is well: %+v", well)
	}
	bad := Options{Version: "v2", Daemon: &Daemon{Version: "v2", Following: true, Fenced: true, Suspect: "it counts 7, its witness 9"}}
	bad.Config.Host = 5
	is(t, "dead", one(t, bad.daemon(), "fence"), Error, "declared dead", "ip6d host revive 5")
	is(t, "restored", one(t, bad.daemon(), "database"), Error, "its witness 9", "ip6d db accept")
	is(t, "lost", one(t, Options{Config: fleet, Version: "v2", Daemon: &Daemon{Version: "v2", StoreError: "no leader"}}.daemon(), "daemon follows store"), Error, "no leader")
}

func TestTheStatesDirectoryIsToBeWrittenAndToLast(t *testing.T) {
	dir := t.TempDir()
	all := Options{Config: config.Config{StateDir: filepath.Join(dir, "not", "made")}}.state()
	is(t, "not made yet", one(t, all, "state_dir"), OK, "can be written")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	is(t, "a file", one(t, Options{Config: config.Config{StateDir: file}}.state(), "state_dir"), Error, "no directory")
	is(t, "not to be written", one(t, Options{Config: config.Config{StateDir: "/proc"}}.state(), "state_dir"), Error, "mount it for writing")
	is(t, "in memory", durable("/run", unix.TMPFS_MAGIC), Warning, "reboot")
	is(t, "on a disk", durable("/var", unix.EXT4_SUPER_MAGIC), OK)
	is(t, "full", room("/var", noRoom-1), Error, "make room")
	is(t, "nearly full", room("/var", littleRoom-1), Warning, "make room")
	is(t, "with room", room("/var", littleRoom), OK)
}

func TestLimitsAndClocksAreJudged(t *testing.T) {
	is(t, "few files", openFiles(256), Warning, "LimitNOFILE")
	is(t, "files", openFiles(1<<20), OK)
	is(t, "clock", clockState(0), OK)
	is(t, "clock that nobody keeps", clockState(5), Warning, "chrony")
	is(t, "an error of ours", fromError("x", "", fmt.Errorf("broken")), Error, "broken")
	all := apart(map[string]time.Duration{"host 2": 10 * time.Second, "host 3": time.Second, "host 4": -time.Minute})
	if len(all) != 2 {
		t.Fatalf("%+v, want a warning for hosts 2 and 4", all)
	}
	is(t, "ahead", one(t, all, "clock of host 2"), Warning, "10s ahead")
	is(t, "behind", one(t, all, "clock of host 4"), Warning, "-1m0s ahead")
	is(t, "together", one(t, apart(map[string]time.Duration{"host 3": time.Second}), "clocks"), OK)
}

func TestAStoreThatDoesNotAnswerIsToldByEndpoint(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := "http://" + closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	all, hosts := Options{Config: config.Config{Endpoints: []string{at}, Cluster: "c"}}.store(t.Context())
	is(t, "closed", one(t, all, "store "+at), Error, "check that it runs")
	if hosts != nil {
		t.Errorf("it has hosts: %v", hosts)
	}
	missing := certificate.Paths{Authorities: "/nowhere/ca.crt"}
	all, _ = Options{Config: config.Config{Endpoints: []string{"https://a:1"}, Cluster: "c", StoreFiles: missing}}.store(t.Context())
	is(t, "without certificate", one(t, all, "store certificate"), Error, "/nowhere/ca.crt", "store.ca")
	all, _ = Options{}.store(t.Context())
	is(t, "standalone", one(t, all, "store"), OK)
}

// inNamespace runs f in a network namespace of its own, with devices eth0 (fd00:6d::1, up) and its other end, wire.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root, for a network namespace, and CI=true allows no skip")
		}
		t.Skip("needs root, for a network namespace")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for ever: the thread ends with the namespace
		ns, err := netns.New()
		if err != nil {
			t.Error(err)
			return
		}
		defer ns.Close()
		run(t, "lo", func(lo netlink.Link) error { return netlink.LinkSetUp(lo) })
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "wire"}); err != nil {
			t.Error(err)
			return
		}
		run(t, "wire", netlink.LinkSetUp)
		run(t, "eth0", netlink.LinkSetUp)
		run(t, "eth0", give("fd00:6d::1"))
		f()
	}()
	<-done
}

// run does something to a device.
func run(t *testing.T, device string, f func(netlink.Link) error) {
	t.Helper()
	l, err := netlink.LinkByName(device)
	if err == nil {
		err = f(l)
	}
	if err != nil {
		t.Errorf("%s: %v", device, err)
	}
}

func give(address string) func(netlink.Link) error {
	return func(l netlink.Link) error {
		a, err := netlink.ParseAddr(address + "/64")
		if err != nil {
			return err
		}
		a.Flags = unix.IFA_F_NODAD
		return netlink.AddrAdd(l, a)
	}
}

// host1 is host 1 of a fleet.
func host1() Options {
	return Options{Version: "v1", Daemon: &Daemon{Version: "v1", Following: true}, Config: config.Config{
		Host: 1, Plan: addr.DefaultPlan, UnderlayDevice: "eth0", UnderlayAddress: netip.MustParseAddrPort("[fd00:6d::1]:6446"),
		Endpoints: []string{"http://a:1"},
	}}
}

func TestTheUnderlayIsToBeUpWithItsAddressAndRoomForIPv6(t *testing.T) {
	inNamespace(t, func() {
		o := host1()
		all := o.underlay()
		is(t, "well", one(t, all, "underlay"), OK)
		is(t, "well", one(t, all, "underlay MTU"), OK, "1500")
		is(t, "well", one(t, all, "underlay address"), OK, "fd00:6d::1")
		other := o
		other.Config.UnderlayAddress = netip.MustParseAddrPort("[fd00:6d::9]:6446")
		is(t, "another address", one(t, other.underlay(), "underlay address"), Error, "does not have fd00:6d::9", "ip -6 addr add")
		run(t, "wire", netlink.LinkSetDown)
		is(t, "no carrier", one(t, o.underlay(), "underlay"), Error, "no carrier")
		run(t, "eth0", func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1200) })
		is(t, "a small MTU", one(t, o.underlay(), "underlay MTU"), Error, "1280")
		run(t, "eth0", netlink.LinkSetDown)
		is(t, "down", one(t, o.underlay(), "underlay"), Error, "ip link set eth0 up")
		run(t, "eth0", netlink.LinkDel)
		is(t, "gone", one(t, o.underlay(), "underlay"), Error, "is not there")
		o.Config.UnderlayEndpoint, o.Daemon = netip.MustParseAddrPort("192.0.2.1:1"), nil
		is(t, "a mesh before its daemon", one(t, o.underlay(), "underlay"), Info, "the daemon makes it")
	})
}

func TestForwardingIsToBeOnWhileTheDaemonRuns(t *testing.T) {
	inNamespace(t, func() {
		// Of the namespace of this thread.
		set := func(device, name, value string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", device, name), []byte(value), 0o600); err != nil {
				t.Error(err)
			}
		}
		o := host1()
		set("all", "forwarding", "1")
		is(t, "on", one(t, o.sysctls(), "forwarding"), OK)
		set("all", "forwarding", "0")
		is(t, "off while the daemon runs", one(t, o.sysctls(), "forwarding"), Error, "sysctl -w net.ipv6.conf.all.forwarding=1")
		set("eth0", "disable_ipv6", "1")
		is(t, "no IPv6", one(t, o.sysctls(), "IPv6"), Error, "eth0")
		o.Daemon = nil
		is(t, "off before it runs", one(t, o.sysctls(), "forwarding"), Info)
	})
}

func TestRoutesOfOthersInTheFleetsPrefixesAreToldWithTheWayToDeleteThem(t *testing.T) {
	inNamespace(t, func() {
		o := host1()
		add := func(to string, protocol netlink.RouteProtocol) {
			t.Helper()
			run(t, "eth0", func(l netlink.Link) error {
				_, n, err := net.ParseCIDR(to)
				if err != nil {
					return err
				}
				return netlink.RouteAdd(&netlink.Route{Dst: n, LinkIndex: l.Attrs().Index, Protocol: protocol})
			})
		}
		add("fdab:0:2::/48", 105) // ours
		add("::/0", unix.RTPROT_STATIC)
		add("fc00::/7", unix.RTPROT_STATIC)
		is(t, "others, elsewhere", o.routes(), OK)
		add("fdaa:0:2a::/48", unix.RTPROT_STATIC)
		add("fdab::/16", unix.RTPROT_STATIC)
		is(t, "others, in the way", o.routes(), Warning, "ip -6 route del fdaa:0:2a::/48 table 254", "ip -6 route del fdab::/16")
	})
}

func TestAHostIsReachedByFullPacketsOrSaidHowNot(t *testing.T) {
	inNamespace(t, func() {
		// The other host is in this namespace too: packets to its address go by lo.
		run(t, "lo", give("fd00:6d::2"))
		from := netip.MustParseAddr("fd00:6d::1")
		h := hwmap.Host{ID: 2, Name: "two", Underlay: netip.MustParseAddr("fd00:6d::2"), Peer: netip.MustParseAddrPort("[fd00:6d::2]:6446")}
		is(t, "well", one(t, reach(t.Context(), "host 2", from, h, 1500), "host 2"), OK, "packets of 1500 bytes")
		run(t, "lo", func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1400) })
		is(t, "a narrow way", one(t, reach(t.Context(), "host 2", from, h, 1500), "host 2"), Error, "not by packets of the underlay's MTU, 1500")

		// Echoes are not answered any more, but the daemon answers.
		if err := os.WriteFile("/proc/sys/net/ipv6/icmp/echo_ignore_all", []byte("1"), 0o600); err != nil {
			t.Error(err)
			return
		}
		is(t, "gone", one(t, reach(t.Context(), "host 2", from, h, 1400), "host 2"), Error, "is not reached", "traceroute")
		l, err := net.Listen("tcp", h.Peer.String())
		if err != nil {
			t.Error(err)
			return
		}
		server := httptest.NewUnstartedServer(http.NotFoundHandler())
		server.Listener.Close()
		server.Listener = l
		server.Start()
		defer server.Close()
		is(t, "without echo", one(t, reach(t.Context(), "host 2", from, h, 1400), "host 2"), Warning, "its daemon answers")
		if offset, err := clockOf(t.Context(), from, h.Peer); err != nil || offset.Abs() > maxOffset {
			t.Errorf("the same clock is %s apart, %v", offset, err)
		}
	})
}

func TestHostsThatAreDeadOrThisOneAreNotAsked(t *testing.T) {
	inNamespace(t, func() {
		o := host1()
		self := hwmap.Host{ID: 1, Underlay: netip.MustParseAddr("fd00:6d::1")}
		dead := hwmap.Host{ID: 2, State: hwmap.Dead, Underlay: netip.MustParseAddr("fd00:6d::2")}
		all := o.hosts(t.Context(), []hwmap.Host{self, dead})
		if len(all) != 1 || all[0].Check != "clock" {
			t.Errorf("%+v, want the clock alone", all)
		}
		is(t, "unknown", one(t, o.hosts(t.Context(), nil), "hosts"), Info)
	})
}
