package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/config"
	"ip6d/host/netns"
	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/nat"
)

// newFleet starts an etcd and makes an underlay in the tests' own network namespace, where all hosts of such a test are,
// one after the other: they never talk to each other, only to the store.
func newFleet(t *testing.T) (*etcdproc.Server, *netns.Namespace) {
	t.Helper()
	needRoot(t)
	here, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close() })
	binary, err := etcdproc.FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	underlay := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "wire"}
	if err == nil {
		err = netlink.LinkAdd(underlay)
	}
	if err == nil {
		t.Cleanup(func() { deleteDevice(t, "eth0") })
		var address *netlink.Addr
		if address, err = netlink.ParseAddr("fd00:6d::1/64"); err == nil {
			address.Flags = unix.IFA_F_NODAD
			err = errors.Join(netlink.AddrAdd(underlay, address), netlink.LinkSetUp(underlay))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	server, err := etcdproc.Start(t.Context(), etcdproc.Options{Binary: binary, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	t.Cleanup(func() { deleteDevice(t, "ip6d0") })
	return server, here
}

// deleteDevice deletes a device of the tests' own namespace, if it is there.
func deleteDevice(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return
	}
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Errorf("delete %s: %v", name, err)
	}
}

func fleetArgs(server *etcdproc.Server, more ...string) []string {
	return append([]string{"--host", "1", "--underlay-device", "eth0", "--underlay-address", "fd00:6d::1", "--store-endpoints", server.Endpoint()}, more...)
}

func TestAHostGoesOnFromItsCacheWithoutTheStore(t *testing.T) {
	server, here := newFleet(t)
	h := newTestHostIn(t, here)
	h.start(fleetArgs(server)...)
	a, b := h.machine("a", 42), h.machine("b", 42)
	a.meets(b)
	h.kill()
	server.Stop()

	a.passes(b, "without daemon and store")
	h.start(fleetArgs(server)...)
	a.passes(b, "without store")
	c := h.machine("c", 42) // from the leased block
	a.meets(c)
	var s statusAnswer
	h.run(&s, "status")
	if s.Standalone || s.Host.Host != 1 || s.Machines["here"] != 3 {
		t.Errorf("status is %+v, want host 1 with 3 machines here", s)
	}
	got := runLine(t, "", "--socket", h.socket(), "migrate", "begin", "a", "--to", "2")
	if got.status != exitError || got.stdout != "" {
		t.Errorf("a migration without the store: %+v", got)
	}
	checkOneLine(t, got)

	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.eventually("it follows the store again", func() bool {
		h.run(&s, "status")
		return s.Following
	})
	if status := h.signal(unix.SIGTERM); status != exitOK {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
}

func TestASecondServerWithTheSameIDIsRefusedAndLeavesNothing(t *testing.T) {
	server, here := newFleet(t)
	h := newTestHostIn(t, here)
	h.start(fleetArgs(server)...)
	if status := h.signal(unix.SIGTERM); status != exitOK {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
	// The second server is another computer, where nothing of the first one is.
	if err := nat.Remove(h.bpfDir); err != nil {
		t.Fatal(err)
	}
	deleteDevice(t, "ip6d0")

	second := newTestHostIn(t, here)
	said := second.fails(second.command(second.serveArgs(fleetArgs(server, "--name", "host2", "--identity", "another")...)...))
	for _, want := range []string{"host id is claimed by another server", `"host1"`, `"another"`} {
		if !strings.Contains(said, want) {
			t.Errorf("it says %q, without %q", said, want)
		}
	}
	if second.device("ip6d0") {
		t.Error("it left ip6d0")
	}
	if _, err := os.Stat(second.bpfDir); err == nil {
		t.Errorf("it left %s", second.bpfDir)
	}
	if said := second.fails(second.command(second.serveArgs(fleetArgs(server, "--identity", "test", "--cell", "2")...)...)); !strings.Contains(said, "cell is 1") {
		t.Errorf("with another cell it says %q", said)
	}
}

func TestAHostJoinsByACommandAndOnceRemovedByThatAlone(t *testing.T) {
	server, here := newFleet(t)
	h := newTestHostIn(t, here)
	args := func(more ...string) []string {
		return append([]string{"host", "join", "-o", "json", "--state-dir", h.state(), "--name", "host1", "--identity", "test"}, fleetArgs(server, more...)...)
	}
	for range 2 {
		got := runLine(t, "", args()...)
		if want := `{"host":1,"name":"host1","identity":"test","state":"joined"}` + "\n"; got.status != exitOK || got.stdout != want {
			t.Fatalf("host join: %+v, want %s", got, want)
		}
	}
	got := runLine(t, "", args("--identity", "another", "--name", "host9")...)
	if got.status != exitError || !strings.Contains(got.stderr, `"host1"`) || !strings.Contains(got.stderr, `"another"`) {
		t.Errorf("a second claimant: %+v", got)
	}
	checkOneLine(t, got)

	// With nothing that points at it, and nothing that it has leased.
	store, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{server.Endpoint()}, Cluster: config.DefaultCluster})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	h.start(fleetArgs(server)...)
	if status := h.signal(unix.SIGTERM); status != exitOK {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
	if _, err := store.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{
		{Key: "map/hosts/1"}, {Key: "applied/1"}, {Key: "witness/1"},
		{Key: "map/blocks/0", Value: []byte(`{"block":0,"home":2,"epoch":2}`)},
	}}); err != nil {
		t.Fatal(err)
	}
	if said := h.fails(h.command(h.serveArgs(fleetArgs(server)...)...)); !strings.Contains(said, "ip6d host join") {
		t.Errorf("a removed host starts, and says %q", said)
	}
	if got := runLine(t, "", args()...); got.status != exitOK {
		t.Fatalf("host join of a removed host: %+v", got)
	}
	h.start(fleetArgs(server)...)
	h.eventually("it carries packets again", func() bool {
		return runLine(t, "", "--socket", h.socket(), "machine", "create", "a", "--network", "1").status == exitOK
	})
}
