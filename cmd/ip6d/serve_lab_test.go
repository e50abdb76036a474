package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/host/netns"
	"ip6d/nat"
)

// patience is how long a test waits for what must happen; it is waited for in full only when the test fails.
const patience = time.Minute

// testHost is a host in a network namespace of its own, for a daemon to run on:
//
//	netns host: daemon, ip6d0, ports ==veth== eth0 of a machine's netns
type testHost struct {
	t      *testing.T
	ns     *netns.Namespace
	dir    string // of sockets, state and log
	bpfDir string

	lifeline *os.File // of the commands that run here; see lifelineFD
	daemon   *exec.Cmd
	exited   chan struct{} // closed when the daemon has ended
	log      *lockedBuffer
}

// lockedBuffer is what a process writes, to be read meanwhile.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newTestHost(t *testing.T) *testHost {
	t.Helper()
	needRoot(t)
	return newTestHostIn(t, newNamespace(t))
}

func newTestHostIn(t *testing.T, ns *netns.Namespace) *testHost {
	t.Helper()
	dir, err := os.MkdirTemp("", "ip6d") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	lifeline, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lifeline.Close(); ours.Close() })
	h := &testHost{t: t, ns: ns, dir: dir, lifeline: lifeline, bpfDir: filepath.Join(bpfRoot, filepath.Base(dir))}
	t.Cleanup(func() {
		select {
		case <-h.exited: // nil while none was started
			t.Error("the daemon ended by itself")
		default:
			h.kill()
		}
		if err := nat.Remove(h.bpfDir); err != nil {
			t.Error(err)
		}
		if t.Failed() && h.log != nil {
			t.Logf("log of the daemon:\n%s", h.log)
		}
	})
	return h
}

func newNamespace(t *testing.T) *netns.Namespace {
	t.Helper()
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func (h *testHost) socket() string { return filepath.Join(h.dir, "ip6d.sock") }
func (h *testHost) state() string  { return filepath.Join(h.dir, "state") }

// command is ip6d in the host's namespace. It ends with this process.
func (h *testHost) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	cmd.ExtraFiles = []*os.File{h.lifeline}
	return cmd
}

// serveArgs are the flags of a daemon of this host, and more.
func (h *testHost) serveArgs(more ...string) []string {
	return append([]string{"serve", "--socket", h.socket(), "--state-dir", h.state(), "--bpf-dir", h.bpfDir, "--name", "host1", "--identity", "test"}, more...)
}

