package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/addr"
	"ip6d/host"
	"ip6d/integration/lab"
	"ip6d/nat"
)

// newMesh is newFleet over WireGuard.
func newMesh(t *testing.T, hosts int) *fleet {
	t.Helper()
	o := options(hosts)
	o.Underlay = lab.UnderlayWireGuard
	return newFleetWith(t, o)
}

// startMeshTalk is startTalk at a pace that WireGuard processes bear. Where one waits for a CPU for so long that its device's
// queue overflows, that is no loss of ip6d's.
func (f *fleet) startMeshTalk(peer, mover *lab.Machine) *talk {
	f.t.Helper()
	k := f.startTalkAt(pace{there: 500, back: 125, tcp: lab.TCPOptions{Forth: 2e5, Back: 1e5}}, peer, mover)
	k.excused = func() (dropped uint64) {
		for _, h := range f.Hosts() {
			f.must(h.Do(func() error {
				l, err := netlink.LinkByName(h.UnderlayDevice())
				if err == nil {
					dropped += l.Attrs().Statistics.TxDropped
				}
				return err
			}))
		}
		if dropped > 0 {
			f.t.Logf("%d packets did not fit the queues of WireGuard processes", dropped)
		}
		return dropped
	}
	return k
}

// wireGuardDevices is how the names of the lab's WireGuard devices begin.
func wireGuardDevices() string { return fmt.Sprintf("wg%08x-", crc32.ChecksumIEEE([]byte(setup.lab))) }

// control is a host's address in the mesh.
func control(number int) netip.Addr {
	r, err := addr.DefaultPlan.Control(addr.Host(number))
	if err != nil {
		panic(err) // host 0
	}
	return r.Addr()
}

// mesh is a host's WireGuard device.
func (f *fleet) mesh(h *lab.Host) (d *wgtypes.Device) {
	f.t.Helper()
	f.must(h.Do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		d, err = c.Device(h.UnderlayDevice())
		return errors.Join(err, c.Close())
	}))
	return d
}

func TestHostsOfAMeshReachEachOther(t *testing.T) {
	f := newMesh(t, 3)
	for _, from := range f.Hosts() {
		for _, to := range f.Hosts() {
			if from == to {
				continue
			}
			f.eventually(fmt.Sprintf("%s reaches %s", from.Name, to.Name), func() error {
				cmd := exec.Command("ping", "-6", "-n", "-c", "1", "-W", "1", control(to.Number).String())
				return from.Do(func() error {
					if out, err := cmd.CombinedOutput(); err != nil {
						return fmt.Errorf("%w: %s", err, out)
					}
					return nil
				})
			})
		}
	}
}

