package main

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMachinesOfANetworkReachEachOtherAndNoOther(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a, b, other := h.machine("a", 42), h.machine("b", 42), h.machine("other", 43)
	a.meets(b)
	b.meets(a)
	a.passes(b, "there")
	b.passes(a, "and back")

	a.send(other, "let me in")
	h.eventually("the packet to another network is refused by name", func() bool { return h.drops()["other_network"] > 0 })
	a.passes(b, "still")
	// A packet that had come through would have come before this one.
	if text, _ := other.receive(time.Millisecond); text != "" {
		t.Errorf("a packet reached another network: %q", text)
	}
}

func TestPacketsFlowWhileTheDaemonIsKilledAndStartedAgain(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a, b := h.machine("a", 42), h.machine("b", 42)
	a.meets(b)
	n := 0
	exchange := func(when string) {
		t.Helper()
		for range 50 {
			n++
			a.passes(b, fmt.Sprintf("%s %d", when, n))
		}
	}
	exchange("before")
	h.kill()
	exchange("without a daemon")
	for h.begin(); !h.answers(); {
		exchange("while it starts")
	}
	exchange("after it has started")
	var list []machineAnswer
	h.run(&list, "machine", "list")
	if len(list) != 2 || list[0].Stable != a.stable.String() || list[1].Port == nil {
		t.Errorf("after the restart it has %+v", list)
	}
	if status := h.signal(unix.SIGTERM); status != exitOK {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
	if _, err := os.Stat(h.socket()); err == nil {
		t.Error("the socket is still there after an orderly stop")
	}
	exchange("after it was stopped")
}

func TestAPortThatIsGoneIsMadeAnewByAttach(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a, b := h.machine("a", 42), h.machine("b", 42)
	a.meets(b)
	err := h.ns.Do(func() error {
		l, err := netlink.LinkByName(b.device)
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	if err != nil {
		t.Fatal(err)
	}
	h.eventually("packets for it are refused as without a port", func() bool {
		a.send(b, "anybody there?")
		return h.drops()["no_port"] > 0
	})
	var again machineAnswer
	h.run(&again, "machine", "attach", "b", "--netns", b.path())
	if again.Stable != b.stable.String() {
		t.Errorf("attached as %s, was %s", again.Stable, b.stable)
	}
	a.meets(b)
}

func TestTheDatapathFollowsTheUnderlayDevice(t *testing.T) {
	h := newTestHost(t)
	add := func(name string) int {
		t.Helper()
		ifindex := 0
		err := h.ns.Do(func() error {
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
			if err := netlink.LinkAdd(l); err != nil {
				return err
			}
			ifindex = l.Index
			return netlink.LinkSetUp(l)
		})
		if err != nil {
			t.Fatal(err)
		}
		return ifindex
	}
	attached := func() string {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(h.bpfDir, "links", "from_underlay-*"))
		if err != nil {
			t.Fatal(err)
		}
		for i, path := range all {
			all[i] = strings.TrimPrefix(filepath.Base(path), "from_underlay-")
		}
		return strings.Join(all, " ")
	}
	become := func(ifindex int) {
		t.Helper()
		h.eventually(fmt.Sprintf("it is attached to device %d alone", ifindex), func() bool { return attached() == fmt.Sprint(ifindex) })
	}
	args := func(device string) []string {
		return []string{"--underlay-device", device, "--underlay-address", "fd00:6d::1"}
	}

	first, other := add("eth0"), add("eth1")
	h.start(args("eth0")...)
	become(first)
	err := h.ns.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
	if err != nil {
		t.Fatal(err)
	}
	become(add("eth0"))

	h.kill()
	h.start(args("eth1")...)
	become(other)
	h.kill()
	h.start()
	if got := attached(); got != "" {
		t.Errorf("without an underlay it is attached to device %s", got)
	}
}

func TestSystemdIsToldWhenTheDaemonIsReadyAndWhenItStops(t *testing.T) {
	h := newTestHost(t)
	path := filepath.Join(h.dir, "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	told := func() string {
		t.Helper()
		buffer := make([]byte, 100)
		n, err := socket.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	h.begin()
	if got := told(); got != "READY=1" {
		t.Errorf("first it told %q", got)
	}
	if !h.answers() {
		t.Error("it does not answer though it is ready")
	}
	if status := h.signal(unix.SIGTERM); status != exitOK {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
	if got := told(); got != "STOPPING=1" {
		t.Errorf("at its end it told %q", got)
	}
}

func TestASecondDaemonIsRefused(t *testing.T) {
	h := newTestHost(t)
	h.start()
	if got := h.fails(h.command(h.serveArgs()...)); !strings.Contains(got, h.socket()+": a daemon answers there already") {
		t.Errorf("with the same socket it says %q", got)
	}
	if got := h.fails(h.command(h.serveArgs("--socket", h.socket()+"2")...)); !strings.Contains(got, "another ip6d serves this network namespace") {
		t.Errorf("with the same state it says %q", got)
	}
	h.run(new(statusAnswer), "status") // the first one is as it was
}

func TestAStartWithOtherSettingsIsRefusedAndPacketsFlow(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a, b := h.machine("a", 42), h.machine("b", 42)
	a.meets(b)
	h.kill()
	for _, c := range []struct{ args, says string }{
		{"--host=9", "it is of host 1, cell 1"},
		{"--cell=2", "the settings are of host 1, cell 2"},
		{"--prefixes-stable=fdac::/16", "fdac::/16 and fdab::/16"},
		{"--bpf-dir=" + h.bpfDir + "2", "another datapath is attached: device ip6d0 has"},
	} {
		if got := h.fails(h.command(h.serveArgs(c.args)...)); !strings.Contains(got, c.says) {
			t.Errorf("%s: it says %q", c.args, got)
		}
		a.passes(b, "after a start with "+c.args)
		if !h.device("ip6d0") {
			t.Errorf("%s: it took ip6d0 away", c.args)
		}
	}
	if _, err := os.Stat(h.bpfDir + "2"); err == nil {
		t.Errorf("it left %s2", h.bpfDir)
	}
	h.start()
	a.passes(b, "after a start as before")
}

func TestABadStartSaysWhyAndLeavesNothing(t *testing.T) {
	garbage := func(name string) func(*testHost) error {
		return func(h *testHost) error {
			if err := os.MkdirAll(h.state(), 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(h.state(), name), []byte("this is no database"), 0o600)
		}
	}
	for _, c := range []struct {
		claim   string
		prepare func(*testHost) error
		args    []string
		without string // this capability
		says    []string
	}{
		{claim: "no BPF file system", args: []string{"--bpf-dir", "/tmp/ip6d-test/bpf"}, says: []string{"/tmp/ip6d-test/bpf", "mount -t bpf bpf"}},
		{claim: "no CAP_NET_ADMIN", without: "net_admin", says: []string{"CAP_NET_ADMIN", "run as root"}},
		{claim: "no CAP_SYS_ADMIN", without: "sys_admin", says: []string{"operation not permitted", "run as root"}},
		{claim: "corrupt database", prepare: garbage("host.db"), says: []string{"host.db", "database is corrupt"}},
		{
			claim: "no underlay device", args: []string{"--host", "1", "--underlay-device", "nosuch0", "--underlay-address", "fd00::1"},
			says: []string{`"nosuch0"`},
		},
		{
			claim: "unreachable store",
			prepare: func(h *testHost) error {
				return h.ns.Do(func() error {
					return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "wire"})
				})
			},
			args: []string{"--host", "1", "--underlay-device", "eth0", "--underlay-address", "fd00::1", "--store-endpoints", "http://[::1]:1"},
			says: []string{"store unreachable", "http://[::1]:1", "check store.endpoints"},
		},
		{
			claim:   "socket is a file",
			prepare: func(h *testHost) error { return os.WriteFile(h.socket(), []byte("mine"), 0o600) },
			says:    []string{"ip6d.sock", "no socket"},
		},
	} {
		t.Run(c.claim, func(t *testing.T) {
			h := newTestHost(t)
			if c.prepare != nil {
				if err := c.prepare(h); err != nil {
					t.Fatal(err)
				}
			}
			before := files(t, h.dir)
			cmd := h.command(h.serveArgs(c.args...)...)
			if c.without != "" {
				cmd = without(t, cmd, c.without)
			}
			got := h.fails(cmd)
			for _, want := range c.says {
				if !strings.Contains(got, want) {
					t.Errorf("it says %q, without %q", got, want)
				}
			}
			if h.device("ip6d0") {
				t.Error("it left ip6d0")
			}
			if _, err := os.Stat(h.bpfDir); err == nil {
				t.Errorf("it left %s", h.bpfDir)
			}
			if after := files(t, h.dir); after != before {
				t.Errorf("files were %s, are %s", before, after)
			}
		})
	}
}

// without is cmd as root, but for one capability.
func without(t *testing.T, cmd *exec.Cmd, capability string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable() // /proc/self would be setpriv's
	if err != nil {
		t.Fatal(err)
	}
	limited := exec.Command("setpriv", append([]string{"--inh-caps", "-" + capability, "--bounding-set", "-" + capability, exe}, cmd.Args[1:]...)...)
	limited.Env, limited.ExtraFiles = cmd.Env, cmd.ExtraFiles
	return limited
}

// files lists what is below dir.
func files(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func TestTheSocketIsForOwnerAndGroupOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dir", "socket")
	l, err := listenAPI(path, socketGroup, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v (%v), want 0660", info.Mode(), err)
	}
	if _, err := listenAPI(path, socketGroup, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a second one at the same path: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the socket outlives its listener")
	}
}

func TestTheSocketOfADeadDaemonIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	for _, left := range []string{path, path + ".new"} { // killed while it ran, and while it began
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		if err := dead.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l, err := listenAPI(path, socketGroup, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
