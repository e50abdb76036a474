package nat

import (
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"ip6d/addr"
	"ip6d/bpf"
)

// The map that only an older version has.
const formerMap = "former"

// olderSpec is what could have been an older version: its programs are not the same, its `machines` have epochs of half
// the width (which no program reads), there are fewer `drops`, and a map that is not needed any more.
func olderSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec := must(bpf.LoadDatapath())
	for _, p := range spec.Programs {
		old := &p.Instructions[0]
		first := asm.Mov.Imm(asm.R0, 0).WithSymbol(old.Symbol()).WithSource(old.Source())
		first = btf.WithFuncMetadata(first, btf.FuncMetadata(old))
		*old = btf.WithFuncMetadata(old.WithSymbol(""), nil)
		p.Instructions = append(asm.Instructions{first}, p.Instructions...)
	}
	machine := btf.Copy(spec.Maps[bpf.DatapathMapMachines].Value).(*btf.Struct)
	member(t, machine, "epoch").Type = testU32
	spec.Maps[bpf.DatapathMapMachines].Value = machine
	spec.Maps[bpf.DatapathMapDrops].MaxEntries -= 8
	spec.Maps[formerMap] = &ebpf.MapSpec{Name: formerMap, Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1, Key: testU32, Value: testU32}
	return spec
}

func member(t *testing.T, s *btf.Struct, name string) *btf.Member {
	t.Helper()
	i := slices.IndexFunc(s.Members, func(m btf.Member) bool { return m.Name == name })
	if i < 0 {
		t.Fatalf("%s has no %s", s.Name, name)
	}
	return &s.Members[i]
}

func (n namespace) openSpec(o Options, spec *ebpf.CollectionSpec) *Datapath {
	n.t.Helper()
	var d *Datapath
	n.do(func() (err error) {
		d, err = openSpec(o, spec)
		return err
	})
	n.t.Cleanup(func() { d.Close() })
	return d
}

// pinnedMaps returns the ids of the pinned maps by name.
func pinnedMaps(t *testing.T, o Options) map[string]ebpf.MapID {
	t.Helper()
	ids := make(map[string]ebpf.MapID)
	for _, pin := range must(os.ReadDir(filepath.Join(o.PinDir, mapsDir))) {
		m := must(ebpf.LoadPinnedMap(filepath.Join(o.PinDir, mapsDir, pin.Name()), nil))
		id, _ := must(m.Info()).ID()
		ids[pin.Name()] = id
		ok(t, m.Close())
	}
	return ids
}

// entries are what an upgrade has to keep.
type entries struct {
	Machines []Machine
	Moved    []Moved
	Blocks   []Block
	Hosts    []NextHop
	Drops    map[string]uint64
}

func entriesOf(t *testing.T, d *Datapath) entries {
	t.Helper()
	drops := dropsOf(t, d)
	delete(drops, "multicast") // the devices' own chatter
	return entries{must(d.Machines()), must(d.MovedEntries()), must(d.Blocks()), must(d.Hosts()), drops}
}

// fill writes an entry of each kind, and counts drops on every CPU.
func fill(t *testing.T, d *Datapath) {
	t.Helper()
	machine := here(alice, 7)
	machine.Port = Port{Ifindex: 9, Enter: EnterDevice, MAC: mac(1)}
	ok(t, d.PutMachine(machine))
	ok(t, d.PutBlock(Block{Cell: 1, Block: mover.Machine().Block(), Home: 2}))
	ok(t, d.PutMoved(Moved{ID: mover.ID(), Host: 3, Epoch: 1 << 40}))
	ok(t, d.PutHost(NextHop{Host: 2, Ifindex: 4, Gateway: internet, Source: mac(3), Kind: HopNeighbour}))
	perCPU := make([]uint64, must(ebpf.PossibleCPU()))
	for i := range perCPU {
		perCPU[i] = uint64(i + 1)
	}
	ok(t, d.objects.Drops.Put(uint32(bpf.DatapathDropReasonDROP_ARP), perCPU))
}

func TestKernelKeepsTheLayoutOfEveryMap(t *testing.T) {
	d := open(t, options(pinDir(t)))
	spec := must(bpf.LoadDatapath())
	for name := range pinnedMaps(t, Options{PinDir: d.dir}) {
		m := must(ebpf.LoadPinnedMap(filepath.Join(d.dir, mapsDir, name), nil))
		defer m.Close()
		if diff, err := compare(m, spec.Maps[name]); err != nil || diff.key != nil || diff.value != nil {
			t.Errorf("%s, as just made: %+v, %v", name, diff, err)
		}
		if _, value, err := keptLayouts(m); !forgettable(m.Type()) && (err != nil || value.size != int(m.ValueSize())) {
			t.Errorf("%s: layout %+v, %v", name, value, err)
		}
	}
}

