package hwmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"ip6d/addr"
	"ip6d/nat"
)

// Datapath is the kernel's maps; nat.Datapath implements it. A write that meets a higher epoch changes nothing and
// returns nat.ErrStale; one that finds no room returns nat.ErrFull. Deleting what is not there succeeds.
type Datapath interface {
	AttachPort(ifindex int, s addr.Stable) error
	DetachPort(ifindex int) error
	// AwaitPacket has what the port's machine sends told, by Map.Sent, or ends that. Without such a port: nat.ErrNotFound.
	AwaitPacket(ifindex int, await bool) error

	PutMachine(nat.Machine) error
	Machine(addr.ID) (nat.Machine, bool, error)
	Machines() ([]nat.Machine, error)
	DeleteMachine(id addr.ID, epoch uint64) error
	// Flip makes a delivering entry one that is away, in one map write. The same again changes nothing.
	Flip(id addr.ID, to addr.Host, epoch uint64) error

	// PutMoved writes all that it can.
	PutMoved(...nat.Moved) error
	DeleteMoved(id addr.ID, epoch uint64) error
	MovedEntries() ([]nat.Moved, error)
	PutBlock(nat.Block) error
	DeleteBlock(addr.Cell, addr.Block) error
	Blocks() ([]nat.Block, error)

	// Witness returns what PutWitness wrote last, since the last reboot.
	Witness() (nat.Witness, error)
	PutWitness(nat.Witness) error

	// PutDead has whatever that host sends refused, DeleteDead undoes it.
	PutDead(addr.Host) error
	DeleteDead(addr.Host) error
	DeadHosts() ([]addr.Host, error)
	// SetFenced stops everything in one map write, or has it go on. It outlives the daemon, and not a reboot.
	SetFenced(bool) error
	Fenced() (bool, error)
}

// Ports makes and finds the devices of machines, which it knows by their stable address.
type Ports interface {
	// Device is the name of the device that Attach would make or take.
	Device(s addr.Stable, spec PortSpec) string
	// Attach makes the port that spec asks for, or takes an existing device. The same again returns the same port. An
	// Attach that fails for the first time leaves nothing behind.
	Attach(s addr.Stable, spec PortSpec) (LocalPort, nat.Port, error)
	// Find returns a port made before, after a restart. The device may be gone, or be another's: the error is then not nil.
	Find(s addr.Stable, p LocalPort) (nat.Port, error)
	// Detach undoes Attach: a device that was made is deleted, another is given back, and is down. It succeeds when the
	// device is gone, or another's.
	Detach(s addr.Stable, p LocalPort) error
	// SetHosts keeps routes and next hops to these hosts, and to no others.
	SetHosts([]Host) error
}

// Peers asks other hosts: it calls Map's methods of the same names there. See the API's PeerService.
// An error in which nobody answered is ErrUnavailable.
type Peers interface {
	Accept(ctx context.Context, target Host, m addr.Machine) error
	Check(ctx context.Context, h Host, m addr.Machine) (PeerView, error)
	Reread(ctx context.Context, h Host, m addr.Machine) error
	Activate(ctx context.Context, source Host, m addr.Machine) error
}

// PeerView is what a host says that it does for a machine.
type PeerView struct {
	Epoch      uint64 // 0: nothing
	Accepted   bool   // incoming
	Ready      bool   // incoming, with a port
	Here       bool   // it is
	Delivering bool   // here, packets go into its port
	Active     bool   // incoming, and it has sent something that was waited for
}

// Options are the settings and surroundings of a Map. All are needed but where it says otherwise.
type Options struct {
	Plan    addr.Plan
	Cell    addr.Cell
	Cluster string // the fleet's name in its store; empty standalone
	Self    Host   // the record to claim; State is set by Open

	Truth Store // this host's own file
	Fleet Store // shared by all hosts; standalone: Truth itself
	Cache Store // optional: the fleet's map as last seen, for a start without the fleet's store

	Witness Witness // optional: beside the truth, of how far that has come

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
	gate       *gate      // what Options.Fleet is, once the Map is made
	truth      *witnessed // what Options.Truth is then
	known      bool       // the truth had an owner when it was opened
	opened     Revision   // of the truth, when it was opened

	// naming and operations serialise what is done about a name and with a machine, across calls to stores and peers. Who
	// needs both takes the name's lock first.
	naming     keyedLocks[string]
	operations keyedLocks[addr.Machine]
	accepting  keyedLocks[struct{}] // held by an operator's word about what is suspect

	// requesting serialises calls of one request; it comes before the others.
	requesting keyedLocks[requestKey]

	unsettled   queue[addr.Machine] // machines whose record is to be read again; see settle.go
	changedHome queue[addr.Block]   // blocks that this host was given, or gave away; see home.go
	active      active              // machines on their way here that send; see activate.go
	hints       queue[hint]         // for other hosts; see hint.go
	astray      *rate.Limiter       // of hints about packets that went astray
	rereads     rereads             // what other hosts' hints ask for; see reread.go
	// leaseWanted asks for a look at the blocks, appliedWanted to publish what is applied, pruneWanted to prune the history,
	// hostNews to write what happened to hosts, followWanted not to wait with the next attempt to follow. Each holds one wish.
	leaseWanted, appliedWanted, pruneWanted, hostNews, followWanted chan struct{}
	appliedLater                                                    bool // appliedWanted is going to be asked for; guarded by mu

	fence fence // of a host that was declared dead

	hintsSent, hintsHeeded atomic.Uint64

	mu        sync.Mutex // guards what follows; never held across a call to a store or a peer
	local     map[addr.Machine]Local
	byName    map[string]addr.Machine // of local machines that hold a name here
	allocator *addr.Allocator
	complete  map[addr.Block]uint64   // blocks that this host was given and has Locals for, at that epoch
	waiting   map[addr.Block]struct{} // blocks of this host that nothing is issued from yet
	fleet     fleetView
	state     HostState // of this host's record, as fleet has or had it
	database  Database  // the truth's record of itself
	vouched   bool      // the fleet's store has nothing against the truth
	history   history
	member    bool // this host has joined the fleet, now or at an earlier start
}

