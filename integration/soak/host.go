package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"ip6d/addr"
	"ip6d/api"
	"ip6d/integration/soak/failpoint"
	"ip6d/integration/soak/kernel"
)

const peerPort = 6446

func hostAddress(h addr.Host) netip.Addr { return netip.AddrFrom4([4]byte{10, 66, 2, byte(h)}) }

// host is a host of the fleet: what survives its daemon, and the daemon that is run again whenever it ends.
type host struct {
	*soak
	id     addr.Host
	space  *space
	kernel *kernel.Kernel
	dir    string
	client *api.Client
	log    *os.File
	lives  *rand.Rand // decides how each life of the daemon ends

	use sync.RWMutex // held for reading by who asks the host, for writing while it is lost

	mu      sync.Mutex // guards all below
	process *process   // nil: it is down
	reboot  bool       // the kernel is to lose everything before the next life
	killed  bool       // the process was killed from here
	calm    bool       // no failpoints
	held    bool       // the daemon is not to be run
	said    string     // the last line of the daemon
}

func (s *soak) newHost(id addr.Host) (*host, error) {
	h := &host{soak: s, id: id, dir: filepath.Join(s.dir, fmt.Sprintf("host%d", id)), kernel: kernel.New(id, s.rules.wrote), lives: s.random(streamLives + uint64(id)), calm: true}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if h.space, err = s.network.add(fmt.Sprintf("host%d", id), hostAddress(id)); err != nil {
		return nil, err
	}
	if h.log, err = os.OpenFile(h.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, err
	}
	h.client = api.NewClient(h.socket())
	return h, nil
}

func (h *host) socket() string { return filepath.Join(h.dir, "ip6d.sock") }

func (h *host) settings() kernel.Settings {
	return kernel.Settings{
		Host: h.id, Address: netip.AddrPortFrom(hostAddress(h.id), peerPort), Dir: h.dir,
		Socket: h.socket(), Kernel: filepath.Join(h.dir, "kernel.sock"), Endpoints: h.store.endpoints(), Quarantine: quarantine,
	}
}

// keepRunning runs the daemon, life after life, until ctx ends.
func (h *host) keepRunning(ctx context.Context) error {
	for ctx.Err() == nil {
		if !h.isHeld() {
			if err := h.live(ctx); err != nil {
				return fmt.Errorf("host %d: %w", h.id, err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(h.lives.IntN(1000)) * time.Millisecond):
		}
	}
	return nil
}

// The failpoints at which nobody dies: a transaction is committed, and its answer is lost; or the call fails, and the
// transaction comes to the store some time later.
const (
	lostAnswer  = "etcd.storeAnswerLost"
	lateRequest = "etcd.storeRequestLate"
)

// arm chooses what happens in the next life, in gofail's words: at which failpoint it ends, when that is passed for the nth
// time, if it lasts that long; at which it takes a nap; and which transactions come to the store late, or without answer.
func (h *host) arm() string {
	r := h.lives
	nth := func() int { return 1 + r.IntN(1<<(1+r.IntN(5))) }
	point := func() string { return h.failpoints[r.IntN(len(h.failpoints))] }
	terms := []string{fmt.Sprintf("%s=%d*off->1*panic", point(), nth())}
	if r.IntN(10) >= 7 {
		terms = nil // this life ends in another way
	}
	if nap := fmt.Sprintf("%s=%d*off->1*sleep(%d)", point(), nth(), 1+r.IntN(1<<(4+r.IntN(8)))); r.IntN(2) == 0 {
		terms = append(terms, nap)
	}
	lost, late := lostAnswer+"=", lateRequest+"="
	doubts, choice := 4, r.IntN(4)
	if h.Doubt {
		doubts, choice, nth = 50, 1+r.IntN(2), func() int { return 1 + r.IntN(6) }
	}
	for n := range doubts {
		if n > 0 {
			lost, late = lost+"->", late+"->"
		}
		lost += fmt.Sprintf("%d*off->1*return", nth())
		late += fmt.Sprintf("%d*off->1*return(%d)", nth(), 1+r.IntN(1<<(4+r.IntN(9))))
	}
	switch choice {
	case 0, 1:
		terms = append(terms, lost)
	case 2:
		terms = append(terms, late)
	}
	return strings.Join(terms, ";")
}

// live is one life of the daemon, from its start to its end.
func (h *host) live(ctx context.Context) error {
	settings := h.settings()
	text, err := json.Marshal(settings)
	if err != nil {
		return err
	}
	_ = os.Remove(settings.Kernel)
	l, err := net.Listen("unix", settings.Kernel)
	if err != nil {
		return err
	}
	var serving sync.WaitGroup
	defer serving.Wait() // nothing of this life happens in the next
	defer l.Close()
	serving.Go(func() {
		if conn, err := l.Accept(); err == nil {
			h.kernel.Serve(conn)
		}
	})
	cmd := exec.Command(h.binary)
	armed := h.arm()
	h.mu.Lock()
	if h.reboot {
		h.kernel.Reboot()
	}
	if h.calm {
		armed = ""
	}
	h.reboot, h.killed, h.said = false, false, ""
	h.mu.Unlock()
	cmd.Env = []string{kernel.SettingsEnv + "=" + string(text), "GOFAIL_FAILPOINTS=" + armed}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = in, in
	p, err := h.space.start(cmd)
	if err := errors.Join(err, in.Close()); err != nil {
		return err
	}
	h.mu.Lock()
	h.process = p
	h.mu.Unlock()
	stop := context.AfterFunc(ctx, h.kill)
	defer stop()
	h.read(out) // until it has ended
	<-p.exited
	h.ended(ctx)
	return nil
}

// read keeps what the daemon says, until it has ended.
func (h *host) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Fprintln(h.log, lines.Text())
		h.mu.Lock()
		h.said = lines.Text()
		h.mu.Unlock()
		h.judgeLine(lines.Text())
	}
}

