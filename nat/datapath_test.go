package nat

import (
	"errors"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"

	"ip6d/addr"
	"ip6d/bpf"
)

var smallSizes = Sizes{Machines: 8, Blocks: 8, Hosts: 8}

func options(pins string) Options {
	return Options{Plan: plan, Cell: 1, Host: 1, PinDir: pins, Sizes: smallSizes}
}

// open opens a datapath that needs no devices.
func open(t testing.TB, o Options) *Datapath {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// ok fails the test for an error.
func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func here(s addr.Stable, epoch uint64) Machine {
	return Machine{ID: s.ID(), Network: s.Network(), Epoch: epoch, State: Delivering}
}

func TestStatesHaveTheSameNumbersInCAndGo(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	ok(t, err)
	for enum, want := range map[string]map[string]uint64{
		"machine_state": {"STATE_DELIVERING": uint64(Delivering), "STATE_INCOMING": uint64(Incoming), "STATE_AWAY": uint64(Away)},
		"port_enter":    {"ENTER_PEER": uint64(EnterPeer), "ENTER_DEVICE": uint64(EnterDevice)},
	} {
		var e *btf.Enum
		ok(t, spec.Types.TypeByName(enum, &e))
		got := make(map[string]uint64)
		for _, v := range e.Values {
			got[v.Name] = v.Value
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("enum %s is %v in C, %v in Go", enum, got, want)
		}
	}
}

func TestLowerEpochLoses(t *testing.T) {
	d := open(t, options(pinDir(t)))
	s := alice
	ok(t, d.PutMachine(here(s, 5)))
	ok(t, d.PutMoved(Moved{ID: s.ID(), Host: 2, Epoch: 5}))
	for what, err := range map[string]error{
		"PutMachine":    d.PutMachine(here(s, 4)),
		"DeleteMachine": d.DeleteMachine(s.ID(), 4),
		"Flip":          d.Flip(s.ID(), 2, 4),
		"PutMoved":      d.PutMoved(Moved{ID: s.ID(), Host: 3, Epoch: 4}),
		"DeleteMoved":   d.DeleteMoved(s.ID(), 4),
	} {
		if !errors.Is(err, ErrStale) {
			t.Errorf("%s of a lower epoch: error %v, want ErrStale", what, err)
		}
	}
	if m, found, err := d.Machine(s.ID()); err != nil || !found || !reflect.DeepEqual(m, here(s, 5)) {
		t.Errorf("entry is %+v, %v, %v", m, found, err)
	}
	if all := must(d.MovedEntries()); len(all) != 1 || all[0].Host != 2 {
		t.Errorf("moved is %+v", all)
	}

	ok(t, d.PutMachine(here(s, 6)))
	ok(t, d.PutMoved(Moved{ID: s.ID(), Host: 3, Epoch: 6}))
	ok(t, d.DeleteMachine(s.ID(), 6))
	ok(t, d.DeleteMoved(s.ID(), 7))
	ok(t, d.DeleteMachine(s.ID(), 1)) // there is none any more
	ok(t, d.DeleteMoved(s.ID(), 1))
	if _, found, _ := d.Machine(s.ID()); found {
		t.Error("the machine's entry was not deleted")
	}
}

func TestFlipKeepsAllButTheState(t *testing.T) {
	d := open(t, options(pinDir(t)))
	before := here(alice, 3)
	before.Port = Port{Ifindex: 7, Enter: EnterPeer, MAC: mac(1)}
	ok(t, d.PutMachine(before))

	ok(t, d.Flip(alice.ID(), 2, 3))
	want := before
	want.State, want.Host = Away, 2
	if got, _, err := d.Machine(alice.ID()); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("entry is %+v, want %+v (%v)", got, want, err)
	}
	ok(t, d.Flip(alice.ID(), 2, 3)) // again changes nothing
	if err := d.Flip(alice.ID(), 3, 3); !errors.Is(err, ErrNotFound) {
		t.Errorf("flip of what is away to another host: %v", err)
	}
	if err := d.Flip(bob.ID(), 2, 3); !errors.Is(err, ErrNotFound) {
		t.Errorf("flip without an entry: %v", err)
	}

	ok(t, d.PutMachine(before)) // the undo
	if got, _, err := d.Machine(alice.ID()); err != nil || !reflect.DeepEqual(got, before) {
		t.Errorf("entry is %+v, want %+v (%v)", got, before, err)
	}
}