func TestSizesChangeWithARestart(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	fill(t, d)
	want, before := entriesOf(t, d), len(pinnedMaps(t, o))
	ok(t, d.Close())
	for _, sizes := range []Sizes{
		{Machines: 16, Blocks: 18, Hosts: 19},
		{Machines: 1, Blocks: 3, Hosts: 2}, // blocks 0 to 2
	} {
		o.Sizes = sizes
		d = open(t, o)
		if got := entriesOf(t, d); !reflect.DeepEqual(got, want) {
			t.Errorf("sizes %+v: entries are %+v, want %+v", sizes, got, want)
		}
		for m, size := range map[*ebpf.Map]int{
			d.objects.Machines: sizes.Machines, d.objects.Moved: sizes.Blocks, d.objects.Blocks: sizes.Blocks,
			d.objects.Hosts: sizes.Hosts, d.objects.Slots: sizes.Hosts,
		} {
			if int(m.MaxEntries()) != size {
				t.Errorf("sizes %+v: %s has %d", sizes, m, m.MaxEntries())
			}
		}
		ok(t, d.Close())
		if pinned := pinnedMaps(t, o); len(pinned) != before {
			t.Errorf("sizes %+v: pinned are %v", sizes, pinned)
		}
	}
}

func TestMapIsNotShrunkBelowItsEntries(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	for i := range addr.Machine(3) {
		ok(t, d.PutMachine(here(stable(5, 1, i+1), 1)))
	}
	ok(t, d.PutMoved(Moved{ID: stable(5, 1, 3*addr.BlockSize).ID(), Host: 2, Epoch: 1})) // in the fourth block
	ok(t, d.Close())
	before := pinnedMaps(t, o)
	small := o
	for _, c := range []struct {
		sizes Sizes
		parts []string
	}{
		{Sizes{Machines: 2, Blocks: 4, Hosts: 2}, []string{"machines", "3 entries", "room for 2", "set sizes.machines to 3 or more"}},
		{Sizes{Machines: 3, Blocks: 3, Hosts: 2}, []string{"4 entries", "room for 3", "set sizes.blocks to 4 or more"}},
	} {
		small.Sizes = c.sizes
		_, err := Open(small)
		if !errors.Is(err, ErrLayout) {
			t.Fatalf("error %v, want ErrLayout", err)
		}
		for _, part := range c.parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q does not say %q", err, part)
			}
		}
		if after := pinnedMaps(t, o); !maps.Equal(after, before) {
			t.Errorf("pinned are %v, were %v", after, before)
		}
	}
	small.Sizes = Sizes{Machines: 3, Blocks: 4, Hosts: 2}
	d = open(t, small)
	if n, m := len(must(d.Machines())), len(must(d.MovedEntries())); n != 3 || m != 1 {
		t.Errorf("%d machines, %d movers", n, m)
	}
}

func TestMapsOfAnOlderLayoutAreMigrated(t *testing.T) {
	needsRoot(t)
	o := options(pinDir(t))
	d, err := openSpec(o, olderSpec(t))
	ok(t, err)
	fill(t, d)
	want := entriesOf(t, d)
	ok(t, d.Close())
	before := pinnedMaps(t, o)

	d = open(t, o)
	if got := entriesOf(t, d); !reflect.DeepEqual(got, want) {
		t.Errorf("entries are %+v, want %+v", got, want)
	}
	ok(t, d.PutMachine(here(bob, 1<<40))) // beyond the older width
	ok(t, d.Close())
	after := pinnedMaps(t, o)
	for name, id := range before {
		remade := slices.Contains([]string{bpf.DatapathMapMachines, bpf.DatapathMapDrops}, name)
		if name != formerMap && (after[name] != id) != remade {
			t.Errorf("%s: map %d became %d", name, id, after[name])
		}
		delete(after, name)
	}
	if before[formerMap] == 0 || after[formerMap] != 0 || len(after) != 0 {
		t.Errorf("pinned besides: %v", after)
	}

	// back to the older version, which has no room for that epoch
	_, err = openSpec(o, olderSpec(t))
	if !errors.Is(err, ErrLayout) || !strings.Contains(err.Error(), "epoch") || !strings.Contains(err.Error(), "1099511627776") {
		t.Errorf("the older version: error %v", err)
	}
	d = open(t, o)
	ok(t, d.DeleteMachine(bob.ID(), 1<<40))
	ok(t, d.Close())
	d, err = openSpec(o, olderSpec(t))
	ok(t, err)
	defer d.Close()
	if got := entriesOf(t, d); !reflect.DeepEqual(got, want) {
		t.Errorf("in the older version entries are %+v, want %+v", got, want)
	}
}

