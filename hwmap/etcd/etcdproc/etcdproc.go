// Package etcdproc runs a single etcd server as a process, for the tests and the lab. A fleet's own etcd is no business of
// ip6d.
//
// Start is for tests: an address of its own on loopback, and the server dies with this process. Command and WaitReady are
// for who starts processes in another way, as the lab does in a namespace.
package etcdproc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"ip6d/certificate"
)

// ErrNoBinary means that bin/etcd is not there.
var ErrNoBinary = errors.New("etcd binary is missing")

// Options says what to run, and where.
type Options struct {
	// Binary is the path of the etcd server. See FindBinary.
	Binary string

	// Dir holds its data. It is created, and may hold those of an earlier run.
	Dir string

	// Listen is where clients reach it. The zero Listen: an address of its own on loopback (Start only).
	Listen netip.AddrPort

	// Files makes it speak TLS, with clients that have a certificate of the same authority. The zero Paths: plain.
	Files certificate.Paths

	// Log takes what it prints. nil: nowhere.
	Log io.Writer

	// Durable makes it sync its data to the disk. Tests go without: they kill the process, not the machine.
	Durable bool

	// Args are more flags.
	Args []string
}

// FindBinary returns the path of bin/etcd in the root of this repository, seen from a test. Error: ErrNoBinary.
func FindBinary() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		binary := filepath.Join(at, "bin", "etcd")
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			if _, err := os.Stat(binary); err == nil {
				return binary, nil
			}
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%w: no bin/etcd above %s; run make", ErrNoBinary, dir)
		}
	}
}

// Command returns the command that runs the server on o.Listen. It has not been started.
func Command(o Options) *exec.Cmd {
	// A single server never talks to itself as a peer, so that port may be any that is free, and the name it gives as its
	// own need not be right.
	peer := netip.AddrPortFrom(o.Listen.Addr(), 0)
	url := o.scheme() + o.Listen.String()
	args := []string{
		"--name=ip6d",
		"--data-dir=" + o.Dir,
		"--listen-client-urls=" + url,
		"--advertise-client-urls=" + url,
		"--listen-peer-urls=http://" + peer.String(),
		"--initial-advertise-peer-urls=http://127.0.0.1:1",
		"--initial-cluster=ip6d=http://127.0.0.1:1",
		"--log-level=warn",
	}
	if o.Files != (certificate.Paths{}) {
		args = append(args, "--cert-file="+o.Files.Certificate, "--key-file="+o.Files.Key, "--trusted-ca-file="+o.Files.Authorities, "--client-cert-auth")
	}
	if !o.Durable {
		args = append(args, "--unsafe-no-fsync")
	}
	cmd := exec.Command(o.Binary, append(args, o.Args...)...)
	cmd.Stdout, cmd.Stderr = o.Log, o.Log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // ETCD_... variables would be settings too
	return cmd
}

func (o Options) scheme() string {
	if o.Files != (certificate.Paths{}) {
		return "https://"
	}
	return "http://"
}

// WaitReady waits until the server at the address answers reads and writes, from the network namespace of this thread.
func WaitReady(ctx context.Context, at netip.AddrPort) error {
	return Options{Listen: at}.waitReady(ctx)
}

