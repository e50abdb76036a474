package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/audit"
	"ip6d/bpf"
	"ip6d/config"
	"ip6d/host"
	"ip6d/host/netns"
	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/nat"
)

// audited is a daemon whose agent has made all, and stands still: so that what a test changes stays changed.
type audited struct {
	*daemon
	t         *testing.T
	store     hwmap.Store // the fleet's, as an operator would write to it
	namespace *netns.Namespace
}

// theOther is host 2, of which there is only a record. It is home of block 5, and has machine 1281; machine 1282, which is at
// home on host 2, is on host 3.
const theOther = `{"host":2,"name":"host2","identity":"two","underlay":"fd00:6d::2","peer":"[fd00:6d::2]:6446","state":"joined"}`

const (
	otherBlock   addr.Block   = 5
	otherMachine addr.Machine = 1282 // on host 3
)

func newAudited(t *testing.T) *audited {
	t.Helper()
	server, _ := newFleet(t)
	store, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{server.Endpoint()}, Cluster: "default"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	a := &audited{t: t, store: store}
	a.put("map/hosts/2", theOther)
	a.put("map/hosts/3", `{"host":3,"name":"host3","identity":"three","underlay":"fd00:6d::3","peer":"[fd00:6d::3]:6446","state":"joined"}`)
	a.put("map/blocks/5", `{"block":5,"home":2,"epoch":1}`)
	a.put("map/machines/1282", `{"machine":1282,"name":"far","network":42,"host":3,"epoch":2}`)
	for _, h := range []string{"fd00:6d::2", "fd00:6d::3"} { // which answer
		eth0, err := netlink.LinkByName("eth0")
		if err == nil {
			err = netlink.NeighSet(&netlink.Neigh{
				LinkIndex: eth0.Attrs().Index, Family: unix.AF_INET6, State: netlink.NUD_PERMANENT,
				IP: net.ParseIP(h), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, h[len(h)-1]},
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "ip6d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bpfDir := filepath.Join(bpfRoot, filepath.Base(dir))
	c, err := config.File{
		Host: "1", Name: "host1", Identity: "one", StateDir: filepath.Join(dir, "state"), Socket: filepath.Join(dir, "socket"), BPFDir: bpfDir,
		Underlay: config.Underlay{Device: "eth0", Address: "fd00:6d::1"}, Store: config.Store{Endpoints: []string{server.Endpoint()}},
	}.Check(config.OS())
	if err != nil {
		t.Fatal(err)
	}
	if a.daemon, err = openDaemon(t.Context(), c, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.close(), nat.Remove(bpfDir)); err != nil {
			t.Error(err)
		}
	})
	a.audit.Pauses = []time.Duration{50 * time.Millisecond}
	a.start(a.hwmap.Run)
	a.agentOnce()
	a.namespace = newNamespace(t)
	if _, err := a.hwmap.Create(t.Context(), "web1", 42); err != nil {
		t.Fatal(err)
	}
	a.attach()
	a.eventuallyClean()
	return a
}

// start runs f until the test ends.
func (a *audited) start(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = f(ctx) // it returns ctx's error
	}()
	a.t.Cleanup(func() { cancel(); <-done })
}

// agentOnce lets the agent make all that there should be.
func (a *audited) agentOnce() {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.kernel.agent.Run(ctx) }()
	select {
	case <-a.kernel.agent.Ready():
	case err := <-done:
		a.t.Fatalf("the agent ended: %v", err)
	}
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		a.t.Fatal(err)
	}
}

func (a *audited) attach() {
	a.t.Helper()
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), a.namespace.FD())
	if _, err := a.hwmap.Attach(a.t.Context(), "web1", hwmap.PortSpec{Netns: path, GuestDevice: "eth0"}); err != nil {
		a.t.Fatal(err)
	}
}