// claimed is what a daemon says that finds a machine of its own in other hands, as one does that is back from the dead.
const claimed = "another host owns a machine"

// isLost reports whether the host is lost, or not yet taken back.
func (h *host) isLost() bool {
	if !h.use.TryRLock() {
		return true
	}
	h.use.RUnlock()
	return false
}

// judgeLine looks for what a daemon says when it has lost its way.
func (h *host) judgeLine(line string) {
	for _, bad := range []string{"panic:", "DATA RACE", "needs an operator", claimed, "old copy", "suspect"} {
		if strings.Contains(line, bad) && !(bad == claimed && h.isLost()) {
			h.rules.violate(ruleDaemon, "host %d said: %s", h.id, line)
		}
	}
}

// ended accounts for the end of a life.
func (h *host) ended(ctx context.Context) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.process = nil
	point, atFailpoint := strings.CutPrefix(h.said, failpoint.Prefix)
	switch {
	case atFailpoint:
		h.count(h.killsByFailpoint, point)
	case h.killed || ctx.Err() != nil:
	case strings.HasPrefix(h.said, "daemon:") && strings.Contains(h.said, "store unreachable"), strings.Contains(h.said, "outcome unknown"):
		h.count(h.faultsByKind, "start without the store") // of a host that never joined: it is tried again
	default:
		h.rules.note(ruleDaemon, "the daemon of host %d ended by itself; it said last: %s", h.id, h.said)
	}
	fmt.Fprintln(h.log, "-- ended")
}

// running calls f with the daemon's process, if it is up.
func (h *host) running(f func(*process)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.process != nil {
		f(h.process)
	}
}

// kill ends the daemon by SIGKILL, if it is up.
func (h *host) kill() {
	h.running(func(p *process) {
		h.killed = true
		_ = p.Process.Kill() // an error means that it has ended already
	})
}

// rebootHost kills the daemon, and what its kernel holds is lost.
func (h *host) rebootHost() {
	h.mu.Lock()
	h.reboot = true
	h.mu.Unlock()
	h.kill()
}

// hold keeps the daemon down, or lets it run again.
func (h *host) hold(held bool) {
	h.mu.Lock()
	h.held = held
	h.mu.Unlock()
	if held {
		h.kill()
	}
}

func (h *host) isHeld() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.held
}

// setCalm begins or ends the failpoints. Whoever lives otherwise is killed.
func (h *host) setCalm(calm bool) {
	h.mu.Lock()
	h.calm = calm
	h.mu.Unlock()
	h.kill()
}

// databases asks the daemon what is in its files.
func (h *host) databases(ctx context.Context) (kernel.Databases, error) {
	var d kernel.Databases
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", h.socket())
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://ip6d"+kernel.DatabasesPath, nil)
	if err != nil {
		return d, err
	}
	answer, err := client.Do(r)
	if err != nil {
		return d, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return d, fmt.Errorf("ask host %d for its databases: %s", h.id, answer.Status)
	}
	return d, json.NewDecoder(answer.Body).Decode(&d)
}
