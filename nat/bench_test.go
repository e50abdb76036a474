package nat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// bench holds one host's programs and the reference against each other, by PROG_RUN: the programs run, but a
// redirect is not followed.
type bench struct {
	namespace
	*Datapath
	reference *Reference
	options   Options

	port, other, underlay, stack device
	peers                        map[string]device // the other ends, elsewhere, by the name of this one

	flags  uint32          // of PROG_RUN
	events *ringbuf.Reader // what the programs tell the daemon; opened by heard
}

// testChecksumComplete has the kernel hand the program an skb with the sum of the whole packet, as some NICs do,
// and compare it afterwards: BPF_F_TEST_SKB_CHECKSUM_COMPLETE, Linux 6.13.
const testChecksumComplete = 1 << 2

const underlayMTU = 1500

// newBench opens a datapath of cell 1 with empty maps. Without a stack it has no ip6d0.
func newBench(t testing.TB, host addr.Host, withStack bool) *bench {
	t.Helper()
	pins := pinDir(t)
	b := &bench{namespace: newNamespace(t)}
	elsewhere := newNamespace(t)
	elsewhere.do(func() error { // it would send into the ports, which have the programs attached
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	})
	b.peers = make(map[string]device)
	b.port, b.peers["port"] = vethPair(b.namespace, elsewhere, "port", "p0", 1500)
	b.other, b.peers["other"] = vethPair(b.namespace, elsewhere, "other", "p1", 1500)
	b.underlay, _ = vethPair(b.namespace, elsewhere, "underlay", "p2", underlayMTU)
	b.stack, _ = vethPair(b.namespace, elsewhere, "ip6d0", "p3", 1500)

	o := Options{Plan: plan, Cell: 1, Host: host, PinDir: pins, Sizes: Sizes{Machines: 64, Blocks: 64, Hosts: 64}}
	if withStack {
		o.Stack = b.stack.index
	}
	b.options = o
	b.Datapath = b.namespace.open(o)
	b.reference = &Reference{
		Plan: plan, Cell: 1, Host: host,
		Stack: o.Stack, StackMAC: b.stack.mac, GatewayMAC: GatewayMAC(),
		MTU: map[int]int{b.underlay.index: underlayMTU, b.port.index: 1500, b.other.index: 1500},
	}
	b.clear()
	b.flags = testChecksumComplete
	b.namespace.do(func() error {
		if _, _, err := b.run(fromStack, b.stack.index, datagram(internet, internet).bytes()); errors.Is(err, unix.EINVAL) {
			b.flags = 0
		}
		return nil
	})
	return b
}

// reopen restarts the datapath with other options; its entries stay.
func (b *bench) reopen(change func(*Options)) {
	b.t.Helper()
	ok(b.t, b.Close())
	change(&b.options)
	b.Datapath = b.namespace.open(b.options)
}

func (b *bench) clear() {
	b.reference.Ports, b.reference.Awaited = make(map[int]addr.Stable), make(map[int]bool)
	b.reference.Machines = make(map[addr.ID]Machine)
	b.reference.Moved = make(map[addr.ID]addr.Host)
	b.reference.Blocks = make(map[BlockID]addr.Host)
	b.reference.Hosts = make(map[addr.Host]NextHop)
	b.reference.Dead, b.reference.Fenced = make(map[addr.Host]bool), false
}

// load makes the kernel's maps hold what the reference's do, through the API.
func (b *bench) load() {
	b.t.Helper()
	check := func(err error) {
		if err != nil {
			b.t.Helper()
			b.t.Fatal(err)
		}
	}
	const last = ^uint64(0)
	for _, m := range must(b.Datapath.Machines()) {
		check(b.DeleteMachine(m.ID, last))
	}
	for _, m := range must(b.MovedEntries()) {
		check(b.DeleteMoved(m.ID, last))
	}
	for _, e := range must(b.Blocks()) {
		check(b.DeleteBlock(e.Cell, e.Block))
	}
	for _, h := range must(b.Datapath.Hosts()) {
		check(b.DeleteHost(h.Host))
	}
	for _, h := range must(b.DeadHosts()) {
		check(b.DeleteDead(h))
	}
	for h := range b.reference.Dead {
		check(b.PutDead(h))
	}
	check(b.SetFenced(b.reference.Fenced))
	b.namespace.do(func() error {
		for ifindex, s := range b.reference.Ports {
			if err := b.AttachPort(ifindex, s); err != nil {
				return err
			}
			if err := b.AwaitPacket(ifindex, b.reference.Awaited[ifindex]); err != nil {
				return err
			}
		}
		return nil
	})
	for _, m := range b.reference.Machines {
		check(b.PutMachine(m))
	}
	for id, host := range b.reference.Moved {
		check(b.PutMoved(Moved{ID: id, Host: host, Epoch: 1}))
	}
	for block, home := range b.reference.Blocks {
		check(b.PutBlock(Block{Cell: block.Cell, Block: block.Block, Home: home}))
	}
	for _, h := range b.reference.Hosts {
		check(b.PutHost(h))
	}
}

// machine adds an entry to the reference's map.
func (b *bench) machine(s addr.Stable, state State, host addr.Host, port Port) addr.Stable {
	b.reference.Machines[s.ID()] = Machine{ID: s.ID(), Network: s.Network(), Epoch: 1, State: state, Host: host, Port: port}
	return s
}

// The ways of the bench's next hops.
const forAnHour = time.Hour

func (b *bench) nextHop(host addr.Host, ifindex int, trusted time.Duration) {
	hop := NextHop{Host: host, Ifindex: ifindex, Kind: HopNeighbour, Gateway: control(host), Source: mac(0xee)}
	if trusted > 0 {
		hop.MAC, hop.Trusted = mac(byte(host)), trusted
	}
	b.reference.Hosts[host] = hop
}