func (o Options) waitReady(ctx context.Context) error {
	at := o.Listen
	transport := &http.Transport{DisableKeepAlives: true}
	if o.Files != (certificate.Paths{}) {
		files, err := certificate.Open(o.Files, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		transport.TLSClientConfig = files.Client()
	}
	client := http.Client{Timeout: 2 * time.Second, Transport: transport}
	for {
		err := ready(ctx, &client, o.scheme()+at.String()+"/health")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for etcd at %s: %w (%w)", at, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ready(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("health: %s", resp.Status)
	}
	return nil
}

// Server is a running server. Its methods are for one goroutine at a time.
type Server struct {
	o      Options
	output *output
	run    *run // nil while stopped
}

// Start starts a server and waits until it is ready. The caller must Stop it; should this process die first, the kernel
// kills the server.
func Start(ctx context.Context, o Options) (*Server, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	chosen := o.Listen.IsValid()
	for attempt := 0; ; attempt++ {
		if !chosen {
			o.Listen = freeAddress()
		}
		s := &Server{o: o, output: &output{to: o.Log}}
		err := s.Start(ctx)
		if err == nil {
			return s, nil
		}
		if taken := strings.Contains(s.output.String(), "address already in use"); chosen || !taken || attempt == 10 {
			return nil, err
		}
	}
}

// freeAddress returns an address that hardly anybody else has: all of 127.0.0.0/8 is loopback (RFC 1122 section 3.2.1.3),
// and the ports are below those that the kernel gives to clients.
func freeAddress() netip.AddrPort {
	n := rand.Uint32()
	addr := netip.AddrFrom4([4]byte{127, 1 + byte(n>>16)%254, byte(n >> 8), 1 + byte(n)%254})
	return netip.AddrPortFrom(addr, uint16(20000+rand.IntN(10000)))
}

// Endpoint is what clients connect to.
func (s *Server) Endpoint() string { return s.o.scheme() + s.o.Listen.String() }

// Dir holds the server's data.
func (s *Server) Dir() string { return s.o.Dir }

// Start starts a stopped server again, on the same address and data.
func (s *Server) Start(ctx context.Context) error {
	if s.run != nil {
		return errors.New("start etcd: it runs already")
	}
	if _, err := os.Stat(s.o.Binary); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("start etcd: %w: %s; run make", ErrNoBinary, s.o.Binary)
	}
	s.output.reset()
	o := s.o
	o.Log = s.output
	r, err := start(Command(o))
	if err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(r.exited, func() { cancel(errors.New("it exited")) })
	defer stop()
	if err := o.waitReady(ctx); err != nil {
		r.kill()
		return fmt.Errorf("start etcd: %w: %w; it said:\n%s", err, context.Cause(ctx), s.output)
	}
	s.run = r
	return nil
}

// Stop kills the server, as a crash would. Stopping a stopped one does nothing.
func (s *Server) Stop() {
	if s.run != nil {
		s.run.kill()
		s.run = nil
	}
}

// Pause stops the server from running, as a machine that hangs. Its connections stay. When Pause returns, it has stopped.
func (s *Server) Pause(ctx context.Context) error {
	if err := s.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	// Each thread stops when it gets to it, and might answer something before.
	for {
		stopped, err := s.run.stopped()
		if stopped || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("pause etcd: %w", ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// Resume ends a Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	if s.run == nil {
		return errors.New("signal etcd: it is not running")
	}
	return s.run.process.Signal(sig)
}

// run is one life of the process.
type run struct {
	process *os.Process
	exited  context.Context // ends when it has exited
}

// start starts cmd so that the kernel kills it when this process dies. The kernel does that when the thread dies that
// started it (prctl(2), PR_SET_PDEATHSIG), so that thread does nothing else and waits for it.
func start(cmd *exec.Cmd) (*run, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	exited, exit := context.WithCancel(context.Background())
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer exit()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // that it was killed is what is wanted
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return &run{cmd.Process, exited}, nil
}

func (r *run) kill() {
	// An error says that it has exited already. SIGKILL ends a paused process too.
	_ = r.process.Kill()
	<-r.exited.Done()
}

// stopped reports whether all threads are in the state T of proc(5), stopped by a signal.
func (r *run) stopped() (bool, error) {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", r.process.Pid))
	if err != nil {
		return false, err
	}
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // a thread that ended just now
		}
		if err != nil {
			return false, err
		}
		// The state follows the command, which is in parentheses.
		if _, state, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(state, "T") {
			return false, nil
		}
	}
	return len(stats) > 0, nil
}

// output keeps the end of what the server says, for an error message.
type output struct {
	to io.Writer

	mu  sync.Mutex // guards end
	end []byte
}

const outputKept = 4096

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	o.end = append(o.end, p...)
	o.end = o.end[max(0, len(o.end)-outputKept):]
	o.mu.Unlock()
	if o.to == nil {
		return len(p), nil
	}
	return o.to.Write(p)
}

func (o *output) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end = nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.end)
}
