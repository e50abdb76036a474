package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// members is how many servers the store has: it goes on without one.
const members = 3

// member is a server of the store.
type member struct {
	space *space
	dir   string
	run   func() *exec.Cmd

	mu      sync.Mutex // guards process
	process *process   // nil: it is down
}

// store is the fleet's etcd cluster.
type store struct {
	network *network
	members []*member
	client  *clientv3.Client // of this process, from the switch
}

func memberAddress(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 66, 1, byte(n)}) }

// newStore starts the cluster and waits until it answers.
func newStore(ctx context.Context, n *network, binary, dir string) (*store, error) {
	s := &store{network: n}
	var cluster, endpoints []string
	for i := range members {
		cluster = append(cluster, fmt.Sprintf("member%d=http://%s:2380", i+1, memberAddress(i+1)))
		endpoints = append(endpoints, fmt.Sprintf("http://%s:2379", memberAddress(i+1)))
	}
	for i := range members {
		m, err := newMember(n, fmt.Sprintf("member%d", i+1), memberAddress(i+1), dir, binary, strings.Join(cluster, ","))
		if err != nil {
			return nil, err
		}
		s.members = append(s.members, m)
		if err := m.start(); err != nil {
			return nil, err
		}
	}
	var err error
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints: endpoints, Logger: zap.NewNop(), DialTimeout: 3 * time.Second,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return n.dial(ctx, address)
		})},
	})
	if err != nil {
		return nil, err
	}
	for {
		err := s.healthy(ctx)
		if err == nil {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the store: %w (%w)", ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func newMember(n *network, name string, address netip.Addr, dir, binary, cluster string) (*member, error) {
	space, err := n.add(name, address)
	if err != nil {
		return nil, err
	}
	m := &member{space: space, dir: filepath.Join(dir, name)}
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	m.run = func() *exec.Cmd {
		clients, peers := fmt.Sprintf("http://%s:2379", address), fmt.Sprintf("http://%s:2380", address)
		cmd := exec.Command(binary, "--name="+name, "--data-dir="+m.dir,
			"--listen-client-urls="+clients, "--advertise-client-urls="+clients,
			"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers, "--initial-cluster="+cluster,
			// Members are killed, the computer is not.
			"--unsafe-no-fsync", "--log-level=warn")
		cmd.Stdout, cmd.Stderr = log, log
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // ETCD_... variables would be settings too
		return cmd
	}
	return m, nil
}

// start starts the member on the data that it has, if it is down.
func (m *member) start() (err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		m.process, err = m.space.start(m.run())
	}
	return err
}

// running calls f with the member's process, if it is up.
func (m *member) running(f func(*process)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		f(m.process)
	}
}

// kill ends the member, if it is up.
func (m *member) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		m.process.kill()
		m.process = nil
	}
}

// endpoints are where clients find the members.
func (s *store) endpoints() []string { return s.client.Endpoints() }

// healthy asks each member whether it reads and writes.
func (s *store) healthy(ctx context.Context) error {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return s.network.dial(ctx, address)
		},
	}}
	for _, e := range s.endpoints() {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, e+"/health", nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(r)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", e, answer.Status)
		}
	}
	return nil
}

func (s *store) close() {
	_ = s.client.Close() // its calls were ended, which is an error to it
	for _, m := range s.members {
		m.kill()
	}
}
