package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// randomBytes cannot arrive right by accident.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func TestMachinesTalkAcrossHosts(t *testing.T) {
	for _, c := range []struct {
		name           string
		byMAC, offload bool
	}{
		{"by MAC, checksums in packets", true, false},
		{"by neighbour, checksums in packets", false, false},
		{"by MAC, checksums offloaded", true, true},
		{"by neighbour, checksums offloaded", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			one, two := newFleet(t, 1500, c.byMAC)
			a, b, near := one.run(alice, c.offload), two.run(remote, c.offload), one.run(bob, c.offload)
			for _, pair := range [][2]*guest{{a, b}, {b, a}, {a, near}} {
				from, to := pair[0], pair[1]
				data := randomBytes(1 << 20)
				got := sendTCP(from.namespace, from.Addr(), to.namespace, to.Addr(), data)
				if !bytes.Equal(got, data) {
					t.Errorf("TCP from %s to %s: %d of %d bytes arrived right", from, to, len(got), len(data))
				}
				datagram := randomBytes(4000) // which goes in three fragments
				if got := sendUDP(from, to, datagram); !bytes.Equal(got, datagram) {
					t.Errorf("UDP from %s to %s: %d of %d bytes arrived right", from, to, len(got), len(datagram))
				}
			}
			for _, h := range []*fleetHost{one, two} {
				drops := dropsOf(t, h.Datapath)
				delete(drops, "multicast") // the machines' own chatter
				if len(drops) != 0 {
					t.Errorf("host %d dropped %v", h.id, drops)
				}
			}
		})
	}
}

// sendUDP sends one datagram, and returns what arrived.
func sendUDP(from, to *guest, data []byte) []byte {
	in := to.listenUDP(to.Addr(), 0)
	defer in.Close()
	out := from.listenUDP(from.Addr(), 0)
	defer out.Close()
	if _, err := out.WriteTo(data, in.LocalAddr()); err != nil {
		from.t.Fatal(err)
	}
	got := make([]byte, len(data)+1)
	in.SetReadDeadline(time.Now().Add(patience))
	n, _, err := in.ReadFrom(got)
	if err != nil {
		to.t.Error(err)
	}
	return got[:n]
}

func TestPacketTooBigReachesTheMachine(t *testing.T) {
	const mtu = 1400
	one, two := newFleet(t, mtu, true)
	a := one.run(alice, false)
	two.run(remote, false)
	c := a.listenUDP(alice.Addr(), 0)
	raw := must(c.SyscallConn())
	ok(t, raw.Control(func(fd uintptr) {
		ok(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO))
	}))
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(remote.Addr(), 9))
	eventually(t, "a datagram larger than the underlay's MTU is refused", func() error {
		_, err := c.WriteTo(make([]byte, mtu), to)
		if errors.Is(err, unix.EMSGSIZE) {
			return nil
		}
		return fmt.Errorf("write: %v", err)
	})
	if _, err := c.WriteTo(make([]byte, mtu-ipv6Length-8), to); err != nil {
		t.Errorf("a datagram as large as the underlay's MTU: %v", err)
	}
}

// A traceroute shows the sender's host, then the machine.
func TestTimeExceededComesFromTheSendersHost(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	a := one.run(alice, false)
	warm(a, one.run(bob, false))
	warm(a, two.run(remote, false))
	for _, to := range []addr.Stable{bob, remote} {
		var icmp net.PacketConn
		a.do(func() (err error) {
			icmp, err = net.ListenPacket("ip6:ipv6-icmp", "::")
			return err
		})
		defer icmp.Close()
		c := a.listenUDP(alice.Addr(), 0)
		ok(t, must(c.SyscallConn()).Control(func(fd uintptr) {
			ok(t, unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 1))
		}))
		if _, err := c.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Addr(), 33434))); err != nil {
			t.Fatal(err)
		}
		icmp.SetReadDeadline(time.Now().Add(patience))
		for message := make([]byte, 2000); ; {
			n, from, err := icmp.ReadFrom(message)
			if err != nil {
				t.Fatalf("to %s: no Time Exceeded: %v", to, err)
			}
			if message[0] != 3 { // something else, such as neighbour discovery
				continue
			}
			if from.String() != endpoint(1, 1).String() {
				t.Errorf("to %s: from %s, want host 1's endpoint", to, from)
			}
			quoted := message[8:n]
			if s, d := addressAt(quoted, 8), addressAt(quoted, 24); s != alice.Addr() || d != to.Addr() {
				t.Errorf("to %s: it quotes a packet from %s to %s", to, s, d)
			}
			break
		}
	}
}

