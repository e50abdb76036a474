package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/bpf"
)

// GatewayMAC is the MAC of every port on every host, so that what a machine knows about its gateway stays
// right when it moves. It is locally administered; its middle is "ip6d".
func GatewayMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0x69, 0x70, 0x36, 0x64, 0x01} }

// Options are the settings of a Datapath. Plan, Cell, Host and PinDir are needed.
type Options struct {
	Plan addr.Plan
	Cell addr.Cell // of this host's endpoint
	Host addr.Host // this host

	// PinDir is this host's own directory on a mounted BPF file system; Open creates it.
	PinDir string

	// Stack is the ifindex of ip6d0. 0: packets for this host's endpoint are refused.
	Stack int

	// VerifyMAC refuses what comes from a neighbour on the underlay's link in the name of another host than the one
	// that has its MAC. Not for links on which a host sends from several MACs, as some bonds do.
	VerifyMAC bool

	GatewayMAC net.HardwareAddr     // of every port; nil: GatewayMAC()
	Sizes      Sizes                // of the maps
	Monotonic  func() time.Duration // the programs' clock, see clock.go; nil: the kernel's
	Logger     *slog.Logger         // nil: slog.Default()

	hooks func(dir string, p *ebpf.Program) (hooks, error) // nil: kernelHooks
}

// Sizes are the numbers of entries that the maps have room for; 0 stands for the default. All of it is
// allocated at once, so that a move never fails for memory. A size can change from one Open to the next.
type Sizes struct {
	Machines int // machines on this host, at most MaxMachines; default 8192
	Blocks   int // blocks of the fleet: the highest number, and one; default 16384, 2.6 kB each
	Hosts    int // hosts of the fleet, at most MaxHosts; default 16384
}

// Datapath is the translation in the kernel. Its methods are safe for concurrent use.
type Datapath struct {
	plan      addr.Plan
	cell      addr.Cell
	host      addr.Host
	stack     int // ifindex of ip6d0, or 0
	dir       string
	monotonic func() time.Duration
	tick      time.Duration // of that clock
	moved     *ebpf.Memory  // of the maps of these names
	epochs    *ebpf.Memory
	log       *slog.Logger
	names     []string // of drops, by reason
	ways      []string // of programs, by enum way
	objects   bpf.DatapathObjects
	hooks     hooks

	mu     sync.Mutex              // guards reading, comparing and writing an entry as one step, and what follows
	counts map[addr.Block]counts   // of the blocks of this cell that have any
	total  counts                  // of all blocks and cells
	homes  map[addr.Block]struct{} // the blocks that have an entry
	ports  map[int]uint32          // where each device is in `ports`
	slots  map[addr.Host]uint32    // where each host is in `hosts`
	hostAt map[uint32]addr.Host    // slots, the other way round
	dead   map[addr.Host]struct{}  // the hosts that are in `dead`
}

// Open loads the programs. Maps that an earlier process pinned keep their entries, also when this version or its
// sizes ask for other maps, and what it attached is updated to the new programs in place: packets flow all the while.
// The devices are those of the calling thread's network namespace, also later on. An Open that fails leaves behind
// nothing of its own.
//
// Errors: ErrInvalid, ErrKernel, ErrPermission, ErrNoBPFFS, ErrLayout, ErrTaken.
func Open(o Options) (*Datapath, error) {
	spec, err := bpf.LoadDatapath()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	return openSpec(o, spec)
}