func TestWrongArgumentsAreRefused(t *testing.T) {
	d := open(t, options(pinDir(t)))
	m := func(change func(*Machine)) Machine {
		m := here(alice, 1)
		change(&m)
		return m
	}
	hop := NextHop{Host: 2, Ifindex: 1, Kind: HopRouter, Gateway: internet, Source: mac(1)}
	h := func(change func(*NextHop)) NextHop {
		h := hop
		change(&h)
		return h
	}
	for what, err := range map[string]error{
		"network 0":               d.PutMachine(m(func(m *Machine) { m.Network = 0 })),
		"cell 0":                  d.PutMachine(m(func(m *Machine) { m.ID.Cell = 0 })),
		"no state":                d.PutMachine(m(func(m *Machine) { m.State = 0 })),
		"here, on another host":   d.PutMachine(m(func(m *Machine) { m.Host = 2 })),
		"away, to nowhere":        d.PutMachine(m(func(m *Machine) { m.State = Away })),
		"away, to this host":      d.PutMachine(m(func(m *Machine) { m.State, m.Host = Away, 1 })),
		"incoming from this host": d.PutMachine(m(func(m *Machine) { m.State, m.Host = Incoming, 1 })),
		"port without a MAC":      d.PutMachine(m(func(m *Machine) { m.Port = Port{Ifindex: 1, Enter: EnterPeer} })),
		"port without a way in":   d.PutMachine(m(func(m *Machine) { m.Port = Port{Ifindex: 1, MAC: mac(1)} })),
		"flip to this host":       d.Flip(alice.ID(), 1, 1),
		"moved to host 0":         d.PutMoved(Moved{ID: alice.ID()}),
		"moved of another cell":   d.PutMoved(Moved{ID: addr.ID{Cell: 2, Machine: 1}, Host: 2}),
		"block without a home":    d.PutBlock(Block{Cell: 1}),
		"block of cell 0xffff":    d.PutBlock(Block{Cell: 0xffff, Home: 1}),
		"block of another cell":   d.PutBlock(Block{Cell: 2, Block: 1, Home: 1}),
		"block beyond the last":   d.PutBlock(Block{Cell: 1, Block: addr.MaxBlock + 1, Home: 1}),
		"next hop to this host":   d.PutHost(h(func(h *NextHop) { h.Host = 1 })),
		"next hop on no device":   d.PutHost(h(func(h *NextHop) { h.Ifindex = 0 })),
		"next hop of no kind":     d.PutHost(h(func(h *NextHop) { h.Kind = 0 })),
		"next hop by IPv4":        d.PutHost(h(func(h *NextHop) { h.Gateway = netip.MustParseAddr("192.0.2.1") })),
		"next hop without source": d.PutHost(h(func(h *NextHop) { h.Source = nil })),
		"L3 next hop with a MAC":  d.PutHost(h(func(h *NextHop) { h.Kind = HopL3 })),
		"next hop to a group":     d.PutHost(h(func(h *NextHop) { h.MAC = []byte{1, 0, 0, 0, 0, 1} })),
		"port of an endpoint":     d.AttachPort(1, endpoint(1, 1)),
		"port without a device":   d.AttachPort(0, alice),
	} {
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", what, err)
		}
	}
	for what, o := range map[string]func(*Options){
		"host 0":           func(o *Options) { o.Host = 0 },
		"cell 0":           func(o *Options) { o.Cell = 0 },
		"relative pin dir": func(o *Options) { o.PinDir = "ip6d" },
		"negative size":    func(o *Options) { o.Sizes.Hosts = -1 },
		"no such stack":    func(o *Options) { o.Stack = 99999 },
		"gateway's MAC":    func(o *Options) { o.GatewayMAC = mac(1)[:5] },
	} {
		bad := options(filepath.Join(d.dir, "other"))
		o(&bad)
		if opened, err := Open(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid (%v)", what, err, opened)
		}
	}
}

