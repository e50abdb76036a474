package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"connectrpc.com/connect"
	"go.yaml.in/yaml/v3"

	"ip6d/addr"
	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/config"
)

// hostDevice is the name of each host's device on the switch.
const hostDevice = "eth0"

// Host is a host of the lab: a namespace with a daemon of its own.
type Host struct {
	Number int // from 1; also its hardware id
	Name   string

	lab    *Lab
	space  *space
	client *api.Client
	daemon *Process
}

// addHost makes the host, without its daemon.
func (l *Lab) addHost(number int) error {
	h := &Host{Number: number, Name: fmt.Sprintf("host%d", number), lab: l}
	s, err := l.makeSpace(h.Name)
	if err != nil {
		return err
	}
	h.space = s
	h.client = api.NewClient(h.Socket())
	l.hosts = append(l.hosts, h)
	if err := l.connect(h); err != nil {
		return err
	}
	if err := os.MkdirAll(h.directory(), 0o700); err != nil {
		return err
	}
	text, err := yaml.Marshal(h.config())
	if err != nil {
		return err
	}
	return os.WriteFile(h.configPath(), text, 0o600)
}

// ID is the host's hardware id.
func (h *Host) ID() addr.Host { return addr.Host(h.Number) }

// Client talks to the host's daemon.
func (h *Host) Client() *api.Client { return h.client }

// Socket is the path of the daemon's unix socket.
func (h *Host) Socket() string { return filepath.Join(h.directory(), "ip6d.sock") }

// Log is the path of the daemon's log.
func (h *Host) Log() string { return filepath.Join(h.lab.o.directory(), h.Name+".log") }

// Namespace is the name of the host's network namespace, as `ip netns` knows it.
func (h *Host) Namespace() string { return h.lab.o.namespace(h.Name) }

// Pins is the directory in the lab's BPF file system where the host's datapath is pinned.
func (h *Host) Pins() string { return filepath.Join(h.lab.o.bpfDirectory(), h.Name) }

// Do runs f in the host's network namespace; see netns.Namespace.Do.
func (h *Host) Do(f func() error) error { return h.space.ns.Do(f) }

func (h *Host) directory() string  { return filepath.Join(h.lab.o.directory(), h.Name) }
func (h *Host) configPath() string { return filepath.Join(h.directory(), "ip6d.yaml") }

// machinesMap is the path of the pinned map of the machines that are on this host, coming or leaving.
func (h *Host) machinesMap() string { return filepath.Join(h.Pins(), "maps", "machines") }

func (h *Host) config() config.File {
	return config.File{
		Host:     fmt.Sprint(h.Number),
		Name:     h.Name,
		Identity: h.lab.o.namespace(h.Name), // all hosts of a lab share the computer's machine id
		Cell:     "1",
		StateDir: filepath.Join(h.directory(), "state"),
		Socket:   h.Socket(),
		BPFDir:   h.Pins(),
		Underlay: h.underlay(),
		Store:    config.Store{Endpoints: []string{"http://" + storeAddress().String()}, Cluster: h.lab.o.Name},
	}
}

func (h *Host) underlay() config.Underlay {
	if h.lab.o.Underlay == UnderlayWireGuard {
		endpoint := netip.AddrPortFrom(underlayAddress(h.Number), wireGuardPort)
		return config.Underlay{Type: UnderlayWireGuard, Device: h.UnderlayDevice(), Endpoint: endpoint.String()}
	}
	return config.Underlay{Device: hostDevice, Address: underlayAddress(h.Number).String()}
}

// UnderlayDevice is the name of the device that carries routing addresses.
func (h *Host) UnderlayDevice() string {
	if h.lab.o.Underlay == UnderlayWireGuard {
		return h.lab.o.wireGuardDevice(h.Number)
	}
	return hostDevice
}

// StartDaemon starts the daemon and waits until it follows the store.
func (h *Host) StartDaemon(ctx context.Context) error {
	return h.StartDaemonUntil(ctx, func(s *ip6dv1.GetStatusResponse) error {
		if !s.Following {
			return fmt.Errorf("it does not follow the store: %s", s.StoreError)
		}
		return nil
	})
}

// StartDaemonUntil starts the daemon and waits until it answers, and ready returns nil. Errors: ErrEnded.
func (h *Host) StartDaemonUntil(ctx context.Context, ready func(*ip6dv1.GetStatusResponse) error) error {
	cmd := exec.Command(h.lab.o.Binary, "serve", "--config", h.configPath())
	p, err := h.lab.o.start(h.Name, h.space.ns, cmd)
	if err != nil {
		return err
	}
	h.daemon = p
	return p.wait(ctx, func(ctx context.Context) error {
		s, err := h.Status(ctx)
		if err != nil {
			return err
		}
		return ready(s)
	})
}

// KillDaemon ends the daemon with SIGKILL, as a crash would.
func (h *Host) KillDaemon() error { return h.daemon.Kill() }

// Status asks the daemon.
func (h *Host) Status(ctx context.Context) (*ip6dv1.GetStatusResponse, error) {
	answer, err := h.client.Hosts.GetStatus(ctx, connect.NewRequest(&ip6dv1.GetStatusRequest{}))
	if err != nil {
		return nil, fmt.Errorf("ask %s for its status: %w", h.Name, err)
	}
	return answer.Msg, nil
}

// Drops returns how many packets the host has refused, by reason.
func (h *Host) Drops(ctx context.Context) (map[string]uint64, error) {
	s, err := h.Status(ctx)
	if err != nil {
		return nil, err
	}
	drops := make(map[string]uint64)
	for _, d := range s.Drops {
		drops[d.Reason] = d.Packets
	}
	return drops, nil
}

// waitAcquainted waits until the host knows all hosts, and each has a block to issue addresses from.
func (h *Host) waitAcquainted(ctx context.Context, hosts int) error {
	return h.daemon.wait(ctx, func(ctx context.Context) error {
		answer, err := h.client.Hosts.ListHosts(ctx, connect.NewRequest(&ip6dv1.ListHostsRequest{}))
		if err != nil {
			return err
		}
		known := 0
		for _, other := range answer.Msg.Hosts {
			if len(other.Blocks) > 0 {
				known++
			}
		}
		if known < hosts {
			return fmt.Errorf("%s knows %d of %d hosts", h.Name, known, hosts)
		}
		return nil
	})
}

func (h *Host) close() error {
	h.client.Close()
	return nil
}