func TestAMachineMovesThroughAMeshWhileItTalksAndNothingIsLost(t *testing.T) {
	f := newMesh(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startMeshTalk(red1, red2)
	f.moveAround(k, red2)
}

// A peer accepts from the host that forwards only what has that host's own prefix.
func TestTheOldHostForwardsThroughAMesh(t *testing.T) {
	f := newMesh(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	k := f.startMeshTalk(red1, red2)
	k.flow()
	f.must(f.Host(1).KillDaemon()) // it goes on sending to host 2
	g, err := red2.Begin(f.ctx, f.Host(3))
	f.must(err, g.Attach(f.ctx), g.Switchover(f.ctx))
	k.flow()
	f.must(f.Host(1).StartDaemon(f.ctx), g.Finish(f.ctx))
	k.flow()
	k.end()
}

func TestPacketsFlowThroughAMeshWithoutAnyDaemon(t *testing.T) {
	f := newMesh(t, 3)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	f.must(red2.Move(f.ctx, f.Host(3)))
	k := f.startMeshTalk(red1, red2)
	k.flow()
	f.withoutDaemons(k)
	k.end()
}

func TestMachinesInAMeshHaveItsMTU(t *testing.T) {
	f := newMesh(t, 2)
	for _, m := range f.Machines() {
		f.must(m.Do(func() error {
			l, err := netlink.LinkByName(m.Device())
			if err == nil && l.Attrs().MTU != 1420 {
				t.Errorf("%s has MTU %d on %s, want 1420", m.Name, l.Attrs().MTU, m.Device())
			}
			return err
		}))
	}
}

func TestAMachineWithALargerMTULearnsTheMeshs(t *testing.T) {
	f := newMesh(t, 2)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	f.must(red1.Ping(f.ctx, red2))
	larger := func(device string) func() error {
		return func() error {
			l, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			return netlink.LinkSetMTU(l, 1500)
		}
	}
	f.must(f.Host(1).Do(larger(host.PortName(red1.Stable.Machine()))), red1.Do(larger(red1.Device())))
	f.eventually("the machine's route to its peer has the mesh's MTU", func() error {
		return red1.Do(func() error {
			c, err := net.DialUDP("udp6", nil, &net.UDPAddr{IP: red2.Stable.Addr().AsSlice(), Port: 9})
			if err != nil {
				return err
			}
			defer c.Close()
			_, sendErr := c.Write(make([]byte, 1440)) // with its headers 1488 bytes; EMSGSIZE once the MTU is known
			routes, err := netlink.RouteGet(red2.Stable.Addr().AsSlice())
			if err != nil {
				return err
			}
			if len(routes) != 1 || routes[0].MTU != 1420 {
				return fmt.Errorf("routes %v (send: %w)", routes, sendErr)
			}
			return nil
		})
	})
}

// Packets of many segments at a time are what makes userspace WireGuard fast: they go into its device and come out of it
// whole.
func TestTCPGoesThroughAMeshInPacketsOfManySegments(t *testing.T) {
	f := newMesh(t, 2)
	red1, red2 := f.Machine("red1"), f.Machine("red2")
	for _, m := range []*lab.Machine{red1, red2} {
		f.must(m.Do(func() error { return segmentByDevice(m.Device()) }))
	}
	f.must(red1.Ping(f.ctx, red2))
	statistics := func(h *lab.Host) (s netlink.LinkStatistics) {
		f.must(h.Do(func() error {
			l, err := netlink.LinkByName(h.UnderlayDevice())
			if err == nil {
				s = *l.Attrs().Statistics
			}
			return err
		}))
		return s
	}
	sent, received := statistics(f.Host(1)), statistics(f.Host(2))
	s, err := lab.StartTCP(f.ctx, red1, red2, lab.TCPOptions{Forth: 50e6, Back: 1e5})
	f.must(err, s.WaitReceived(f.ctx, 1e4))
	f.eventually("50 MB have gone", func() error {
		if n := statistics(f.Host(1)).TxBytes - sent.TxBytes; n < 50e6 {
			return fmt.Errorf("%d bytes so far", n)
		}
		return nil
	})
	if r := s.Stop(); r.Broken != nil {
		t.Errorf("TCP broke: %v", r.Broken)
	}
	for _, c := range []struct {
		where          string
		bytes, packets uint64
	}{
		{"into host 1's device", statistics(f.Host(1)).TxBytes - sent.TxBytes, statistics(f.Host(1)).TxPackets - sent.TxPackets},
		{"out of host 2's device", statistics(f.Host(2)).RxBytes - received.RxBytes, statistics(f.Host(2)).RxPackets - received.RxPackets},
	} {
		t.Logf("%s went %d bytes in %d packets", c.where, c.bytes, c.packets)
		if c.packets == 0 || c.bytes/c.packets < 2*1420 {
			t.Errorf("%s went %d bytes in %d packets; they were cut into segments before", c.where, c.bytes, c.packets)
		}
	}
}

// segmentByDevice lets the kernel leave segmentation and checksums to the device, which the lab has switched off.
func segmentByDevice(device string) error {
	e, err := ethtool.NewEthtool()
	if err != nil {
		return err
	}
	defer e.Close()
	return e.Change(device, map[string]bool{"tx-checksum-ip-generic": true, "tx-tcp6-segmentation": true})
}

func TestAHostCannotSendInTheNameOfAnotherThroughAMesh(t *testing.T) {
	f := newMesh(t, 3)
	red1, red2, red3 := f.Machine("red1"), f.Machine("red2"), f.Machine("red3")
	f.must(red1.Ping(f.ctx, red2))
	var received *net.UDPConn
	f.must(red2.Do(func() (err error) {
		received, err = net.ListenUDP("udp6", &net.UDPAddr{IP: red2.Stable.Addr().AsSlice()})
		return err
	}))
	defer received.Close()
	port := uint16(received.LocalAddr().(*net.UDPAddr).Port)

	routing := func(m *lab.Machine) netip.Addr {
		r, err := addr.DefaultPlan.Encode(m.Stable, m.Host().ID())
		f.must(err)
		return r.Addr()
	}
	// Both as host 1's stack would send them into the mesh, one behind the other in one session.
	send := func(source netip.Addr, text string) {
		t.Helper()
		packet := udpPacket(source, routing(red2), port, text)
		f.must(f.Host(1).Do(func() error {
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			l, err := netlink.LinkByName(f.Host(1).UnderlayDevice())
			if err != nil {
				return err
			}
			const ipv6 = unix.ETH_P_IPV6<<8&0xff00 | unix.ETH_P_IPV6>>8 // in network order
			return unix.Sendto(fd, packet, 0, &unix.SockaddrLinklayer{Protocol: ipv6, Ifindex: l.Attrs().Index})
		}))
	}
	send(routing(red3), "forged")
	send(routing(red1), "own")
	deadline, _ := f.ctx.Deadline()
	f.must(received.SetReadDeadline(deadline))
	text := make([]byte, 100)
	n, from, err := received.ReadFromUDPAddrPort(text)
	f.must(err)
	if got := string(text[:n]); got != "own" || from.Addr() != red1.Stable.Addr() {
		t.Errorf("red2 got %q from %s, want %q from %s alone", got, from, "own", red1.Stable)
	}
}

func TestAHostThatIsNoMoreLosesItsPlaceInTheMesh(t *testing.T) {
	f := newMesh(t, 3)
	gone := f.mesh(f.Host(3)).PublicKey
	f.must(f.Host(3).KillDaemon()) // which would publish its record again
	f.deleteRecord("map/hosts/3")
	for _, h := range f.Hosts()[:2] {
		f.eventually(h.Name+" has it as a peer no more", func() error {
			peers := f.mesh(h).Peers
			if len(peers) != 1 || peers[0].PublicKey == gone {
				return fmt.Errorf("peers %v", peers)
			}
			return nil
		})
	}
	f.must(f.Machine("red1").Ping(f.ctx, f.Machine("red2")))
}

// deleteRecord deletes a key of the fleet's store, as `etcdctl del` would.
func (f *fleet) deleteRecord(key string) {
	f.t.Helper()
	h := f.Host(1)
	status, err := h.Status(f.ctx)
	f.must(err)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
		err = h.Do(func() error {
			var d net.Dialer
			c, err = d.DialContext(ctx, network, address)
			return err
		})
		return c, err
	}}}
	request, err := json.Marshal(map[string][]byte{"key": []byte("/ip6d/" + setup.lab + "/" + key)})
	f.must(err)
	answer, err := client.Post(status.Endpoints[0]+"/v3/kv/deleterange", "application/json", bytes.NewReader(request))
	f.must(err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	f.must(err)
	if !strings.Contains(string(text), `"deleted":"1"`) {
		f.t.Fatalf("delete %s: %s: %s", key, answer.Status, text)
	}
}