func TestFullMapNamesItsSetting(t *testing.T) {
	o := options(pinDir(t))
	o.Sizes = Sizes{Machines: 2, Blocks: 2, Hosts: 2}
	d := open(t, o)
	var errs [3]error
	for i := range 3 {
		s := stable(5, 1, addr.Machine(i*addr.BlockSize))
		errs = [3]error{
			d.PutMachine(here(s, 1)),
			d.PutBlock(Block{Cell: 1, Block: s.Machine().Block(), Home: 2}),
			d.PutHost(NextHop{Host: addr.Host(i + 2), Ifindex: 1, Kind: HopRouter, Gateway: internet, Source: mac(1)}),
		}
		for _, err := range errs {
			if (err != nil) != (i == 2) {
				t.Fatalf("entry %d: %v", i, err)
			}
		}
	}
	for i, setting := range []string{"sizes.machines", "sizes.blocks", "sizes.hosts"} {
		if !errors.Is(errs[i], ErrFull) || !strings.Contains(errs[i].Error(), setting) || !strings.Contains(errs[i].Error(), "2") {
			t.Errorf("error %q, want ErrFull with the size and %s", errs[i], setting)
		}
	}
	beyond := stable(5, 1, 2*addr.BlockSize)
	if err := d.PutMoved(Moved{ID: beyond.ID(), Host: 2, Epoch: 1}); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "sizes.blocks") {
		t.Errorf("a mover of a block beyond the last: error %v, want ErrFull and sizes.blocks", err)
	}
	if all := must(d.MovedEntries()); len(all) != 0 {
		t.Errorf("what did not fit is there: %+v", all)
	}
	// what is there can still change: a move must not fail for want of room
	ok(t, d.Flip(stable(5, 1, 0).ID(), 2, 1))
	ok(t, d.PutMoved(Moved{ID: stable(5, 1, 0).ID(), Host: 3, Epoch: 2}))
	ok(t, d.DeleteMoved(beyond.ID(), 1))
}

func TestManyMovedArePutTogetherEachAsIfAlone(t *testing.T) {
	o := options(pinDir(t))
	o.Sizes.Blocks = 3
	d := open(t, o)
	at := func(machine addr.Machine, host addr.Host, epoch uint64) Moved {
		return Moved{ID: stable(5, 1, machine).ID(), Host: host, Epoch: epoch}
	}
	ok(t, d.PutMoved(at(0x102, 2, 9)))
	all := []Moved{
		at(0x101, 2, 1), at(0x102, 3, 8), at(0x103, 3, 1), at(0x101, 4, 2), // one is older than what is there, one comes again
		at(0x201, 2, 1), at(0x202, 2, 1), at(0x104, 2, 1), // back in the first block
		at(0x300, 2, 1), // no room
		{ID: addr.ID{Cell: 2, Machine: 1}, Host: 2},
	}
	err := d.PutMoved(all...)
	for _, want := range []error{ErrStale, ErrFull, ErrInvalid} {
		if !errors.Is(err, want) {
			t.Errorf("error %v, without %v", err, want)
		}
	}
	want := []Moved{at(0x101, 4, 2), at(0x102, 2, 9), at(0x103, 3, 1), at(0x104, 2, 1), at(0x201, 2, 1), at(0x202, 2, 1)}
	if got := must(d.MovedEntries()); !reflect.DeepEqual(got, want) {
		t.Errorf("there are %+v, want %+v", got, want)
	}
	if got, want := blockCounts(t, d), (map[addr.Block]counts{1: {4, 0}, 2: {2, 0}}); !reflect.DeepEqual(got, want) {
		t.Errorf("blocks count %v, want %v", got, want)
	}
	ok(t, d.PutMoved())
}

// blockCounts reads the counts that the programs see.
func blockCounts(t *testing.T, d *Datapath) map[addr.Block]counts {
	t.Helper()
	all := make(map[addr.Block]counts)
	ok(t, list(d.objects.Blocks, "blocks", func(number uint32, v bpf.DatapathBlock) {
		if v.Moved != 0 || v.Here != 0 {
			all[addr.Block(number)] = counts{int(v.Moved), int(v.Here)}
		}
	}))
	return all
}

