package integration

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/bpf"
	"ip6d/host/netns"
	"ip6d/integration/lab"
)

// cutFromStore has the store's answers to a host go nowhere; join ends that. Packets between hosts go on.
func (f *fleet) cutFromStore(h *lab.Host) (join func()) {
	f.t.Helper()
	ns, err := netns.Open(netns.Path(setup.lab + "-underlay")) // where the store is
	f.must(err)
	f.t.Cleanup(func() { ns.Close() })
	var to *net.IPNet
	f.must(h.Do(func() error {
		device, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		all, err := netlink.AddrList(device, unix.AF_INET6)
		for _, a := range all {
			if a.IP.IsGlobalUnicast() {
				to = &net.IPNet{IP: a.IP, Mask: net.CIDRMask(128, 128)}
			}
		}
		return err
	}))
	nowhere := &netlink.Route{Dst: to, Type: unix.RTN_BLACKHOLE}
	f.must(ns.Do(func() error { return netlink.RouteAdd(nowhere) }))
	return func() {
		f.t.Helper()
		f.must(ns.Do(func() error { return netlink.RouteDel(nowhere) }))
	}
}

// movers is what the host's kernel has in `moved` for the machine's block: 0 where it has nothing.
func (f *fleet) movers(h *lab.Host, m *lab.Machine) (all bpf.DatapathMovers, own uint16) {
	f.t.Helper()
	moved, err := ebpf.LoadPinnedMap(filepath.Join(h.Pins(), "maps", "moved"), nil)
	f.must(err)
	defer moved.Close()
	number := m.Stable.Machine()
	f.must(moved.Lookup(uint32(number.Block()), &all))
	return all, all.Slot[number-number.Block().First()]
}

// forget takes the machine's entry out of the kernel's `moved`, past the daemon.
func (f *fleet) forget(h *lab.Host, m *lab.Machine) {
	f.t.Helper()
	all, _ := f.movers(h, m)
	number := m.Stable.Machine()
	all.Slot[number-number.Block().First()] = 0
	moved, err := ebpf.LoadPinnedMap(filepath.Join(h.Pins(), "maps", "moved"), nil)
	f.must(err)
	defer moved.Close()
	f.must(moved.Put(uint32(number.Block()), all))
}

func (f *fleet) knowsMove(h *lab.Host, m *lab.Machine) error {
	if _, slot := f.movers(h, m); slot == 0 {
		return fmt.Errorf("%s sends what is for %s to its home", h.Name, m.Name)
	}
	return nil
}

func TestAHostCutOffFromTheStoreForAWholeMoveIsServedAndHealsWhenItIsBack(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startTalk(red1, red2)
	join := f.cutFromStore(f.Host(1))
	g, err := red2.Begin(f.ctx, f.Host(3))
	f.must(err, g.Attach(f.ctx), g.Switchover(f.ctx))
	k.flow()
	// A host that is cut off does not hold up a finish for longer than it counts as live.
	f.eventually("the migration is finished", func() error { return g.Finish(f.ctx) })
	k.flow()
	if f.knowsMove(f.Host(1), red2) == nil {
		t.Error("host 1 knows of the move though it was cut off")
	}
	f.eventually("host 2 has told host 1", func() error {
		s, err := f.Host(2).Status(f.ctx)
		if err == nil && s.HintsSent == 0 {
			err = errors.New("it has told nobody")
		}
		return err
	})
	join()
	f.eventually("host 1 knows of the move", func() error { return f.knowsMove(f.Host(1), red2) })
	k.flow()
	k.end()
	f.allPairs()
}

func TestAnEntryThatIsGoneFromAKernelsMapIsBackAfterTheNextPacket(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	f.must(red2.Move(f.ctx, f.Host(3)))
	f.eventually("host 1 knows of the move", func() error { return f.knowsMove(f.Host(1), red2) })
	k := f.startTalk(red1, red2)
	k.flow()
	told, heeded := f.hints()
	f.forget(f.Host(1), red2)
	f.eventually("host 1 knows of the move again", func() error { return f.knowsMove(f.Host(1), red2) })
	k.flow()
	k.end()
	toldNow, heededNow := f.hints()
	if toldNow == told || heededNow == heeded {
		t.Errorf("host 2 counts %d hints sent, after %d; host 1 %d heeded, after %d; want more of each", toldNow, told, heededNow, heeded)
	}
}

// hints returns how many hints host 2 has sent, and host 1 heeded.
func (f *fleet) hints() (sent, heeded uint64) {
	f.t.Helper()
	var s [2]*ip6dv1.GetStatusResponse
	for i := range s {
		var err error
		s[i], err = f.Host(i + 1).Status(f.ctx)
		f.must(err)
	}
	return s[1].HintsSent, s[0].HintsHeeded
}
