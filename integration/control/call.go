package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/host/netns"
	"ip6d/integration/bench/bpffs"
	"ip6d/nat"
)

// Keys of calls per second.
const (
	callOurs    = "api_creates_per_s"
	callNothing = "api_nothing_per_s"
)

// call measures creates through the socket of a daemon beside the same calls, answered by a process that does nothing else.
func (b *bench) call(ctx context.Context) (err error) {
	var c closers
	defer func() { err = errors.Join(err, c.close()) }()
	dir, err := os.MkdirTemp("", "ip6d-bench-") // the path of a socket must be short
	if err != nil {
		return err
	}
	c.add(func() error { return os.RemoveAll(dir) })
	daemon, nothing := filepath.Join(dir, "ip6d.sock"), filepath.Join(dir, "nothing.sock")
	if err := b.startDaemon(daemon, &c); err != nil {
		return err
	}
	if err := start(exec.Command("/proc/self/exe", answerNothing, nothing), (*exec.Cmd).Start, &c); err != nil {
		return err
	}
	var number atomic.Int64
	through := func(socket string) (func(context.Context, int) error, error) {
		clients := make([]*api.Client, callers)
		for i := range clients {
			clients[i] = api.NewClient(socket)
			c.add(func() error { clients[i].Close(); return nil })
		}
		create := func(ctx context.Context, caller int) error {
			request := &ip6dv1.CreateMachineRequest{Name: fmt.Sprintf("machine-%d", number.Add(1)), Network: uint32(network)}
			for {
				_, err := clients[caller%callers].Machines.CreateMachine(ctx, connect.NewRequest(request))
				if connect.CodeOf(err) != connect.CodeResourceExhausted { // the next block is being leased
					return err
				}
			}
		}
		return create, answers(ctx, clients[0])
	}
	ours, err := through(daemon)
	if err != nil {
		return err
	}
	theirs, err := through(nothing)
	if err != nil {
		return err
	}
	if _, err := times(ctx, b.given, callers, ours); err != nil {
		return err
	}
	return b.interleave(ctx, []turn{
		{callOurs, func(ctx context.Context) (float64, error) { return b.rate(ctx, callers, ours) }},
		{callNothing, func(ctx context.Context) (float64, error) { return b.rate(ctx, callers, theirs) }},
	})
}

// startDaemon starts ip6d in a namespace of its own, standalone: the store has no part in a create.
func (b *bench) startDaemon(socket string, c *closers) error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	c.add(ns.Close)
	pins, err := bpffs.New()
	if err != nil {
		return err
	}
	c.add(pins.Close)
	binary, err := filepath.Abs(filepath.Join(b.bin, "ip6d"))
	if err != nil {
		return err
	}
	const inherited = "/proc/self/fd/3" // the first of ExtraFiles
	cmd := exec.Command(binary, "serve", "--name", "bench", "--identity", "bench", "--socket", socket,
		"--state-dir", filepath.Join(b.dir, "daemon"), "--bpf-dir", inherited+"/ip6d", "--log-level", "error",
		"--sizes-machines", fmt.Sprint(nat.MaxMachines), "--sizes-blocks", "8192")
	cmd.ExtraFiles = []*os.File{pins.File()}
	cmd.Stderr = os.Stderr
	return start(cmd, ns.Start, c)
}

// start starts a process that is killed with this one, or by a closer.
func start(cmd *exec.Cmd, begin func(*exec.Cmd) error, c *closers) error {
	cmd.SysProcAttr = &unix.SysProcAttr{}
	if err := begin(cmd); err != nil {
		return err
	}
	c.add(func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // that it was killed is known
		return err
	})
	return nil
}

// answers waits until a server answers a create.
func answers(ctx context.Context, client *api.Client) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		_, err := client.Machines.CreateMachine(ctx, connect.NewRequest(&ip6dv1.CreateMachineRequest{Name: "first", Network: uint32(network)}))
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// answerNothing is the argument that has this program answer calls on a socket without doing anything.
const answerNothing = "answer-nothing"

// nothing answers a create as the daemon does.
type nothing struct {
	ip6dv1connect.UnimplementedMachineServiceHandler
	machine *ip6dv1.Machine
}

func (n nothing) CreateMachine(context.Context, *connect.Request[ip6dv1.CreateMachineRequest]) (*connect.Response[ip6dv1.CreateMachineResponse], error) {
	return connect.NewResponse(&ip6dv1.CreateMachineResponse{Machine: n.machine}), nil
}

func serveNothing(socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	stable, err := addr.DefaultPlan.Stable(network, cell, 1)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewMachineServiceHandler(nothing{machine: &ip6dv1.Machine{Name: "machine-1", Network: uint32(network), Stable: stable.String(), Epoch: 1, Host: 1}}))
	return api.NewServer(mux, slog.New(slog.DiscardHandler)).Serve(l)
}