func TestPinnedMapThatCannotBeMigratedIsRefusedWithTheWayOut(t *testing.T) {
	value := func(change func(*testing.T, *btf.Struct)) func(*testing.T, *ebpf.MapSpec) {
		return func(t *testing.T, s *ebpf.MapSpec) {
			v := btf.Copy(s.Value).(*btf.Struct)
			change(t, v)
			s.Value = v
		}
	}
	for name, c := range map[string]struct {
		change func(*testing.T, *ebpf.MapSpec) // of `machines`
		says   string
	}{
		"renamed field": {value(func(t *testing.T, v *btf.Struct) { member(t, v, "network").Name = "tenant" }), "field tenant is 5"},
		"renamed state": {value(func(t *testing.T, v *btf.Struct) {
			member(t, v, "state").Type.(*btf.Enum).Values[0].Name = "STATE_SETTLED"
		}), "STATE_SETTLED (1)"},
		"other keys": {func(t *testing.T, s *ebpf.MapSpec) {
			k := btf.Copy(s.Key).(*btf.Struct)
			member(t, k, "cell").Name = "region"
			s.Key = k
		}, "keys have a field cell"},
		"other kind of map": {func(_ *testing.T, s *ebpf.MapSpec) { s.Type = ebpf.PerCPUHash }, "PerCPUHash"},
		"no types":          {func(_ *testing.T, s *ebpf.MapSpec) { s.Key, s.Value = nil, nil }, "no types"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(pinDir(t))
			d := open(t, o)
			fill(t, d)
			spec := must(bpf.LoadDatapath())
			o.Sizes.apply(spec)
			older := spec.Maps[bpf.DatapathMapMachines].Copy()
			c.change(t, older)
			m := must(ebpf.NewMap(older))
			defer m.Close()
			if older.Type == ebpf.Hash {
				ok(t, m.Put(machineKey(alice.ID()), machineValue(here(alice, 7))))
			}
			path := filepath.Join(o.PinDir, mapsDir, bpf.DatapathMapMachines)
			ok(t, errors.Join(os.Remove(path), m.Pin(path), d.Close()))
			before := pinnedMaps(t, o)
			_, err := Open(o)
			if !errors.Is(err, ErrLayout) {
				t.Fatalf("error %v, want ErrLayout", err)
			}
			for _, part := range []string{c.says, path, "remove " + o.PinDir} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not say %q", err, part)
				}
			}
			if after := pinnedMaps(t, o); !maps.Equal(after, before) {
				t.Errorf("pinned are %v, were %v", after, before)
			}
			ok(t, Remove(o.PinDir))
			ok(t, open(t, o).Close())
		})
	}
}

func TestMapsThatHoldNothingToKeepAreSimplyRemade(t *testing.T) {
	path := pinDir(t)
	reopen := func(s ebpf.MapSpec) ebpf.MapID {
		t.Helper()
		m, _, err := openMap(&s, path, slog.New(slog.DiscardHandler))
		ok(t, err)
		defer m.Close()
		if m.Type() != s.Type || m.MaxEntries() != s.MaxEntries || m.ValueSize() != s.ValueSize {
			t.Errorf("got %v, want %+v", m, s)
		}
		id, _ := must(m.Info()).ID()
		return id
	}
	events := ebpf.MapSpec{Name: "events", Type: ebpf.RingBuf, MaxEntries: 1 << 12}
	larger := events
	larger.MaxEntries <<= 1
	cache := ebpf.MapSpec{Name: "events", Type: ebpf.LRUHash, KeySize: 4, ValueSize: 4, MaxEntries: 8}
	wider := cache
	wider.ValueSize = 8
	ids := []ebpf.MapID{reopen(events), reopen(events), reopen(larger), reopen(cache), reopen(wider), reopen(wider)}
	for i, same := range []bool{true, false, false, false, true} {
		if (ids[i+1] == ids[i]) != same {
			t.Errorf("step %d: the maps are %v", i+1, ids)
		}
	}
}

// Earlier versions made `drops` so.
func TestCountersOfWhichNoTypesAreKeptGoOn(t *testing.T) {
	s := must(bpf.LoadDatapath()).Maps[bpf.DatapathMapDrops]
	bare := s.Copy()
	bare.Key, bare.Value = nil, nil
	bare.MaxEntries = 40
	old := must(ebpf.NewMap(bare))
	defer old.Close()
	if _, _, err := keptLayouts(old); !errors.Is(err, errNoTypes) {
		t.Fatalf("error %v, want errNoTypes", err)
	}
	want := make([]uint64, must(ebpf.PossibleCPU()))
	for i := range want {
		want[i] = uint64(i + 1)
	}
	ok(t, old.Put(uint32(39), want))
	path := pinDir(t)
	ok(t, old.Pin(path))
	m, _, err := openMap(s, path, slog.New(slog.DiscardHandler))
	ok(t, err)
	defer m.Close()
	var got []uint64
	ok(t, m.Lookup(uint32(39), &got))
	if !slices.Equal(got, want) || m.MaxEntries() != s.MaxEntries {
		t.Errorf("%v counts %v, want %v", m, got, want)
	}
}

