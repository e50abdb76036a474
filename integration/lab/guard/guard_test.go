package guard

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/bpf"
	"ip6d/host/netns"
	"ip6d/integration/lab/labtest"
	"ip6d/nat"
)

// a machine and what is sent to it
type fixture struct {
	t      *testing.T
	stable addr.Stable
	source *ebpf.Map // the `machines` map of the host that it comes from
	guard  *Guard
}

func newFixture(t *testing.T) *fixture {
	labtest.RequireRoot(t)
	f := &fixture{t: t}
	var err error
	if f.stable, err = addr.DefaultPlan.Stable(42, 1, 0x101); err != nil {
		t.Fatal(err)
	}
	dir := mountBPF(t)
	spec, err := bpf.LoadDatapath()
	if err != nil {
		t.Fatal(err)
	}
	machines := spec.Maps[bpf.DatapathMapMachines]
	machines.MaxEntries = 100
	if f.source, err = ebpf.NewMap(machines); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.source.Close() })
	path := filepath.Join(dir, "machines")
	if err := f.source.Pin(path); err != nil {
		t.Fatal(err)
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	err = ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		f.guard, err = Attach(Options{Machine: f.stable, Ifindex: lo.Attrs().Index, SourceMachines: path})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.guard.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// mountBPF mounts a BPF file system of the test's own.
func mountBPF(t *testing.T) string {
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

const (
	udp    = 17
	tcp    = 6
	icmpv6 = 58
)

// run gives the guard a packet and returns whether it let it pass.
func (f *fixture) run(to netip.Addr, protocol byte) bool {
	f.t.Helper()
	frame := make([]byte, 14+40+8)
	frame[12], frame[13] = 0x86, 0xdd
	ip := frame[14:]
	ip[0], ip[5], ip[6], ip[7] = 0x60, 8, protocol, 64
	copy(ip[24:40], to.AsSlice())
	verdict, _, err := f.guard.objects.Guard.Test(frame)
	if err != nil {
		f.t.Fatal(err)
	}
	const pass = 1<<32 - 1 // TCX_NEXT
	if verdict != pass && verdict != 2 {
		f.t.Fatalf("verdict %d is neither to pass nor to drop", int32(verdict))
	}
	return verdict == pass
}

// sourceHas sets the machine's state on the host that it comes from.
func (f *fixture) sourceHas(state nat.State) {
	f.t.Helper()
	key := bpf.DatapathMachineId{Machine: uint32(f.stable.Machine()), Cell: uint16(f.stable.Cell())}
	if err := f.source.Put(key, bpf.DatapathMachine{Network: 42, State: uint8(state)}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) do(step func() error) {
	f.t.Helper()
	if err := step(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) wantCounts(want Counts) {
	f.t.Helper()
	got, err := f.guard.Counts()
	if err != nil {
		f.t.Fatal(err)
	}
	if got != want {
		f.t.Errorf("counts %+v, want %+v", got, want)
	}
}

func TestWhatComesBeforeTheSourceLetsGoIsEarly(t *testing.T) {
	f := newFixture(t)
	to := f.stable.Addr()
	var want Counts

	f.sourceHas(nat.Away)
	if f.run(to, udp) {
		t.Error("a packet passed before the switchover was asked for")
	}
	want.Early.UDP++
	f.wantCounts(want)

	f.sourceHas(nat.Delivering)
	f.do(f.guard.Watch)
	if f.run(to, udp) || f.run(to, tcp) {
		t.Error("a packet passed while the source had the machine")
	}
	want.Early.UDP++
	want.Early.Other++
	f.wantCounts(want)

	f.sourceHas(nat.Away)
	if !f.run(to, udp) {
		t.Error("a packet was dropped after the source had let go")
	}
	want.Passed.UDP++
	f.wantCounts(want)

	f.do(f.guard.ShutEarly)
	if f.run(to, icmpv6) {
		t.Error("a packet passed after the switchover was called off")
	}
	want.Early.Other++
	f.wantCounts(want)
}

func TestAnUnknownMachineIsNotAway(t *testing.T) {
	f := newFixture(t)
	f.do(f.guard.Watch)
	if f.run(f.stable.Addr(), udp) {
		t.Error("a packet passed though the source does not know the machine")
	}
	f.wantCounts(Counts{Early: Packets{UDP: 1}})
}

func TestWhatComesAfterTheSwitchoverIsLate(t *testing.T) {
	f := newFixture(t)
	f.do(f.guard.Open)
	if !f.run(f.stable.Addr(), udp) {
		t.Error("an open port dropped a packet")
	}
	f.do(f.guard.Shut)
	if f.run(f.stable.Addr(), udp) || f.run(f.stable.Addr(), tcp) {
		t.Error("a packet passed after the switchover to another port")
	}
	f.wantCounts(Counts{Passed: Packets{UDP: 1}, Late: Packets{UDP: 1, Other: 1}})
}

func TestAClosedPortPassesWhatIsNotForTheMachine(t *testing.T) {
	f := newFixture(t)
	for _, to := range []string{"ff02::1", "ff02::1:ff00:1", "fe80::1", "fdaa:0:2a:1:0:0:102:2"} {
		if !f.run(netip.MustParseAddr(to), icmpv6) {
			t.Errorf("a packet for %s was dropped", to)
		}
	}
	f.wantCounts(Counts{})
}

func TestAMissingMapOfTheSourceIsNamed(t *testing.T) {
	f := newFixture(t)
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "none")
	g, err := Attach(Options{Machine: f.stable, Ifindex: lo.Index, SourceMachines: path})
	if err == nil {
		g.Close()
		t.Fatal("a guard was attached without it")
	}
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %q does not name %s", err, path)
	}
}