func TestEndpointsAndMachinesOfEveryNetworkTalk(t *testing.T) {
	one, two := newFleet(t, 1500, false)
	a, m, b := one.run(alice, false), one.run(mallet, false), two.run(remote, false)
	data := randomBytes(100_000)
	self := endpoint(1, 1).Addr()
	for _, g := range []*guest{a, m, b} {
		if got := sendTCP(one.namespace, self, g.namespace, g.Addr(), data); !bytes.Equal(got, data) {
			t.Errorf("from the endpoint to %s: %d of %d bytes arrived right", g, len(got), len(data))
		}
		if got := sendTCP(g.namespace, g.Addr(), one.namespace, self, data); !bytes.Equal(got, data) {
			t.Errorf("from %s to the endpoint: %d of %d bytes arrived right", g, len(got), len(data))
		}
	}
	if got := sendTCP(one.namespace, self, two.namespace, endpoint(1, 2).Addr(), data); !bytes.Equal(got, data) {
		t.Errorf("from endpoint to endpoint: %d of %d bytes arrived right", len(got), len(data))
	}
}

// rawSocket sends frames as they are.
func (d device) rawSocket() (send func([]byte) error) {
	d.t.Helper()
	var fd int
	d.do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	d.t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) error {
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: d.index})
	}
}

func TestNobodyElseSpeaksAsTheEndpoint(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		one, _ := newFleetAttached(t, by, 1500, true)
		a := one.run(alice, false)
		arrived := count(a.listenUDP(alice.Addr(), 2))
		lan, outsider := vethPair(one.namespace, newNamespace(t), "lan", "eth0", 1500)
		f := datagram(endpoint(1, 1).Addr(), alice.Addr())
		f.to, f.from = lan.mac, outsider.mac
		send := outsider.rawSocket()
		eventually(t, "the host's stack forwards it into ip6d0, where it is refused", func() error {
			if n := dropsOf(t, one.Datapath)["forwarded"]; n == 0 {
				return errors.Join(errors.New("nothing was refused"), send(f.bytes()))
			}
			return nil
		})
		if n := arrived.Load(); n != 0 {
			t.Errorf("%d arrived", n)
		}
	})
}

// PROG_RUN takes neither of these.
func TestTaggedAndShortFramesAreRefusedByName(t *testing.T) {
	one, _ := newFleet(t, 1500, true)
	a := one.run(alice, false)
	one.run(bob, false)
	send := a.eth0.rawSocket()
	whole := datagram(alice.Addr(), bob.Addr()).bytes()
	tagged := append(append(bytes.Clone(whole[:12]), 0x81, 0, 0, 42), whole[12:]...)
	for _, c := range []struct {
		reason string
		frame  []byte
	}{{"vlan_tagged", tagged}, {"malformed", whole[:etherLength+ipv6Length-1]}} {
		eventually(t, c.reason, func() error {
			if dropsOf(t, one.Datapath)[c.reason] == 0 {
				return errors.Join(errors.New("nothing was refused"), send(c.frame))
			}
			return nil
		})
	}
}

// warm sends until something arrives: a device that has come up just now drops what it is given, and a neighbour
// that is not found yet costs packets too.
func warm(from, to *guest) {
	from.t.Helper()
	in := to.listenUDP(to.Addr(), 0)
	defer in.Close()
	out := from.listenUDP(from.Addr(), 0)
	defer out.Close()
	eventually(from.t, fmt.Sprintf("a datagram arrives from %s at %s", from, to), func() error {
		if _, err := out.WriteTo([]byte("hello"), in.LocalAddr()); err != nil {
			return err
		}
		in.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, err := in.Read(make([]byte, 10))
		return err
	})
}

// inFlight is how many datagrams a stream has on their way at most.
const inFlight = 64

// stream sends numbered datagrams from one socket to another, until stop is called. It then waits for all of them.
func stream(t *testing.T, out *net.UDPConn, to net.Addr, arrived func() int64) (stop func()) {
	t.Helper()
	done, sent := make(chan struct{}), make(chan int64, 1)
	var n atomic.Int64
	go func() {
		defer func() { sent <- n.Load() }()
		for {
			select {
			case <-done:
				return
			default:
			}
			if n.Load()-arrived() >= inFlight { // else it is the socket that loses them
				time.Sleep(50 * time.Microsecond)
				continue
			}
			if _, err := out.WriteTo(binary.BigEndian.AppendUint64(nil, uint64(n.Load())), to); err != nil {
				t.Error(err)
				return
			}
			n.Add(1)
		}
	}()
	return func() {
		t.Helper()
		close(done)
		all := <-sent
		eventually(t, "every datagram arrives", func() error {
			if got := arrived(); got != all {
				return fmt.Errorf("%d of %d", got, all)
			}
			return nil
		})
		t.Logf("%d datagrams", all)
	}
}