func TestBlocksCountTheirMachines(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	expect := func(when string, want map[addr.Block]counts) {
		t.Helper()
		if got := blockCounts(t, d); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	in1, also1, in2 := stable(5, 1, 0x101).ID(), stable(5, 1, 0x102).ID(), stable(5, 1, 0x201).ID()
	ok(t, d.PutBlock(Block{Cell: 1, Block: 1, Home: 1}))
	ok(t, d.PutMoved(Moved{ID: in1, Host: 2, Epoch: 1}))
	ok(t, d.PutMoved(Moved{ID: also1, Host: 2, Epoch: 1}))
	ok(t, d.PutMoved(Moved{ID: in2, Host: 2, Epoch: 1})) // before its block is known
	ok(t, d.PutMachine(here(alice, 1)))
	ok(t, d.PutMachine(here(alice, 2)))
	expect("after four", map[addr.Block]counts{1: {2, 1}, 2: {1, 0}})
	ok(t, d.PutMoved(Moved{ID: in1, Host: 3, Epoch: 2}))
	ok(t, d.PutBlock(Block{Cell: 1, Block: 1, Home: 2}))
	ok(t, d.PutBlock(Block{Cell: 1, Block: 2, Home: 2}))
	expect("after changes", map[addr.Block]counts{1: {2, 1}, 2: {1, 0}})
	ok(t, d.DeleteBlock(1, 2))
	expect("without a home", map[addr.Block]counts{1: {2, 1}, 2: {1, 0}})

	// a crash between the two writes, and a count that is wrong in the other direction
	ok(t, d.clearMoved(also1.Machine))
	ok(t, write(d.objects.Blocks, "blocks", uint32(2), bpf.DatapathBlock{Home: 2, Here: 3}))
	ok(t, d.Close())
	d = open(t, o)
	expect("after a restart", map[addr.Block]counts{1: {1, 1}, 2: {1, 0}})
	ok(t, d.DeleteMoved(in1, 2))
	ok(t, d.DeleteMoved(in1, 2))
	ok(t, d.DeleteMoved(in2, 1))
	ok(t, d.DeleteMachine(alice.ID(), 2))
	expect("after deletes", map[addr.Block]counts{})
	if n := len(d.counts); n != 0 {
		t.Errorf("%d blocks are still counted", n)
	}
}

func TestEntriesSurviveCloseAndOpen(t *testing.T) {
	o := options(pinDir(t))
	now := 100 * time.Hour
	o.Monotonic = func() time.Duration { return now }
	d := open(t, o)
	machine := here(alice, 7)
	machine.Port = Port{Ifindex: 9, Enter: EnterDevice, MAC: mac(1)}
	movedEntry := Moved{ID: mover.ID(), Host: 3, Epoch: 2}
	block := Block{Cell: 1, Block: 2, Home: 2}
	trusted := NextHop{Host: 2, Ifindex: 4, Kind: HopNeighbour, Gateway: internet, MAC: mac(2), Source: mac(3), Trusted: time.Minute}
	ok(t, d.PutMachine(machine))
	ok(t, d.PutMoved(movedEntry))
	ok(t, d.PutBlock(block))
	ok(t, d.PutHost(trusted))
	ok(t, d.Close())

	d = open(t, o)
	now += 20 * time.Second
	trusted.Trusted -= 20 * time.Second
	for what, pair := range map[string][2]any{
		"machines": {must(d.Machines()), []Machine{machine}},
		"moved":    {must(d.MovedEntries()), []Moved{movedEntry}},
		"blocks":   {must(d.Blocks()), []Block{block}},
		"hosts":    {must(d.Hosts()), []NextHop{trusted}},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s are %+v, want %+v", what, pair[0], pair[1])
		}
	}
	now += time.Hour
	if hops := must(d.Hosts()); hops[0].MAC != nil || hops[0].Trusted != 0 {
		t.Errorf("a MAC that is not trusted any more: %+v", hops[0])
	}
	ok(t, d.DeleteHost(2))
	ok(t, d.DeleteHost(2))
	ok(t, d.DeleteBlock(1, 2))
	ok(t, d.DeleteBlock(1, 2))
	if len(must(d.Hosts())) != 0 || len(must(d.Blocks())) != 0 {
		t.Error("a deleted entry is still there")
	}
}

func TestDatapathIsSafeForConcurrentUse(t *testing.T) {
	d := open(t, options(pinDir(t)))
	ok(t, d.PutBlock(Block{Cell: 1, Block: 1, Home: 2}))
	var wg sync.WaitGroup
	for i := range addr.Machine(6) {
		wg.Go(func() {
			s := stable(5, 1, 0x100+i)
			for epoch := range uint64(50) {
				err := errors.Join(
					d.PutMoved(Moved{ID: s.ID(), Host: 3, Epoch: epoch}),
					d.PutMachine(here(s, epoch)),
					d.Flip(s.ID(), 2, epoch),
					d.DeleteMachine(s.ID(), epoch),
				)
				if epoch%2 == 0 {
					err = errors.Join(err, d.DeleteMoved(s.ID(), epoch))
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := blockCounts(t, d)[1]; got != (counts{moved: 6}) {
		t.Errorf("block counts %+v, %d movers are there", got, len(must(d.MovedEntries())))
	}
}
