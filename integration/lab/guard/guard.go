package guard

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"ip6d/addr"
)

// Options say what to guard.
type Options struct {
	// Machine is the machine's stable address: packets for it are what is counted.
	Machine addr.Stable

	// Ifindex is the machine's end of the port, in the network namespace of the calling goroutine.
	Ifindex int

	// SourceMachines is the path of the pinned `machines` map of the host that the machine comes from. Empty: it comes
	// from nowhere, and Watch opens nothing.
	SourceMachines string
}

// Guard is a guard in its place. It begins closed, and what comes is early.
type Guard struct {
	objects ProgramObjects
	link    link.Link
}

// Counts are packets for the machine's stable address.
type Counts struct {
	Passed Packets
	Early  Packets // dropped: the switchover to this port had not happened
	Late   Packets // dropped: the switchover to another port had been committed
}

// Packets are numbers of packets.
type Packets struct{ UDP, Other uint64 }

// Total is their sum.
func (p Packets) Total() uint64 { return p.UDP + p.Other }

// Add returns the sum of both.
func (c Counts) Add(o Counts) Counts {
	sum := func(a, b Packets) Packets { return Packets{a.UDP + b.UDP, a.Other + b.Other} }
	return Counts{sum(c.Passed, o.Passed), sum(c.Early, o.Early), sum(c.Late, o.Late)}
}

// Attach puts a guard on a port.
func Attach(o Options) (_ *Guard, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("guard port of %s: %w", o.Machine, err)
		}
	}()
	spec, err := LoadProgram()
	if err != nil {
		return nil, err
	}
	id := ProgramMachineId{Machine: uint32(o.Machine.Machine()), Cell: uint16(o.Machine.Cell())}
	stable := ProgramIn6Addr{}
	stable.In6U.U6Addr8 = o.Machine.Addr().As16()
	err = errors.Join(spec.Variables[ProgramVarMachine].Set(id), spec.Variables[ProgramVarStable].Set(stable))
	if err != nil {
		return nil, err
	}
	var with ebpf.CollectionOptions
	if o.SourceMachines != "" {
		m, err := ebpf.LoadPinnedMap(o.SourceMachines, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil, fmt.Errorf("open the source host's map %s: %w", o.SourceMachines, err)
		}
		defer m.Close()
		want := spec.Maps[ProgramMapMachines]
		want.MaxEntries, want.Flags = m.MaxEntries(), m.Flags() // what the source chose
		with.MapReplacements = map[string]*ebpf.Map{ProgramMapMachines: m}
	}
	g := &Guard{}
	if err := spec.LoadAndAssign(&g.objects, &with); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	g.link, err = link.AttachTCX(link.TCXOptions{
		Interface: o.Ifindex,
		Program:   g.objects.Guard,
		Attach:    ebpf.AttachTCXIngress,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("attach: %w", err), g.objects.Close())
	}
	return g, nil
}

// Watch is for just before the switchover to this port is asked for: the guard opens when the source lets go.
func (g *Guard) Watch() error { return g.set(ProgramModeGATE_WATCH) }

// Open is for when this port is the one that the machine listens on.
func (g *Guard) Open() error { return g.set(ProgramModeGATE_OPEN) }

// Shut is for when the switchover to another port has been committed: what comes from then on is late.
func (g *Guard) Shut() error { return g.set(ProgramModeGATE_LATE) }

// ShutEarly is for when the switchover to this port is called off.
func (g *Guard) ShutEarly() error { return g.set(ProgramModeGATE_EARLY) }

func (g *Guard) set(mode ProgramMode) error {
	if err := g.objects.Gate.Set(uint32(mode)); err != nil {
		return fmt.Errorf("set guard: %w", err)
	}
	return nil
}

// Counts are what came so far. They can be read until Close, also after the port has gone.
func (g *Guard) Counts() (Counts, error) {
	var c ProgramCounts
	if err := g.objects.Counts.Get(&c); err != nil {
		return Counts{}, fmt.Errorf("read guard: %w", err)
	}
	packets := func(p [2]uint64) Packets { return Packets{UDP: p[0], Other: p[1]} }
	return Counts{packets(c.Passed), packets(c.Early), packets(c.Late)}, nil
}

// Close takes the guard away.
func (g *Guard) Close() error { return errors.Join(g.link.Close(), g.objects.Close()) }
