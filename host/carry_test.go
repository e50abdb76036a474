package host_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/nat"
)

// carrier is a host of a fleet whose agent has a real datapath, wired as the daemon does it.
type carrier struct {
	*box
	id       addr.Host
	agent    *host.Agent
	datapath *nat.Datapath
	stack    host.Stack
	pins     string
}

// newCarriers makes hosts 1 and 2 of cell 1, each home of the block of its number, on an underlay with that MTU.
func newCarriers(t *testing.T, mtu int) (one, two *carrier) {
	t.Helper()
	f := newFleet(t)
	boxes := map[addr.Host]*box{1: f.host(1), 2: f.host(2)}
	for _, b := range boxes {
		b.do(func() error {
			l, err := netlink.LinkByName("eth0")
			return errors.Join(err, netlink.LinkSetMTU(l, mtu))
		})
	}
	return newCarrier(t, boxes[1], 1, never), newCarrier(t, boxes[2], 2, never)
}

// newCarrier starts a host that knows the other one. Its agent looks at everything each interval.
func newCarrier(t *testing.T, b *box, id addr.Host, interval time.Duration) *carrier {
	t.Helper()
	c := &carrier{box: b, id: id, pins: pinDir(t)}
	c.agent = b.newAgent(host.Options{
		Host: id, Endpoint: endpointOf(t, id), Underlay: "eth0", Interval: interval,
		OnUnderlay: func(ifindex int) error {
			return b.Do(func() error { return c.datapath.AttachUnderlay(ifindex) })
		},
		OnStack: func(s host.Stack) error {
			return b.Do(func() error { return c.datapath.AttachStack(s.Peer) })
		},
		OnPort: func(p host.Port, s addr.Stable) error {
			return b.Do(func() error { return c.datapath.AttachPort(p.Ifindex, s) })
		},
	})
	c.stack = prepare(t, c.agent)
	o := nat.Options{
		Plan: addr.DefaultPlan, Cell: 1, Host: id, PinDir: c.pins, Stack: c.stack.Ifindex,
		Sizes: nat.Sizes{Machines: 64, Blocks: 16, Hosts: 16},
	}
	b.do(func() (err error) {
		c.datapath, err = nat.Open(o)
		return err
	})
	t.Cleanup(func() { c.datapath.Close() })
	c.agent.SetNextHops(c.datapath)
	for h := addr.Host(1); h <= 2; h++ {
		if err := c.datapath.PutBlock(nat.Block{Cell: 1, Block: addr.Block(h), Home: h}); err != nil {
			t.Fatal(err)
		}
		if h != id {
			setHosts(t, c.agent, peer(h))
		}
	}
	run(t, c.agent)
	return c
}

// pinDir returns a directory, which does not exist yet, on a BPF file system of the test's own.
func pinDir(t *testing.T) string {
	t.Helper()
	mount := t.TempDir()
	if err := unix.Mount("bpf", mount, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			t.Errorf("unmount bpffs: %v", err)
			unix.Unmount(mount, unix.MNT_DETACH)
		}
	})
	return filepath.Join(mount, "ip6d")
}

func endpointOf(t *testing.T, h addr.Host) addr.Stable {
	t.Helper()
	s, err := addr.DefaultPlan.Endpoint(1, h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// guest is a machine on a carrier.
type guest struct {
	*box
	addr.Stable
}

// run puts a machine on the host: number 1 of its block, or another.
func (c *carrier) run(network addr.Network, number addr.Machine) *guest {
	c.t.Helper()
	s, err := addr.DefaultPlan.Stable(network, 1, addr.Machine(c.id)<<8|number)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.runWith(s, 1500)
}

// runWith puts a machine on the host whose port has that MTU.
func (c *carrier) runWith(s addr.Stable, mtu int) *guest {
	c.t.Helper()
	g := &guest{newBox(c.t), s}
	p := create(c.t, c.agent, host.PortSpec{Address: s, Netns: g.path(), MTU: mtu, Configure: true})
	err := c.datapath.PutMachine(nat.Machine{ID: s.ID(), Network: s.Network(), Epoch: 1, State: nat.Delivering, Port: p.Datapath()})
	if err != nil {
		c.t.Fatal(err)
	}
	return g
}

// dropped is how many packets the host's datapath has dropped for a reason.
func (c *carrier) dropped(reason string) uint64 {
	c.t.Helper()
	all, err := c.datapath.Drops()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, d := range all {
		if d.Reason == reason {
			return d.Packets
		}
	}
	c.t.Fatalf("there is no reason %q", reason)
	return 0
}

func TestProgramsThatWereTakenAwayByHandAreBack(t *testing.T) {
	c := newCarrier(t, newFleet(t).host(1), 1, 20*time.Millisecond)
	a, b := c.run(42, 1), c.run(42, 2)
	attached := func() string {
		all, err := c.datapath.Attachments()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(all)
	}
	before := attached()
	c.do(func() error {
		pins, err := filepath.Glob(filepath.Join(c.pins, "links", "*"))
		if err != nil {
			return err
		}
		taken := 0
		for _, pin := range pins {
			err = errors.Join(err, os.Remove(pin))
			taken++
		}
		qdiscs, listErr := netlink.QdiscList(nil)
		for _, q := range qdiscs {
			if q.Type() == "clsact" { // of filters, on a kernel without links
				err = errors.Join(err, netlink.QdiscDel(q))
				taken++
			}
		}
		if taken == 0 {
			return errors.New("nothing is attached")
		}
		return errors.Join(err, listErr)
	})
	eventually(t, "everything is attached again: "+before, func() bool { return attached() == before })
	if err := a.ping(b.Addr().String()); err != nil {
		t.Error(err)
	}
}