// Open restores the map of this host: the truth and the cache into the kernel's maps, adding only. It then joins the
// fleet; where the store cannot be reached, a host that joined before goes on without.
//
// Errors: ErrNotOwner, ErrClaimed, ErrDisagree, ErrUnavailable (a host's first start), ErrCorrupt, and those of the stores. The kernel's
// maps then stay as they are, and packets go on flowing.
func Open(ctx context.Context, o Options) (*Map, error) {
	m := &Map{
		Options:       o,
		standalone:    o.Fleet == o.Truth,
		gate:          &gate{Store: o.Fleet, why: errNotJoined},
		astray:        rate.NewLimiter(astrayRate, astrayRate),
		leaseWanted:   make(chan struct{}, 1),
		appliedWanted: make(chan struct{}, 1),
		pruneWanted:   make(chan struct{}, 1),
		hostNews:      make(chan struct{}, 1),
		followWanted:  make(chan struct{}, 1),
		local:         make(map[addr.Machine]Local),
		byName:        make(map[string]addr.Machine),
		complete:      make(map[addr.Block]uint64),
		waiting:       make(map[addr.Block]struct{}),
		allocator:     addr.NewAllocator(),
		fleet:         newFleetView(),
		state:         Joined,
		fence:         fence{wanted: make(chan struct{}, 1), silenced: make(map[addr.Machine]struct{})},
		history:       newHistory(),
	}
	m.truth = &witnessed{Store: o.Truth, log: o.Logger, grown: make(chan struct{}, 1)}
	if o.Witness != nil {
		m.truth.witnesses = append(m.truth.witnesses, namedWitness{sideFile, o.Witness})
	}
	m.truth.witnesses = append(m.truth.witnesses, namedWitness{kernelMap, kernelWitness{o.Datapath}})
	if m.standalone {
		m.gate.Store = m.truth
	}
	m.Truth, m.Fleet = m.truth, m.gate
	var err error
	if m.known, err = CheckOwner(ctx, m.Truth, m.Owner()); err != nil {
		return nil, err
	}
	m.member = m.known
	if err := m.checkTruth(ctx); err != nil {
		return nil, fmt.Errorf("compare this host's database with its witnesses: %w", err)
	}
	if err := m.restoreFence(ctx); err != nil {
		return nil, fmt.Errorf("restore what was said of this host: %w", err)
	}
	if err := m.restoreHistory(ctx); err != nil {
		return nil, fmt.Errorf("restore this host's history: %w", err)
	}
	if err := m.restoreCache(ctx); errors.Is(err, nat.ErrFull) {
		m.Logger.Warn("fleet's map not restored whole", "error", err)
	} else if err != nil {
		return nil, fmt.Errorf("restore the fleet's map: %w", err)
	}
	if err := m.askFence(ctx); err != nil {
		return nil, fmt.Errorf("ask what was said of this host: %w", err)
	}
	if err := m.restoreTruth(ctx); err != nil {
		return nil, fmt.Errorf("restore this host's machines: %w", err)
	}
	if err := m.restoreHomes(ctx); err != nil {
		return nil, fmt.Errorf("restore this host's blocks: %w", err)
	}
	_, err = m.catchUp(ctx)
	if errors.Is(err, nat.ErrFull) { // for what this host knows of others; its own machines are better served than not
		m.Logger.Warn("fleet's map not followed, going on with what has room", "error", err)
		m.setFollowing(false, err)
		err = nil
	}
	if err == nil && !m.known { // the store has this host now, so the database is its
		_, err = m.Truth.Commit(ctx, Txn{Then: []Write{{Key: ownerKey, Value: encode(m.Owner())}}})
	}
	if err == nil && m.allocator.Size() == 0 && m.wantsBlock() {
		if err = m.leaseBlock(ctx); errors.Is(err, nat.ErrFull) {
			err = nil // Run tells it, and tries again
		}
	}
	record, joined := m.fleet.hosts[o.Self.ID]
	cutOff := errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInDoubt)
	if cutOff && joined && record.Identity == o.Self.Identity {
		m.Logger.Warn("store unreachable, going on from the cache", "error", err)
		m.setFollowing(false, err)
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if err := m.dropStrayMachines(); err != nil {
		return nil, fmt.Errorf("clean the kernel's maps: %w", err)
	}
	return m, nil
}

// Run follows the fleet's map and settles what changes, until ctx ends; it returns ctx's error. No goroutine of the
// Map outlives it.
func (m *Map) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, task := range []func(context.Context) error{
		m.follow, m.settle, m.deliverHints, m.heedHints, m.keepBlocks, m.keepHomes, m.sweep, m.publishApplied, m.stayAlive,
		m.tellStore, m.keepFence, m.keepHistory, m.tellHosts, m.awaitConfirmed, m.activate,
	} {
		g.Go(func() error { return task(ctx) })
	}
	return g.Wait()
}

// stable returns the stable address of a machine of this cell.
func (m *Map) stable(l Local) (addr.Stable, error) {
	return m.Plan.Stable(l.Network, m.Cell, l.Machine)
}

func (m *Map) id(number addr.Machine) addr.ID { return addr.ID{Cell: m.Cell, Machine: number} }