// fails runs a daemon that must not come up, and returns what it said.
func (h *testHost) fails(cmd *exec.Cmd) string {
	h.t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.ns.Start(cmd); err != nil {
		h.t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitError {
		h.t.Fatalf("%v: %v, want exit status %d; it said %q", cmd.Args, err, exitError, out.String())
	}
	return out.String()
}

// start starts the daemon and waits until it answers.
func (h *testHost) start(more ...string) {
	h.t.Helper()
	h.begin(more...)
	h.eventually("the daemon answers", h.answers)
}

// begin starts the daemon.
func (h *testHost) begin(more ...string) {
	h.t.Helper()
	h.daemon, h.log, h.exited = h.command(h.serveArgs(more...)...), &lockedBuffer{}, make(chan struct{})
	h.daemon.Stdout, h.daemon.Stderr = h.log, h.log
	if err := h.ns.Start(h.daemon); err != nil {
		h.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait() // how it ended is in its ProcessState
		close(exited)
	}(h.daemon, h.exited)
}

// answers reports whether the daemon has come so far.
func (h *testHost) answers() bool {
	h.t.Helper()
	select {
	case <-h.exited:
		h.t.Fatalf("the daemon ended: %s", h.log)
	default:
	}
	return runLine(h.t, "", "--socket", h.socket(), "status").status == exitOK
}

// signal sends the daemon a signal, waits until it has ended and returns its exit status.
func (h *testHost) signal(s unix.Signal) int {
	h.t.Helper()
	if err := h.daemon.Process.Signal(s); err != nil {
		h.t.Fatal(err)
	}
	select {
	case <-h.exited:
	case <-time.After(patience):
		h.t.Fatalf("the daemon did not end after %v", s)
	}
	status := h.daemon.ProcessState.ExitCode()
	h.daemon, h.exited = nil, nil
	return status
}

// kill ends the daemon as a crash would, if it runs.
func (h *testHost) kill() {
	if h.daemon != nil {
		h.signal(unix.SIGKILL)
	}
}

// run runs a command that must succeed and reads its answer into answer.
func (h *testHost) run(answer any, args ...string) {
	h.t.Helper()
	got := runLine(h.t, "", append([]string{"--socket", h.socket(), "-o", "json"}, args...)...)
	if got.status != exitOK {
		h.t.Fatalf("ip6d %s: %+v", strings.Join(args, " "), got)
	}
	if err := json.Unmarshal([]byte(got.stdout), answer); err != nil {
		h.t.Fatalf("ip6d %s answers %q: %v", strings.Join(args, " "), got.stdout, err)
	}
}

func (h *testHost) drops() map[string]uint64 {
	h.t.Helper()
	var s statusAnswer
	h.run(&s, "status")
	return s.Drops
}

func (h *testHost) eventually(what string, f func() bool) {
	h.t.Helper()
	deadline := time.After(patience)
	for !f() {
		select {
		case <-deadline:
			h.t.Fatalf("%s: not within %v", what, patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// device reports whether the host has a device of that name.
func (h *testHost) device(name string) bool {
	h.t.Helper()
	err := h.ns.Do(func() error {
		_, err := netlink.LinkByName(name)
		return err
	})
	if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
		h.t.Fatal(err)
	}
	return err == nil
}

// testMachine is a machine with a namespace and a port.
type testMachine struct {
	*testHost
	name   string
	ns     *netns.Namespace
	stable netip.Addr
	device string
	conn   *net.UDPConn
}

// echoPort is where each machine listens.
const echoPort = 7

// path is how the daemon finds the machine's namespace.
func (m *testMachine) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.ns.FD()) }

// machine makes a machine, attaches it, and has it listen.
func (h *testHost) machine(name string, network int) *testMachine {
	h.t.Helper()
	m := &testMachine{testHost: h, name: name, ns: newNamespace(h.t)}
	var a machineAnswer
	h.run(&a, "machine", "create", name, "--network", fmt.Sprint(network))
	h.run(&a, "machine", "attach", name, "--netns", m.path())
	m.stable, m.device = netip.MustParseAddr(a.Stable), a.Port.Device
	err := m.ns.Do(func() (err error) {
		m.conn, err = net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.AddrPortFrom(m.stable, echoPort)))
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { m.conn.Close() })
	return m
}

// send sends one packet to another machine.
func (m *testMachine) send(to *testMachine, text string) {
	m.t.Helper()
	if _, err := m.conn.WriteToUDPAddrPort([]byte(text), netip.AddrPortFrom(to.stable, echoPort)); err != nil {
		m.t.Fatalf("%s sends to %s: %v", m.name, to.name, err)
	}
}

// receive returns the next packet and who sent it; none within d is the empty text.
func (m *testMachine) receive(d time.Duration) (string, netip.Addr) {
	m.t.Helper()
	buffer := make([]byte, 100)
	if err := m.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		m.t.Fatal(err)
	}
	n, from, err := m.conn.ReadFromUDPAddrPort(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", netip.Addr{}
	}
	if err != nil {
		m.t.Fatalf("%s receives: %v", m.name, err)
	}
	return string(buffer[:n]), from.Addr()
}

// meets sends until a packet arrives, which is when both have found their gateway, and drains what else is on its way.
func (m *testMachine) meets(to *testMachine) {
	m.t.Helper()
	last := ""
	for i := 0; last == ""; i++ {
		m.send(to, fmt.Sprintf("hello %d", i))
		last, _ = to.receive(100 * time.Millisecond)
		if i > int(patience/(100*time.Millisecond)) {
			m.t.Fatalf("nothing from %s reaches %s; dropped: %v", m.name, to.name, m.drops())
		}
	}
	m.send(to, "end")
	m.eventually("the last packet arrives", func() bool {
		text, _ := to.receive(patience)
		return text == "end"
	})
}

// passes sends one packet that must arrive as it is, from the machine's stable address.
func (m *testMachine) passes(to *testMachine, text string) {
	m.t.Helper()
	m.send(to, text)
	got, from := to.receive(patience)
	if got != text || from != m.stable {
		m.t.Fatalf("%s sent %q to %s, which got %q from %v", m.name, text, to.name, got, from)
	}
}