// openSpec is Open with other programs and maps.
func openSpec(o Options, spec *ebpf.CollectionSpec) (_ *Datapath, err error) {
	settings, err := o.settings()
	if err != nil {
		return nil, err
	}
	if err := CheckRequirements(o.PinDir); err != nil {
		return nil, err
	}
	names, err := dropNames(spec.Types)
	if err != nil {
		return nil, err
	}
	ways, err := enumNames(spec.Types, "way", "")
	if err != nil {
		return nil, err
	}
	if err := spec.Variables[bpf.DatapathVarOwn].Set(settings); err != nil {
		return nil, fmt.Errorf("set the programs' settings: %w", err)
	}
	o.Sizes.apply(spec)

	d := &Datapath{
		plan:      o.Plan,
		cell:      o.Cell,
		host:      o.Host,
		stack:     o.Stack,
		dir:       o.PinDir,
		monotonic: o.Monotonic,
		log:       o.Logger,
		names:     names,
		ways:      ways,
		counts:    make(map[addr.Block]counts),
		homes:     make(map[addr.Block]struct{}),
		ports:     make(map[int]uint32),
		slots:     make(map[addr.Host]uint32),
		hostAt:    make(map[uint32]addr.Host),
		dead:      make(map[addr.Host]struct{}),
	}
	if d.monotonic == nil {
		d.monotonic = d.readJiffies
	}
	if d.log == nil {
		d.log = slog.Default()
	}
	var undo []func() error
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
		if errors.Is(err, unix.EPERM) && !errors.Is(err, ErrPermission) {
			err = fmt.Errorf("%w: %w; run as root, outside of a user namespace", ErrPermission, err)
		}
	}()

	for _, dir := range []string{"", mapsDir, programsDir, linksDir} {
		made, err := makeDir(filepath.Join(d.dir, dir))
		undo = append(undo, made...)
		if err != nil {
			return nil, err
		}
	}
	maps, made, err := openMaps(spec, filepath.Join(d.dir, mapsDir), d.log)
	undo = append(undo, made...)
	if err != nil {
		return nil, err
	}
	err = spec.LoadAndAssign(&d.objects, &ebpf.CollectionOptions{MapReplacements: maps})
	for _, m := range maps {
		err = errors.Join(err, m.Close()) // LoadAndAssign took clones
	}
	if err != nil {
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	undo = append(undo, d.objects.Close)
	open := o.hooks
	if open == nil {
		open = kernelHooks
	}
	if d.hooks, err = open(d.dir, d.objects.FromMachine); err != nil {
		return nil, err
	}
	undo = append(undo, d.hooks.close)
	if d.stack != 0 { // where every datapath that ran here is attached
		if err := d.hooks.checkTaken(Attachment{fromElsewhere, d.stack}, d.programs()[fromElsewhere]); err != nil {
			return nil, err
		}
	}

	if d.tick, err = readTick(); err != nil {
		return nil, err
	}
	if d.moved, err = d.objects.Moved.Memory(); err != nil {
		return nil, fmt.Errorf("map the memory of %s: %w", bpf.DatapathMapMoved, err)
	}
	if d.epochs, err = d.objects.Epochs.Memory(); err != nil {
		return nil, fmt.Errorf("map the memory of %s: %w", bpf.DatapathMapEpochs, err)
	}
	for _, read := range []func() error{d.readCounts, d.readPorts, d.readSlots, d.readDead} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	made, err = d.pinPrograms()
	undo = append(undo, made...)
	if err != nil {
		return nil, err
	}
	if err := d.updateAttached(); err != nil {
		return nil, err
	}
	if err := removeStrays(spec, filepath.Join(d.dir, mapsDir)); err != nil {
		return nil, err
	}
	return d, nil
}

// Close lets go of the datapath. All of it stays pinned and attached, and packets go on.
func (d *Datapath) Close() error { return errors.Join(d.hooks.close(), d.objects.Close()) }

// Remove takes the datapath out of the kernel: programs are detached, maps are gone with their entries, the pin
// directory too. What machines send afterwards goes to the host's stack, so their ports must be gone or down.
func (d *Datapath) Remove() error {
	return errors.Join(d.hooks.detachAll(), d.Close(), removePins(d.dir))
}

// Remove is the method of the same name for a datapath that nobody holds open, with its devices in the namespace of
// the calling thread. That there is none is no error.
func Remove(pinDir string) error {
	filters, err := newClsact(pinDir)
	if err != nil {
		return err
	}
	// programs first: one without its maps' pins still finds its maps, a map without a program is only litter
	return errors.Join(newTCX(pinDir).detachAll(), filters.detachAll(), filters.close(), removePins(pinDir))
}

func removePins(pinDir string) error {
	var errs []error
	for _, dir := range []string{linksDir, programsDir, mapsDir, ""} {
		dir = filepath.Join(pinDir, dir)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove pins: %w", err))
			continue
		}
		for _, e := range entries {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
		errs = append(errs, os.Remove(dir))
	}
	return errors.Join(errs...)
}

// What is below the pin directory.
const (
	mapsDir     = "maps"     // by name
	programsDir = "programs" // by name, for `bpftool prog` and for comparing with what is attached
	linksDir    = "links"    // PROGRAM-IFINDEX; empty where filters take the place of links
)

// settings checks the options, and returns what the programs need of them.
func (o Options) settings() (s bpf.DatapathSettings, err error) {
	endpoint, err := o.Plan.Endpoint(o.Cell, o.Host)
	if err != nil {
		return s, fmt.Errorf("%w: host or cell: %w", ErrInvalid, err)
	}
	if !filepath.IsAbs(o.PinDir) {
		return s, fmt.Errorf("%w: pin directory %q: must be an absolute path", ErrInvalid, o.PinDir)
	}
	if err := o.Sizes.check(); err != nil {
		return s, err
	}
	mac := o.GatewayMAC
	if mac == nil {
		mac = GatewayMAC()
	}
	if err := checkMAC(mac); err != nil {
		return s, fmt.Errorf("gateway: %w", err)
	}
	s.PortPlaces, s.PortProbes = portPlaces, portProbes
	s.Host = uint32(o.Host)
	s.Cell = uint16(endpoint.Cell())
	s.Stable = firstHextet(o.Plan.StablePrefix())
	s.Routing = firstHextet(o.Plan.RoutingPrefix())
	copy(s.GatewayMac[:], mac)
	if o.VerifyMAC {
		s.VerifyMac = 1
	}
	if o.Stack == 0 {
		return s, nil
	}
	device, err := net.InterfaceByIndex(o.Stack)
	if err != nil {
		return s, fmt.Errorf("%w: stack device %d: %w", ErrInvalid, o.Stack, err)
	}
	if err := checkMAC(device.HardwareAddr); err != nil {
		return s, fmt.Errorf("stack device %s: %w", device.Name, err)
	}
	s.StackIfindex = uint32(o.Stack)
	copy(s.StackMac[:], device.HardwareAddr)
	return s, nil
}
