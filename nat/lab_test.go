package nat

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// needsRoot skips a test that cannot run without, and fails it where skipping would hide that it never runs.
func needsRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root: BPF programs and network namespaces")
	}
	t.Skip("needs root: BPF programs and network namespaces")
}

// pinDir returns a directory, which does not exist yet, on a BPF file system of the test's own. It is mounted nowhere, so
// that it is gone with the test's process, however that ends: it takes all pins with it, and with them links and maps.
func pinDir(t testing.TB) string {
	t.Helper()
	needsRoot(t)
	fs, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatalf("open bpffs: %v", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigCreate(fs); err != nil {
		t.Fatalf("make bpffs: %v", err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() { unix.Close(mount) })
	return fmt.Sprintf("/proc/self/fd/%d/ip6d", mount)
}

// namespace is a network namespace without a name: it is gone with the test's process, however that ends.
type namespace struct {
	t  testing.TB
	ns netns.NsHandle
}

func newNamespace(t testing.TB) namespace {
	t.Helper()
	needsRoot(t)
	n := namespace{t: t}
	n.onThread(func() error {
		var err error
		n.ns, err = netns.New()
		return err
	})
	t.Cleanup(func() { n.ns.Close() })
	n.do(func() error {
		// the kernel's own chatter would be counted with what the tests send
		for path, value := range map[string]string{
			"/proc/sys/net/ipv6/conf/default/accept_dad":           "0",
			"/proc/sys/net/ipv6/conf/default/router_solicitations": "0",
			"/proc/sys/net/ipv6/conf/all/forwarding":               "1",
			"/proc/sys/net/ipv6/conf/default/forwarding":           "1",
		} {
			if err := os.WriteFile(path, []byte(value), 0); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return n
}

// do runs f in the namespace; sockets made there stay there.
func (n namespace) do(f func() error) {
	n.t.Helper()
	n.onThread(func() error {
		if err := netns.Set(n.ns); err != nil {
			return err
		}
		return f()
	})
}

// onThread runs f on a thread that may end up in another namespace. One that does not come back is thrown away.
func (n namespace) onThread(f func() error) {
	n.t.Helper()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := netns.Get()
		if err != nil {
			failed <- err
			return // still locked: the thread ends with the goroutine
		}
		defer home.Close()
		err = f()
		if back := netns.Set(home); back == nil {
			runtime.UnlockOSThread()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		n.t.Fatal(err)
	}
}

// device is one end of a veth pair.
type device struct {
	namespace
	name  string
	index int
	mac   net.HardwareAddr
}

// vethPair makes a veth pair between two namespaces, both ends up and without an address.
func vethPair(a, b namespace, nameA, nameB string, mtu int) (device, device) {
	a.t.Helper()
	a.do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = nameA, mtu
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(b.ns)})
	})
	return a.up(nameA, mtu), b.up(nameB, mtu)
}

// up brings a device up, and says what it is.
func (n namespace) up(name string, mtu int) device {
	n.t.Helper()
	d := device{namespace: n, name: name}
	n.do(func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		d.index, d.mac = l.Attrs().Index, l.Attrs().HardwareAddr
		return errors.Join(netlink.LinkSetMTU(l, mtu), netlink.LinkSetUp(l))
	})
	return d
}

// open opens a datapath in the namespace.
func (n namespace) open(o Options) *Datapath {
	n.t.Helper()
	var d *Datapath
	n.do(func() (err error) {
		d, err = Open(o)
		return err
	})
	n.t.Cleanup(func() { d.Close() })
	return d
}

// patience is only ever used up by a failure.
const patience = 30 * time.Second

// eventually waits until f returns nil, and fails the test with its last error when that takes too long.
func eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not after %v: %v", what, patience, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// dropsOf returns the counters that are not 0, by reason.
func dropsOf(t testing.TB, d *Datapath) map[string]uint64 {
	t.Helper()
	all, err := d.Drops()
	if err != nil {
		t.Fatal(err)
	}
	counted := make(map[string]uint64)
	for _, drop := range all {
		if drop.Packets != 0 {
			counted[drop.Reason] = drop.Packets
		}
	}
	return counted
}

var plan = addr.DefaultPlan

func stable(network addr.Network, cell addr.Cell, machine addr.Machine) addr.Stable {
	return must(plan.Stable(network, cell, machine))
}

func endpoint(cell addr.Cell, host addr.Host) addr.Stable { return must(plan.Endpoint(cell, host)) }

func routing(s addr.Stable, host addr.Host) netip.Addr { return must(plan.Encode(s, host)).Addr() }

func control(host addr.Host) netip.Addr { return must(plan.Control(host)).Addr() }

func mac(last byte) net.HardwareAddr { return net.HardwareAddr{0x02, 0, 0, 0, 0, last} }

// frame is an Ethernet frame with an IPv6 packet. Its checksum is right.
type frame struct {
	to, from            net.HardwareAddr
	etherType           uint16 // 0: IPv6
	source, destination netip.Addr
	hopLimit            byte // 0: 64; for a hop limit of 0 see edit
	next                byte // next header; 0 with no extensions: UDP
	payload             []byte
	edit                func([]byte) []byte
}

func (f frame) bytes() []byte {
	b := make([]byte, etherLength+ipv6Length, etherLength+ipv6Length+len(f.payload))
	copy(b, f.to)
	copy(b[6:], f.from)
	be16(b[12:], orDefault(f.etherType, 0x86dd))
	ip := b[etherLength:]
	ip[0] = 0x60
	be16(ip[4:], uint16(len(f.payload)))
	ip[6] = orDefault(f.next, unix.IPPROTO_UDP)
	ip[7] = orDefault(f.hopLimit, 64)
	putAddress(ip, 8, f.source)
	putAddress(ip, 24, f.destination)
	b = append(b, f.payload...)
	if f.edit != nil {
		b = f.edit(b)
	}
	return b
}

func orDefault[T comparable](v, or T) T {
	var zero T
	if v == zero {
		return or
	}
	return v
}

func be16(b []byte, v uint16) { b[0], b[1] = byte(v>>8), byte(v) }

// udp is a datagram from port 1 to port 2 with a checksum.
func udp(source, destination netip.Addr, data ...byte) []byte {
	return checksummed(unix.IPPROTO_UDP, source, destination, 6, append([]byte{0, 1, 0, 2, 0, byte(8 + len(data)), 0, 0}, data...))
}

// icmpv6 is a message with a checksum.
func icmpv6(source, destination netip.Addr, kind byte, body ...byte) []byte {
	return checksummed(protocolICMPv6, source, destination, 2, append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, body...))
}

func checksummed(protocol byte, source, destination netip.Addr, at int, message []byte) []byte {
	be16(message[at:], ^uint16(transportSum(protocol, source, destination, message)))
	return message
}

// transportSum is the one's-complement sum over pseudo header and message (RFC 8200 section 8.1): 0xffff when
// the checksum in it is right.
func transportSum(protocol byte, source, destination netip.Addr, message []byte) uint32 {
	pseudo := append(source.AsSlice(), destination.AsSlice()...)
	pseudo = append(pseudo, 0, 0, byte(len(message)>>8), byte(len(message)), 0, 0, 0, protocol)
	var sum uint32
	for _, b := range [][]byte{pseudo, message} {
		for i := range b {
			sum += uint32(b[i]) << (8 * (1 - i&1))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return sum
}

func (d device) String() string { return fmt.Sprintf("%s (%d)", d.name, d.index) }

// addVeth makes a veth pair whose first end has a number that the test chose.
func addVeth(name, peer string, index int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = name, index
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer})
}

func deleteLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}