// progress waits until n more have arrived.
func progress(t *testing.T, arrived func() int64, n int64) {
	t.Helper()
	from := arrived()
	eventually(t, "datagrams flow", func() error {
		if arrived() < from+n {
			return fmt.Errorf("%d arrived", arrived()-from)
		}
		return nil
	})
}

// fleetWithStream makes two hosts, with a stream from a machine of one to a machine of the other.
func fleetWithStream(t *testing.T, by way) (one, two *fleetHost, arrived func() int64, stop func()) {
	t.Helper()
	one, two = newFleetAttached(t, by, 1500, true)
	a, b := one.run(alice, false), two.run(remote, false)
	warm(a, b)
	in := b.listenUDP(remote.Addr(), 0)
	arrived = count(in).Load
	stop = stream(t, a.listenUDP(alice.Addr(), 0), in.LocalAddr(), arrived)
	progress(t, arrived, 100)
	return one, two, arrived, stop
}

func TestRestartLosesNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		one, two, arrived, stop := fleetWithStream(t, by)
		for range 5 {
			for _, h := range []*fleetHost{one, two} {
				ok(t, h.Close())
				progress(t, arrived, 100) // with no daemon
				h.Datapath = h.namespace.open(h.options)
				h.do(func() error { return h.AttachUnderlay(h.underlay.index) })
				progress(t, arrived, 100)
			}
		}
		stop()
	})
}

// A move, as far as the datapath knows of it: begin, flip, commit, finish.
func TestMoveLosesNothingAndDeliversNothingEarly(t *testing.T) {
	one, two := newFleet(t, 1500, true)
	near, far := one.run(bob, false), two.run(remote, false)
	old := one.run(alice, false)
	fresh := two.attach(alice, false)
	id := alice.ID()
	warm(far, old)
	warm(near, far) // the underlay the other way, which packets that are forwarded take

	atOld := count(old.listenUDP(alice.Addr(), 7))
	atFresh := count(fresh.listenUDP(alice.Addr(), 7))
	both := func() int64 { return atOld.Load() + atFresh.Load() }
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(alice.Addr(), 7))
	stop := stream(t, far.listenUDP(remote.Addr(), 0), to, both)
	progress(t, both, 200)

	ok(t, two.PutMachine(fresh.entry(Incoming, 1, 1)))
	progress(t, both, 200)
	if n := atFresh.Load(); n != 0 {
		t.Errorf("%d were delivered before the switchover", n)
	}
	ok(t, one.Flip(id, 2, 1))
	settled := atOld.Load()
	progress(t, atFresh.Load, 200)
	ok(t, two.PutMachine(fresh.entry(Delivering, 0, 2)))
	progress(t, atFresh.Load, 200)
	ok(t, one.PutMoved(Moved{ID: id, Host: 2, Epoch: 2}))
	ok(t, two.PutMoved(Moved{ID: id, Host: 2, Epoch: 2}))
	ok(t, one.DeleteMachine(id, 2))
	progress(t, atFresh.Load, 200)
	stop()
	if late := atOld.Load() - settled; late > inFlight {
		t.Errorf("%d were delivered to the old port after the flip", late)
	}
	if got := sendUDP(near, fresh, []byte("over here")); string(got) != "over here" {
		t.Errorf("from the machine's first host arrived %q", got)
	}
}

// A guest that sends to another MAC than its gateway's is understood, too: its receiver's stack must not take the packet for
// another's.
func TestPacketToAnotherMACReachesTheSocket(t *testing.T) {
	one, _ := newFleet(t, 1500, true)
	a, b := one.run(alice, false), one.run(bob, false)
	in := b.listenUDP(bob.Addr(), 2)
	f := datagram(alice.Addr(), bob.Addr())
	f.to, f.from = mac(0xbb), a.eth0.mac
	ok(t, a.eth0.rawSocket()(f.bytes()))
	in.SetReadDeadline(time.Now().Add(patience))
	if _, from, err := in.ReadFromUDPAddrPort(make([]byte, 10)); err != nil || from.Addr() != alice.Addr() {
		t.Errorf("arrived from %s: %v; drops %v", from, err, dropsOf(t, one.Datapath))
	}
}