// put writes a record into the fleet's store; the empty one deletes it.
func (a *audited) put(key hwmap.Key, value string) {
	a.t.Helper()
	w := hwmap.Write{Key: key}
	if value != "" {
		w.Value = []byte(value)
	}
	if _, err := a.store.Commit(a.t.Context(), hwmap.Txn{Then: []hwmap.Write{w}}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *audited) check() audit.Report {
	a.t.Helper()
	r, err := a.audit.Check(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	if len(r.Errors) > 0 {
		a.t.Fatalf("it could not compare all: %v", r.Errors)
	}
	return r
}

func texts(r audit.Report) (all []string) {
	for _, d := range r.Differences {
		all = append(all, fmt.Sprintf("%s %s (%s)", d.Kind, d.Object, d.Text()))
	}
	return all
}

func (a *audited) eventuallyClean() {
	a.t.Helper()
	deadline := time.After(patience / 3)
	for {
		r := a.check()
		if len(r.Differences) == 0 {
			return
		}
		select {
		case <-deadline:
			a.t.Fatalf("still: %v", texts(r))
		default:
		}
	}
}

// eventually waits for a condition.
func (a *audited) eventually(what string, holds func() bool, now func() any) {
	a.t.Helper()
	deadline := time.After(patience / 3)
	for !holds() {
		select {
		case <-deadline:
			a.t.Fatalf("%s: not in time, but %q", what, now())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// pinned opens a map of the datapath, as another program would.
func (a *audited) pinned(name string) *ebpf.Map {
	a.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(a.config.BPFDir, "maps", name), nil)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { m.Close() })
	return m
}

func (a *audited) link(name string) netlink.Link {
	a.t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		a.t.Fatalf("%s: %v", name, err)
	}
	return l
}

const port = "ip6d00000001"

func TestEachKindOfDifferenceOfTheKernelIsNamedAloneAndRepaired(t *testing.T) {
	a := newAudited(t)
	must := func(err error) {
		a.t.Helper()
		if err != nil {
			a.t.Fatal(err)
		}
	}
	web1 := bpf.DatapathMachineId{Machine: 1, Cell: 1}
	hostRoute := func(h addr.Host) *netlink.Route {
		return &netlink.Route{Dst: netipx.PrefixIPNet(a.config.Plan.HostPrefix(h)), Protocol: host.RouteProtocol, Priority: 105}
	}
	movers := func(block addr.Block, change func(*bpf.DatapathMovers)) {
		t.Helper()
		var v bpf.DatapathMovers
		m := a.pinned("moved")
		must(m.Lookup(uint32(block), &v))
		change(&v)
		must(m.Put(uint32(block), v))
	}
	entryOf := func(change func(*bpf.DatapathMachine)) {
		t.Helper()
		var v bpf.DatapathMachine
		m := a.pinned("machines")
		must(m.Lookup(web1, &v))
		change(&v)
		must(m.Put(web1, v))
	}
	blockOf := func(block uint32, change func(*bpf.DatapathBlock)) {
		t.Helper()
		var v bpf.DatapathBlock
		m := a.pinned("blocks")
		must(m.Lookup(block, &v))
		change(&v)
		must(m.Put(block, v))
	}
	slotOf := func(h uint32) (slot uint32) {
		t.Helper()
		must(a.pinned("slots").Lookup(h, &slot))
		return slot
	}
	index := uint32(otherMachine % addr.BlockSize)
	for _, c := range []struct {
		kind   audit.Kind
		object string
		change func()
		undo   func() // of what is not repaired
	}{
		{kind: audit.EntryMissing, object: "machine 1", change: func() { must(a.pinned("machines").Delete(web1)) }},
		{kind: audit.EntryDiffers, object: "machine 1", change: func() { entryOf(func(v *bpf.DatapathMachine) { v.Network = 43 }) }},
		{kind: audit.EntryDiffers, object: "machine 1", change: func() { entryOf(func(v *bpf.DatapathMachine) { v.Epoch = 9 }) }},
		{kind: audit.EntryStray, object: "machine 7", change: func() {
			must(a.pinned("machines").Put(bpf.DatapathMachineId{Machine: 7, Cell: 1}, bpf.DatapathMachine{Network: 42, Epoch: 3, State: 1}))
		}},
		{kind: audit.EntryStray, object: "machine 2/7", change: func() {
			must(a.pinned("machines").Put(bpf.DatapathMachineId{Machine: 7, Cell: 2}, bpf.DatapathMachine{Network: 42, Epoch: 3, State: 1}))
		}},
		{kind: audit.PortEntryDiffers, object: "device " + port, change: func() { entryOf(func(v *bpf.DatapathMachine) { v.Ifindex++ }) }},
		{kind: audit.MovedMissing, object: "machine 1282", change: func() { movers(otherBlock, func(v *bpf.DatapathMovers) { v.Slot[index] = 0 }) }},
		{kind: audit.MovedDiffers, object: "machine 1282", change: func() {
			movers(otherBlock, func(v *bpf.DatapathMovers) { v.Slot[index] = uint16(slotOf(2)) + 1 })
		}},
		{kind: audit.MovedStray, object: "machine 1283", change: func() {
			movers(otherBlock, func(v *bpf.DatapathMovers) { v.Slot[index+1] = uint16(slotOf(3)) + 1 })
		}},
		{kind: audit.MovedStray, object: "machine 2049", change: func() { // where no block is
			movers(8, func(v *bpf.DatapathMovers) { v.Slot[1] = uint16(slotOf(3)) + 1 })
		}},
		{kind: audit.BlockMissing, object: "block 5", change: func() { blockOf(5, func(v *bpf.DatapathBlock) { v.Home, v.Slot = 0, 0 }) }},
		{kind: audit.BlockDiffers, object: "block 5", change: func() { blockOf(5, func(v *bpf.DatapathBlock) { v.Home, v.Slot = 3, slotOf(3) }) }},
		{kind: audit.BlockStray, object: "block 9", change: func() { blockOf(9, func(v *bpf.DatapathBlock) { v.Home, v.Slot = 3, slotOf(3) }) }},
		{kind: audit.BlockCountDiffers, object: "block 5", change: func() { blockOf(5, func(v *bpf.DatapathBlock) { v.Moved = 0 }) }},
		{kind: audit.DeadStray, object: "host 2", change: func() { must(a.pinned("dead").Put(uint32(2), uint32(1))) }},
		{kind: audit.DeadStray, object: "host 77", change: func() { must(a.pinned("dead").Put(uint32(77), uint32(1))) }},
		{kind: audit.FenceDiffers, object: "host 1", change: func() { must(a.pinned("fence").Put(uint32(0), bpf.DatapathFence{Closed: 1})) }},
		{kind: audit.IdentityDiffers, object: "device " + port, change: func() {
			place := uint32(a.link(port).Attrs().Index)
			must(a.pinned("ports").Put(place, bpf.DatapathPort{}))
		}},
		{kind: audit.IdentityStray, object: "device #60000", change: func() {
			must(a.pinned("ports").Put(uint32(60000), bpf.DatapathPort{Ifindex: 60000}))
		}},
		{kind: audit.NextHopMissing, object: "host 2", change: func() { must(a.pinned("hosts").Put(slotOf(2), bpf.DatapathNextHop{Host: 2})) }},
		{kind: audit.NextHopDiffers, object: "host 2", change: func() {
			var v bpf.DatapathNextHop
			must(a.pinned("hosts").Lookup(slotOf(2), &v))
			v.Ifindex++
			must(a.pinned("hosts").Put(slotOf(2), v))
		}},
		{kind: audit.NextHopStray, object: "host 7", change: func() {
			must(a.pinned("hosts").Put(uint32(100), bpf.DatapathNextHop{Host: 7, Ifindex: 1, Kind: 3}))
			must(a.pinned("slots").Put(uint32(7), uint32(100)))
		}},
		{kind: audit.RouteMissing, object: "route fdab:0:2::/48", change: func() { must(netlink.RouteDel(hostRoute(2))) }},
		{kind: audit.RouteMissing, object: "route fdab:0:1::/48", change: func() { must(netlink.RouteDel(hostRoute(1))) }},
		{kind: audit.RouteDiffers, object: "route fdab:0:2::/48", change: func() {
			r := hostRoute(2)
			r.LinkIndex = a.link("ip6d0").Attrs().Index
			must(netlink.RouteReplace(r))
		}},
		{kind: audit.RouteStray, object: "route fdab:0:9::/48", change: func() {
			r := hostRoute(9)
			r.LinkIndex = a.link("eth0").Attrs().Index
			must(netlink.RouteAdd(r))
		}},
		{kind: audit.PortDown, object: "device " + port, change: func() { must(netlink.LinkSetDown(a.link(port))) }},
		{kind: audit.PortMACDiffers, object: "device " + port, change: func() {
			must(netlink.LinkSetHardwareAddr(a.link(port), net.HardwareAddr{2, 1, 1, 1, 1, 1}))
		}},
		{kind: audit.PortRenamed, object: "device " + port, change: func() { must(netlink.LinkSetName(a.link(port), "elsewhere0")) }},
		{kind: audit.PortMTUDiffers, object: "device " + port,
			change: func() { must(netlink.LinkSetMTU(a.link(port), 1501)) },
			undo:   func() { must(netlink.LinkSetMTU(a.link(port), 1500)) }},
		{kind: audit.PortStray, object: "device lost0",
			change: func() {
				l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lost0"}, PeerName: "lost0p"}
				must(netlink.LinkAdd(l))
				must(netlink.LinkSetAlias(l, "ip6d port of fdaa:0:2a:1::9:2 02:00:00:00:00:01"))
			},
			undo: func() { must(netlink.LinkDel(a.link("lost0"))) }},
		{kind: audit.PortGone, object: "device " + port,
			change: func() {
				l := a.link(port)
				must(netlink.LinkDel(l))
				must(a.hwmap.PortLost(t.Context(), 1, l.Attrs().Index)) // as the agent tells
			},
			undo: a.attach},
		{kind: audit.ProgramMissing, object: "program from_machine@" + port, change: func() {
			l, err := link.LoadPinnedLink(filepath.Join(a.config.BPFDir, "links", fmt.Sprintf("from_machine-%d", a.link(port).Attrs().Index)), nil)
			must(err)
			must(errors.Join(l.Detach(), l.Close()))
		}},
		{kind: audit.ProgramMissing, object: "program to_underlay@eth0", change: func() {
			must(os.Remove(filepath.Join(a.config.BPFDir, "links", fmt.Sprintf("to_underlay-%d", a.link("eth0").Attrs().Index))))
		}},
		{kind: audit.ProgramOld, object: "program from_machine@" + port, change: func() {
			other, err := ebpf.LoadPinnedProgram(filepath.Join(a.config.BPFDir, "programs", "from_stack"), nil)
			must(err)
			defer other.Close()
			l, err := link.LoadPinnedLink(filepath.Join(a.config.BPFDir, "links", fmt.Sprintf("from_machine-%d", a.link(port).Attrs().Index)), nil)
			must(err)
			must(errors.Join(l.Update(other), l.Close()))
		}},
		{kind: audit.ProgramStray, object: "program from_machine@wire", change: func() {
			p, err := ebpf.LoadPinnedProgram(filepath.Join(a.config.BPFDir, "programs", "from_machine"), nil)
			must(err)
			defer p.Close()
			l, err := link.AttachTCX(link.TCXOptions{Interface: a.link("wire").Attrs().Index, Program: p, Attach: ebpf.AttachTCXIngress})
			must(err)
			must(errors.Join(l.Pin(filepath.Join(a.config.BPFDir, "links", fmt.Sprintf("from_machine-%d", a.link("wire").Attrs().Index))), l.Close()))
		}},
		{kind: audit.PinMissing, object: "pin maps/machines", change: func() { must(os.Remove(filepath.Join(a.config.BPFDir, "maps", "machines"))) }},
		{kind: audit.PinMissing, object: "pin programs/from_stack", change: func() { must(os.Remove(filepath.Join(a.config.BPFDir, "programs", "from_stack"))) }},
		{kind: audit.StackMissing, object: "device ip6d0", change: func() {
			endpoint, err := a.config.Plan.Endpoint(1, 1)
			must(err)
			must(netlink.AddrDel(a.link("ip6d0"), &netlink.Addr{IPNet: netipx.PrefixIPNet(netip.PrefixFrom(endpoint.Addr(), 128))}))
		}},
	} {
		name := strings.ReplaceAll(fmt.Sprintf("%s %s", c.kind, c.object), "/", "_")
		t.Run(name, func(t *testing.T) {
			a.t = t
			c.change()
			r := a.check()
			if len(r.Differences) != 1 || r.Differences[0].Kind != c.kind || r.Differences[0].Object.String() != c.object {
				t.Fatalf("it reports %q, want %s %s alone", texts(r), c.kind, c.object)
			}
			d := r.Differences[0]
			if d.Repairable != (c.undo == nil) || d.Cause == "" || d.Remedy == "" || d.Fingerprint == "" {
				t.Errorf("it says %+v", d)
			}
			dry, err := a.audit.Repair(t.Context(), r, nil, true)
			if want := (map[bool]audit.Outcome{true: audit.WouldBe, false: audit.Operator})[d.Repairable]; err != nil || len(dry) != 1 || dry[0].Outcome != want {
				t.Errorf("a dry run says %+v, %v, want %q", dry, err, want)
			}
			if again := a.check(); len(again.Differences) != 1 || again.Differences[0].Fingerprint != d.Fingerprint {
				t.Fatalf("after the dry run it reports %q", texts(again))
			}
			if c.undo != nil {
				c.undo()
			} else if done, err := a.audit.Repair(t.Context(), r, nil, false); err != nil || len(done) != 1 || done[0].Outcome != audit.Mended {
				t.Fatalf("repaired: %+v, %v", done, err)
			}
			if r := a.check(); len(r.Differences) > 0 {
				t.Fatalf("it is not clean after: %q", texts(r))
			}
			gone, err := a.audit.Repair(t.Context(), r, nil, false)
			if want := (map[bool]audit.Outcome{true: audit.Gone, false: audit.Operator})[d.Repairable]; err != nil || len(gone) != 1 || gone[0].Outcome != want {
				t.Errorf("the same repair again says %+v, %v, want %q", gone, err, want)
			}
		})
		a.t = t
	}
}