// predict asks the reference.
func (b *bench) predict(program string, ifindex int, frame []byte) Verdict {
	switch program {
	case fromMachine:
		return b.reference.FromMachine(ifindex, frame)
	case fromUnderlay:
		return b.reference.FromUnderlay(frame)
	}
	return b.reference.FromStack(frame)
}

// run asks the program. It must be called in the namespace.
func (b *bench) run(program string, ifindex int, frame []byte) (code int32, out []byte, err error) {
	const sizeofSkBuff, atIfindex = 192, 40 // struct __sk_buff in linux/bpf.h
	context := make([]byte, sizeofSkBuff)
	binary.NativeEndian.PutUint32(context[atIfindex:], uint32(ifindex))
	o := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+64), Context: context, Flags: b.flags}
	result, err := b.programs()[program].Run(&o)
	return int32(result), o.DataOut, err
}

// What a program returns for each action.
var verdictCodes = map[Action]int32{
	Next: -1, ToStack: 7, Refuse: 2, Answer: 7, ToPeer: 7, ToDevice: 7, ToNeighbour: 7, IntoStack: 7,
}

// compare runs program and reference on a frame, and says how they differ. It must be called in the namespace.
func (b *bench) compare(program string, ifindex int, frame []byte) (Verdict, error) {
	want := b.predict(program, ifindex, bytes.Clone(frame))
	before, err := b.counters()
	if err != nil {
		return want, err
	}
	if _, err := b.heard(); err != nil {
		return want, err
	}
	if want.Action == Answer && len(frame) != len(want.Frame) {
		// Another length takes the sum from the skb (CHECKSUM_NONE), but PROG_RUN compares it all the same.
		defer func(flags uint32) { b.flags = flags }(b.flags)
		b.flags = 0
	}
	code, out, err := b.run(program, ifindex, frame)
	if err != nil {
		return want, fmt.Errorf("%s on %d: %w; reference says %v %s\nframe:\n%s", program, ifindex, err, want.Action, want.Reason, hexDiff(frame, frame))
	}
	after, err := b.counters()
	if err != nil {
		return want, err
	}
	drops := make(map[string]uint64)
	for i, name := range b.names {
		if n := after[i] - before[i]; n != 0 {
			drops[name] = n
		}
	}
	heard, err := b.heard()
	if err != nil {
		return want, err
	}

	wantDrops := make(map[string]uint64)
	if want.Reason != "" {
		wantDrops[want.Reason] = 1
	}
	var wantTold []word
	if want.Sent {
		wantTold = append(wantTold, word{EventSent, b.reference.Host, addressAt(frame, etherLength+24)})
	}
	if want.Astray != 0 {
		wantTold = append(wantTold, word{EventAstray, want.Astray, addressAt(frame, etherLength+24)})
	}
	switch {
	case !slices.Equal(heard, wantTold):
		err = fmt.Errorf("what the daemon is told: program says %v, reference %v", heard, wantTold)
	case code != verdictCodes[want.Action] || !maps.Equal(drops, wantDrops):
		err = fmt.Errorf("program returned %d with drops %v; reference says %v %s", code, drops, want.Action, want.Reason)
	case want.Action != Refuse && !bytes.Equal(out, want.Frame):
		err = fmt.Errorf("%v, but the frames differ (program, then reference):\n%s", want.Action, hexDiff(out, want.Frame))
	}
	if err != nil {
		err = fmt.Errorf("%s on %d: %w\nframe:\n%s", program, ifindex, err, hexDiff(frame, frame))
	}
	return want, err
}

// counters reads `drops` as Drops does, in one call into the kernel.
func (b *bench) counters() ([]uint64, error) {
	m := b.objects.Drops
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	keys, perCPU := make([]uint32, m.MaxEntries()), make([]uint64, int(m.MaxEntries())*cpus)
	var cursor ebpf.MapBatchCursor
	if n, err := m.BatchLookup(&cursor, keys, perCPU, nil); n != len(keys) {
		return nil, fmt.Errorf("read %d drops of %d: %w", n, len(keys), err)
	}
	sums := make([]uint64, len(keys))
	for i, n := range perCPU {
		sums[keys[i/cpus]] += n
	}
	return sums, nil
}

// hexDiff prints two frames line by line, lines that differ in pairs with the differing bytes in brackets.
func hexDiff(a, b []byte) string {
	var s strings.Builder
	line := func(sign byte, at int, x, y []byte) {
		fmt.Fprintf(&s, "%c %04x ", sign, at)
		for i := at; i < min(at+16, len(x)); i++ {
			if i < len(y) && x[i] == y[i] {
				fmt.Fprintf(&s, " %02x ", x[i])
			} else {
				fmt.Fprintf(&s, "[%02x]", x[i])
			}
		}
		s.WriteByte('\n')
	}
	for at := 0; at < max(len(a), len(b)); at += 16 {
		x, y := a[min(at, len(a)):min(at+16, len(a))], b[min(at, len(b)):min(at+16, len(b))]
		if bytes.Equal(x, y) {
			line(' ', at, a, b)
			continue
		}
		line('-', at, a, b)
		line('+', at, b, a)
	}
	return s.String()
}

func peerPort(d device, last byte) Port {
	return Port{Ifindex: d.index, Enter: EnterPeer, MAC: mac(last)}
}

func devicePort(d device, last byte) Port {
	return Port{Ifindex: d.index, Enter: EnterDevice, MAC: net.HardwareAddr{0x02, 0, 0, 0, 1, last}}
}
