package hwmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ip6d/addr"
	"ip6d/nat"
)

// Datapath is the kernel's maps; package nat implements it.
type Datapath interface {
	AttachPort(ifindex int, s addr.Stable) error
	DetachPort(ifindex int) error

	PutMachine(nat.Machine) error
	Machine(addr.ID) (nat.Machine, bool, error)
	Machines() ([]nat.Machine, error)
	DeleteMachine(id addr.ID, epoch uint64) error
	Flip(id addr.ID, to addr.Host, epoch uint64) error // to Away in one map write

	PutMoved(nat.Moved) error
	DeleteMoved(id addr.ID, epoch uint64) error
	MovedEntries() ([]nat.Moved, error)
	PutBlock(nat.Block) error
	DeleteBlock(addr.Cell, addr.Block) error
	Blocks() ([]nat.Block, error)
}

// Ports makes and finds the devices of machines.
type Ports interface {
	// Attach makes the port that spec asks for, or takes an existing device. The same again returns the same port.
	Attach(s addr.Stable, spec PortSpec) (LocalPort, nat.Port, error)
	// Find returns a port made before, after a restart. The device may be gone: the error is then not nil.
	Find(LocalPort) (nat.Port, error)
	// Detach undoes Attach. It succeeds when the device is gone.
	Detach(LocalPort) error
	// SetHosts keeps routes and next hops to these hosts, and to no others.
	SetHosts([]Host) error
}

// Peers asks other hosts. See the API's PeerService.
type Peers interface {
	Accept(ctx context.Context, target Host, m addr.Machine) error
	Check(ctx context.Context, h Host, m addr.Machine) (PeerView, error)
	Reread(ctx context.Context, h Host, m addr.Machine) error
}

// PeerView is what a host says that it does for a machine.
type PeerView struct {
	Epoch      uint64 // 0: nothing
	Ready      bool   // incoming, with a port
	Delivering bool   // here, packets go into its port
}

// Options are the settings and surroundings of a Map. All are needed but where it says otherwise.
type Options struct {
	Plan addr.Plan
	Cell addr.Cell
	Self Host // the record to claim; State is set by Open

	Truth Store // this host's own file
	Fleet Store // shared by all hosts; standalone: Truth itself
	Cache Store // optional: the fleet's map as last seen, for a start without the fleet's store

	Datapath Datapath
	Ports    Ports
	Peers    Peers // optional standalone

	Quarantine time.Duration // before a destroyed machine's id is used again
	Now        func() time.Time
	Logger     *slog.Logger
}

// Map changes the hardware map for one host. Its methods are safe for concurrent use.
type Map struct {
	Options
	standalone bool

	// operations serialises what is done with one machine, across calls to stores and peers.
	operations keyedLocks
	// unsettled are machines whose record is to be read again; see settle.go.
	unsettled queue
	// leaseWanted asks for another block; applyWanted asks to publish what is applied. Each holds one wish.
	leaseWanted, appliedWanted chan struct{}

	mu        sync.Mutex // guards what follows; never held across a call to the fleet's store or a peer
	local     map[addr.Machine]Local
	byName    map[string]addr.Machine // of local machines that hold a name here
	allocator *addr.Allocator
	fleet     fleetView
}

// Open restores the map of this host: the truth and the cache into the kernel's maps, adding only. It then claims the
// host's id in the fleet's store; where the store cannot be reached, a host that joined before goes on without.
// Errors: ErrClaimed, ErrDisagree, ErrUnavailable (a host's first start), and those of the stores.
func Open(ctx context.Context, o Options) (*Map, error) {
	m := &Map{
		Options:       o,
		standalone:    o.Fleet == o.Truth,
		leaseWanted:   make(chan struct{}, 1),
		appliedWanted: make(chan struct{}, 1),
		local:         make(map[addr.Machine]Local),
		byName:        make(map[string]addr.Machine),
		fleet:         newFleetView(),
	}
	m.allocator = addr.NewAllocator(addr.AllocatorOptions{Quarantine: o.Quarantine, Now: o.Now})
	if err := m.restoreCache(ctx); err != nil {
		return nil, fmt.Errorf("restore the fleet's map: %w", err)
	}
	if err := m.restoreTruth(ctx); err != nil {
		return nil, fmt.Errorf("restore this host's machines: %w", err)
	}
	err := m.join(ctx)
	if _, joined := m.fleet.hosts[o.Self.ID]; errors.Is(err, ErrUnavailable) && joined {
		m.Logger.Warn("store unreachable, going on from the cache", "error", err)
		return m, nil
	}
	return m, err
}

// Run follows the fleet's map and settles what changes, until ctx ends.
func (m *Map) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.follow(ctx) })
	g.Go(func() error { return m.settle(ctx) })
	g.Go(func() error { return m.lease(ctx) })
	g.Go(func() error { return m.sweep(ctx) })
	g.Go(func() error { return m.publishApplied(ctx) })
	g.Go(func() error { return m.stayAlive(ctx) })
	return g.Wait()
}

// stable returns the stable address of a machine of this cell.
func (m *Map) stable(l Local) (addr.Stable, error) {
	return m.Plan.Stable(l.Network, m.Cell, l.Machine)
}

func (m *Map) id(number addr.Machine) addr.ID { return addr.ID{Cell: m.Cell, Machine: number} }

// pause waits for d and up to half of it more, so that hosts do not return to a store all at once. It returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d + rand.N(d/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// wish asks for something once, however often it is called before the wish is taken.
func wish(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