func TestCounterBeyondTheEndIsRefused(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	ok(t, d.objects.Drops.Put(d.objects.Drops.MaxEntries()-1, make([]uint64, must(ebpf.PossibleCPU()))))
	ok(t, d.Close())
	d, err := openSpec(o, olderSpec(t))
	ok(t, err) // it counted nothing
	ok(t, d.Close())
	d = open(t, o)
	ok(t, d.objects.Drops.Put(d.objects.Drops.MaxEntries()-1, []uint64{1}))
	ok(t, d.Close())
	if _, err := openSpec(o, olderSpec(t)); !errors.Is(err, ErrLayout) || !strings.Contains(err.Error(), "drops") {
		t.Errorf("error %v", err)
	}
}

func TestFailedOpenLeavesTheOldMaps(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	fill(t, d)
	want := entriesOf(t, d)
	ok(t, d.Close())
	before := pinnedMaps(t, o)
	grown := o
	grown.Sizes = Sizes{Machines: 16, Blocks: 16, Hosts: 16}
	obstacle := filepath.Join(o.PinDir, programsDir, fromMachine+"_next") // which is met when all maps are remade
	ok(t, os.MkdirAll(filepath.Join(obstacle, "full"), 0o700))
	if _, err := Open(grown); err == nil {
		t.Fatal("opened in spite of it")
	}
	ok(t, os.RemoveAll(obstacle))
	if after := pinnedMaps(t, o); !maps.Equal(after, before) {
		t.Errorf("pinned are %v, were %v", after, before)
	}
	if got := entriesOf(t, open(t, o)); !reflect.DeepEqual(got, want) {
		t.Errorf("entries are %+v, want %+v", got, want)
	}
}

// Up to where a crash ends it, the steps are those of Open.
func TestUpgradeGoesOnAfterACrash(t *testing.T) {
	o := options(pinDir(t))
	o.Logger = slog.New(slog.DiscardHandler)
	grown := o
	grown.Sizes = Sizes{Machines: 16, Blocks: 16, Hosts: 16}
	spec := must(bpf.LoadDatapath())
	grown.Sizes.apply(spec)
	dir := filepath.Join(o.PinDir, mapsDir)
	for at, crash := range map[string]func(*testing.T){
		"a map is being copied": func(t *testing.T) {
			m := must(ebpf.NewMap(spec.Maps[bpf.DatapathMapMachines])) // which is still empty
			ok(t, errors.Join(m.Pin(filepath.Join(dir, bpf.DatapathMapMachines)+nextSuffix), m.Close()))
		},
		"one map is remade": func(t *testing.T) {
			m, _, err := openMap(spec.Maps[bpf.DatapathMapMachines], filepath.Join(dir, bpf.DatapathMapMachines), o.Logger)
			ok(t, errors.Join(err, m.Close()))
		},
		"all maps are remade": func(t *testing.T) {
			all, _, err := openMaps(spec, dir, o.Logger)
			ok(t, err)
			for _, m := range all {
				ok(t, m.Close())
			}
		},
	} {
		for again, next := range map[string]Options{"the new sizes": grown, "the old sizes": o} {
			t.Run(at+", then "+again, func(t *testing.T) {
				n := newNamespace(t)
				port, _ := vethPair(n, n, "port", "guest", 1500)
				d := n.open(o)
				n.do(func() error { return d.AttachPort(port.index, alice) })
				fill(t, d)
				want, maps := entriesOf(t, d), len(pinnedMaps(t, o))
				ok(t, d.Close())
				before := attached(t, port)
				crash(t)
				d = n.open(next)
				if got := entriesOf(t, d); !reflect.DeepEqual(got, want) {
					t.Errorf("entries are %+v, want %+v", got, want)
				}
				ok(t, d.PutMachine(here(bob, 1)))
				now := attached(t, port)
				if len(now) != 1 || slices.Equal(now, before) {
					t.Errorf("programs %v are attached, were %v", now, before)
				}
				pinned := pinnedMaps(t, o)
				if len(pinned) != maps {
					t.Errorf("pinned are %v", pinned)
				}
				usesPinned(t, now[0].program, pinned)
				ok(t, d.Remove())
			})
		}
	}
}