func TestAFirstStartThatIsRefusedLeavesNoMesh(t *testing.T) {
	f := newMesh(t, 2)
	h := f.Host(2)
	f.must(h.KillDaemon())
	// It is the first one on a computer where nothing of the earlier one is, but for its mesh.
	f.must(h.Do(func() error {
		stack, err := netlink.LinkByName(host.StackDevice)
		return errors.Join(err, nat.Remove(h.Pins()), netlink.LinkDel(stack))
	}))
	dir := t.TempDir()
	config := filepath.Join(filepath.Dir(h.Socket()), "ip6d.yaml")
	cmd := exec.CommandContext(f.ctx, setup.ip6d, "serve", "--config", config,
		"--identity", "somebody-else", "--state-dir", filepath.Join(dir, "state"))
	var said []byte
	f.must(h.Do(func() error {
		var err error
		if said, err = cmd.CombinedOutput(); err == nil {
			return errors.New("it started")
		}
		return nil
	}))
	if !strings.Contains(string(said), "belongs to") {
		t.Errorf("it says %q, want that the id belongs to another server", said)
	}
	f.must(h.Do(func() error {
		_, err := netlink.LinkByName(h.UnderlayDevice())
		if errors.As(err, new(netlink.LinkNotFoundError)) {
			return nil
		}
		return fmt.Errorf("device %s is left (%w)", h.UnderlayDevice(), err)
	}))
}

// udpPacket is an IPv6 packet with a UDP datagram.
func udpPacket(source, destination netip.Addr, port uint16, text string) []byte {
	length := 8 + len(text)
	p := make([]byte, 40, 40+length)
	p[0], p[5], p[6], p[7] = 6<<4, byte(length), unix.IPPROTO_UDP, 64
	s, d := source.As16(), destination.As16()
	copy(p[8:], s[:])
	copy(p[24:], d[:])
	p = append(p, byte(port>>8), byte(port), byte(port>>8), byte(port), 0, byte(length), 0, 0)
	p = append(p, text...)
	sum := uint32(length) + unix.IPPROTO_UDP
	for i := 8; i < len(p); i += 2 {
		sum += uint32(p[i]) << 8
		if i+1 < len(p) {
			sum += uint32(p[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	p[46], p[47] = byte(^sum>>8), byte(^sum)
	return p
}
