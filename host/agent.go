package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/addr"
	"ip6d/host/netns"
	"ip6d/nat"
)

// NextHops is what the agent needs of the datapath: the entries of its `hosts` map.
type NextHops interface {
	PutHost(nat.NextHop) error
	DeleteHost(addr.Host) error
	Hosts() ([]nat.NextHop, error)
}

// Options are the settings of an Agent. Plan and Host are needed.
type Options struct {
	Plan addr.Plan
	Host addr.Host // this host

	// Endpoint is this host's own stable address, which ip6d0 is given. Zero: ip6d0 has no address.
	Endpoint addr.Stable

	// Underlay is the name of the device that carries routing addresses: Ethernet, or one without link-layer
	// addresses, with IPv6. Empty: there is none, and no other host.
	Underlay string

	// WireGuard has the agent make and keep that device. nil: it is there.
	WireGuard *WireGuard

	// NextHops may be set later, by SetNextHops: the datapath is loaded after Prepare, which makes its ip6d0.
	NextHops NextHops

	// The daemon's parts in a change: the underlay is another device than the one last told of, ip6d0 is. The first
	// is told by Run or SetHosts, whichever comes first. Both are told again each Interval, as what the daemon attached
	// there may have been taken away. They are called one at a time, must not call the Agent, and may be nil. One that
	// fails is called again until it succeeds.
	OnUnderlay func(ifindex int) error
	OnStack    func(Stack) error

	// OnPort is called before a port is brought up: what a machine sends must find the datapath there, or it would
	// go to the host's stack unchecked. It is called again when the same port is asked for again, and each Interval. It
	// must not call the Agent. May be nil.
	OnPort func(Port, addr.Stable) error

	// OnPortGone is called by Run when the device of a port is gone and RemovePort was not what took it: it was
	// deleted, or its namespace ended. May be nil.
	OnPortGone func(Port)

	// Interval is how often everything is looked at without a cause. A neighbour's MAC is trusted for three times
	// as long. Default 10 s.
	Interval time.Duration

	Logger *slog.Logger // nil: slog.Default()
}

// Agent is the netlink agent of one host.
type Agent struct {
	Options
	ns     *netns.Namespace
	kernel *kernel
	ready  chan struct{} // closed when Run has looked at everything once
	kick   chan struct{} // holds one token when a look is due

	mu         sync.Mutex                     // guards what is below
	stack      Stack                          // as it was last made or found
	stackTold  bool                           // OnStack knows of it
	underlay   underlay                       // as it was last seen
	mesh       []wgtypes.Peer                 // of the WireGuard device, as they were last seen
	told       map[wgtypes.Key]netip.AddrPort // the endpoint that each peer in the mesh was last given
	peers      map[addr.Host]Peer             // SetHosts's; nil: not called yet, so nothing is known to be superfluous
	gateways   map[addr.Host]netip.Addr       // by which each peer is reached
	neighbours map[netip.Addr]neighbour       // on the underlay, by address

	portsMu sync.Mutex   // held while a port is made, changed or removed; guards ports. Never taken with mu held
	ports   map[int]Port // by ifindex
}

// defaultInterval is well below the time in which the kernel gives up on a neighbour that does not answer.
const defaultInterval = 10 * time.Second

// New makes the agent of the network namespace that the caller is in. It changes nothing yet.
// Errors: ErrInvalid, ErrNoDevice and ErrNotUnderlay for the underlay.
func New(o Options) (*Agent, error) {
	if o.Plan == (addr.Plan{}) {
		return nil, fmt.Errorf("%w: the address plan is missing", ErrInvalid)
	}
	if o.Host == 0 {
		return nil, fmt.Errorf("%w: host 0: must be 1 to 4294967295", ErrInvalid)
	}
	if o.Interval < 0 {
		return nil, fmt.Errorf("%w: interval %s: must not be negative", ErrInvalid, o.Interval)
	}
	if o.Interval == 0 {
		o.Interval = defaultInterval
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.WireGuard != nil {
		if err := o.WireGuard.check(o.Underlay); err != nil {
			return nil, err
		}
	}
	ns, err := netns.Current()
	if err != nil {
		return nil, err
	}
	k, err := openKernel(ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	a := &Agent{
		Options: o,
		ns:      ns,
		kernel:  k,
		ready:   make(chan struct{}),
		kick:    make(chan struct{}, 1),
		ports:   make(map[int]Port),
	}
	if o.Underlay != "" && o.WireGuard == nil {
		if err := a.checkUnderlay(); err != nil {
			return nil, errors.Join(err, a.Close())
		}
	}
	return a, nil
}

// SetNextHops sets Options.NextHops. It must be called, where they were not among the options, before SetHosts
// and Run.
func (a *Agent) SetNextHops(n NextHops) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.NextHops = n
}

// Close lets go of the agent, after Run has returned. All that it made stays, and packets go on.
func (a *Agent) Close() error {
	a.kernel.close()
	return a.ns.Close()
}
