package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/bpf"
)

// way is a way to attach programs: Options.hooks.
type way = func(dir string, p *ebpf.Program) (hooks, error)

// eachWay runs a test with each way to attach that the kernel has. Filters work on every kernel, also where links are
// what is used.
func eachWay(t *testing.T, test func(*testing.T, way)) {
	needsRoot(t)
	if kernelHasTCX(t) {
		t.Run("links", func(t *testing.T) { test(t, kernelHooks) })
	}
	t.Run("filters", func(t *testing.T) {
		test(t, func(dir string, _ *ebpf.Program) (hooks, error) { return newClsact(dir) })
	})
}

func kernelHasTCX(t testing.TB) bool {
	t.Helper()
	h, err := kernelHooks(t.TempDir(), verdict(t, unix.BPF_OK))
	ok(t, err)
	ok(t, h.close())
	_, has := h.(tcx)
	return has
}

// verdict is a program that says v of every packet.
func verdict(t testing.TB, v int32) *ebpf.Program {
	t.Helper()
	return load(t, asm.Mov.Imm(asm.R0, v), asm.Return())
}

func load(t testing.TB, instructions ...asm.Instruction) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: instructions})
	ok(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// attachedProgram is a program on a device's ingress, and its link's id or its filter's handle.
type attachedProgram struct {
	program ebpf.ProgramID
	by      uint32
}

func attached(t *testing.T, d device) (all []attachedProgram) {
	t.Helper()
	if kernelHasTCX(t) {
		d.do(func() error {
			result, err := link.QueryPrograms(link.QueryOptions{Target: d.index, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				return err
			}
			for _, p := range result.Programs {
				by, _ := p.LinkID()
				all = append(all, attachedProgram{p.ID, uint32(by)})
			}
			return nil
		})
	}
	for _, f := range d.filters() {
		all = append(all, attachedProgram{ebpf.ProgramID(f.Id), f.Handle})
	}
	return all
}

// filters returns those on a device's ingress.
func (d device) filters() (those []*netlink.BpfFilter) {
	d.t.Helper()
	d.do(func() error {
		c, err := newClsact("/")
		if err != nil {
			return err
		}
		those, err = c.filters(d.index, ingress)
		return errors.Join(err, c.close())
	})
	return those
}

// Linux 6.6 has TCX. Where `make test-kernel` runs an older one, this shows that the tests there are about filters.
func TestLinksAreUsedWhereTheKernelHasThem(t *testing.T) {
	d := open(t, options(pinDir(t)))
	var name unix.Utsname
	ok(t, unix.Uname(&name))
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if n, err := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		t.Fatalf("release %s: %v", release, err)
	}
	want := reflect.TypeFor[clsact]()
	if major > 6 || major == 6 && minor >= 6 {
		want = reflect.TypeFor[tcx]()
	}
	if got := reflect.TypeOf(d.hooks); got != want {
		t.Errorf("Linux %s attaches by %v, want %v", release, got, want)
	}
}

func TestEveryProgramIsOnTheSideThatItWasWrittenFor(t *testing.T) {
	d := open(t, options(pinDir(t)))
	spec, err := bpf.LoadDatapath()
	ok(t, err)
	want := make(map[string]side)
	for name, p := range spec.Programs {
		switch p.AttachType {
		case ebpf.AttachTCXIngress:
			want[name] = ingress
		case ebpf.AttachTCXEgress:
			want[name] = egress
		}
	}
	got := make(map[string]side)
	for name, p := range d.programs() {
		got[name] = p.side
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("sides are %v, and by their sections in C %v", got, want)
	}
}

func TestFailedOpenLeavesNothingBehind(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		dir := pinDir(t)
		o := options(filepath.Join(dir, "deep", "er"))
		o.hooks = by
		obstacle := filepath.Join(o.PinDir, programsDir, fromMachine)
		ok(t, os.MkdirAll(obstacle, 0o700)) // where the program is to be pinned
		if _, err := Open(o); err == nil {
			t.Fatal("opened in spite of it")
		}
		ok(t, os.Remove(obstacle))
		var left []string
		ok(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				left = append(left, path)
			}
			return err
		}))
		if left != nil {
			t.Errorf("pins left: %v", left)
		}
	})
}

func TestRemoveLeavesNothing(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		o := options(pinDir(t))
		o.hooks = by
		n := newNamespace(t)
		port, _ := vethPair(n, n, "port", "guest", 1500)
		for what, remove := range map[string]func(*Datapath) error{
			"its method":   (*Datapath).Remove,
			"the function": func(d *Datapath) error { return errors.Join(d.Close(), Remove(o.PinDir)) },
		} {
			d := n.open(o)
			n.do(func() error { return d.AttachPort(port.index, alice) })
			if got := attached(t, port); len(got) != 1 {
				t.Fatalf("%v are attached", got)
			}
			n.do(func() error { return remove(d) })
			if _, err := os.Stat(o.PinDir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: pin directory: %v", what, err)
			}
			if got := attached(t, port); len(got) != 0 {
				t.Errorf("%s: programs %v are still attached", what, got)
			}
			n.do(func() error { return Remove(o.PinDir) }) // there is nothing any more
		}
	})
}

func TestAttachingAgainUpdatesInPlace(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		o := options(pinDir(t))
		o.hooks = by
		n := newNamespace(t)
		port, _ := vethPair(n, n, "port", "guest", 1500)
		underlay, _ := vethPair(n, n, "underlay", "far", 1500)
		attach := func(d *Datapath, s addr.Stable) {
			n.do(func() error { return errors.Join(d.AttachPort(port.index, s), d.AttachUnderlay(underlay.index)) })
		}
		first := n.open(o)
		attach(first, alice)
		attach(first, alice)
		before := attached(t, port)
		if len(before) != 1 {
			t.Fatalf("%v are attached", before)
		}
		ok(t, first.Close())
		if got := attached(t, port); !reflect.DeepEqual(got, before) {
			t.Errorf("after Close %v are attached, want %v", got, before)
		}

		second := n.open(o) // as a new version of the daemon would
		after := attached(t, port)
		if len(after) != 1 || after[0].program == before[0].program || after[0].by != before[0].by {
			t.Errorf("after Open %v are attached, want another program in the place of %v", after, before)
		}
		attach(second, bob)
		if got := attached(t, port); !reflect.DeepEqual(got, after) {
			t.Errorf("after attaching again %v are attached, want %v", got, after)
		}
		want := []Attachment{{fromMachine, port.index}, {fromUnderlay, underlay.index}, {toUnderlay, underlay.index}}
		if got := must(second.Attachments()); !reflect.DeepEqual(got, want) {
			t.Errorf("attachments are %v, want %v", got, want)
		}
		ok(t, second.DetachPort(port.index))
		ok(t, second.DetachPort(port.index))
		if got := attached(t, port); len(got) != 0 {
			t.Errorf("after DetachPort %v are attached", got)
		}
		if hasIdentity(t, second, port.index) {
			t.Error("after DetachPort the identity is there")
		}
	})
}

// hasIdentity tells whether a device may send as some machine.
func hasIdentity(t *testing.T, d *Datapath, ifindex int) bool {
	t.Helper()
	_, found, err := d.port(ifindex)
	ok(t, err)
	return found
}

func TestDeviceThatTookTheNumberOfOneThatWentIsAttachedAnew(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		o := options(pinDir(t))
		o.hooks = by
		n := newNamespace(t)
		const index = 77
		add := func() device {
			n.do(func() error { return addVeth("port", "guest", index) })
			return n.up("port", 1500)
		}
		add()
		d := n.open(o)
		n.do(func() error { return d.AttachPort(index, alice) })
		n.do(func() error { return deleteLink("port") })
		port := add()
		if got := attached(t, port); len(got) != 0 {
			t.Fatalf("the new device has %v already", got)
		}
		n.do(func() error { return d.AttachPort(index, bob) })
		if got := attached(t, port); len(got) != 1 {
			t.Errorf("attached: %v", got)
		}

		// and across a restart, what was attached to it is swept with its identity, though there is another one
		n.do(func() error { return deleteLink("port") })
		ok(t, d.Close())
		add()
		d = n.open(o)
		if all := must(d.Attachments()); len(all) != 0 {
			t.Errorf("attachments: %v", all)
		}
		if hasIdentity(t, d, index) {
			t.Error("the identity of a device that has gone is there")
		}
		ok(t, d.DetachPort(index))
	})
}

func TestAttachingToNoDeviceLeavesNoIdentity(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		o := options(pinDir(t))
		o.hooks = by
		d := open(t, o)
		if err := d.AttachPort(99999, alice); !errors.Is(err, unix.ENODEV) {
			t.Fatalf("error %v, want ENODEV", err)
		}
		if hasIdentity(t, d, 99999) {
			t.Error("the identity is there")
		}
	})
}

func TestVerdictsMeanTheSameEachWay(t *testing.T) {
	for _, c := range []struct {
		name                      string
		verdict                   int32
		reachesNext, reachesStack bool
	}{
		{"next", unix.BPF_OK - 1, true, true}, // NEXT in bpf/packet.h
		{"ok", unix.BPF_OK, false, true},      // TC_ACT_OK
		{"shot", unix.BPF_DROP, false, false}, // TC_ACT_SHOT
	} {
		t.Run(c.name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, by way) { checkVerdict(t, by, c.verdict, c.reachesNext, c.reachesStack) })
		})
	}
}

// checkVerdict attaches a program that says v before one that counts what it leaves.
func checkVerdict(t *testing.T, by way, v int32, reachesNext, reachesStack bool) {
	n := newNamespace(t)
	near, far := vethPair(n, newNamespace(t), "near", "far", 1500)
	self, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	n.do(func() error { return addAddress("near", netip.PrefixFrom(self, 64)) })
	atStack := count(n.listenUDP(self, 2))
	pins := pinDir(t)
	ok(t, os.MkdirAll(filepath.Join(pins, linksDir), 0o700))

	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	ok(t, err)
	defer counts.Close()
	first, next := countingUDP(t, counts, 0, v), countingUDP(t, counts, 1, -1)
	n.do(func() error {
		h, err := by(pins, first)
		if err != nil {
			return err
		}
		return errors.Join(
			h.attach(Attachment{fromUnderlay, near.index}, program{next, ingress}),
			h.attach(Attachment{fromMachine, near.index}, program{first, ingress}), // later, and yet before it
			h.close(),
		)
	})
	counted := func(key uint32) (n int64) {
		ok(t, counts.Lookup(key, &n))
		return n
	}

	f := datagram(other, self)
	f.to, f.from = near.mac, far.mac
	send := far.rawSocket()
	// Again and again, as a device and an address that are this young drop some.
	eventually(t, "packets go where they should", func() error {
		first, stack := counted(0), atStack.Load()
		if first < 10 || reachesStack && stack == 0 {
			return errors.Join(fmt.Errorf("%d reached the first program, %d the stack", first, stack), send(f.bytes()))
		}
		return nil
	})
	eventually(t, "what the first program leaves reaches the next one", func() error {
		if first, next := counted(0), counted(1); reachesNext && next != first {
			return fmt.Errorf("%d of %d did", next, first)
		}
		return nil
	})
	if n := counted(1); !reachesNext && n != 0 {
		t.Errorf("%d packets reached the next program", n)
	}
	if n := atStack.Load(); !reachesStack && n != 0 {
		t.Errorf("%d packets reached the stack", n)
	}
}

// countingUDP is a program that counts UDP packets at a key of an array, and says v of every packet.
func countingUDP(t testing.TB, counts *ebpf.Map, key, v int32) *ebpf.Program {
	t.Helper()
	return load(t,
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadAbs(etherLength+6, asm.Byte), // next header
		asm.JNE.Imm(asm.R0, unix.IPPROTO_UDP, "end"),
		asm.StoreImm(asm.RFP, -4, int64(key), asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, counts.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, v).WithSymbol("end"),
		asm.Return(),
	)
}

func TestFiltersOfOthersStay(t *testing.T) {
	o := options(pinDir(t))
	o.hooks = func(dir string, _ *ebpf.Program) (hooks, error) { return newClsact(dir) }
	n := newNamespace(t)
	port, _ := vethPair(n, n, "port", "guest", 1500)
	// the same qdisc and preference, and another tool's name
	n.do(func() error {
		other, err := newClsact("/elsewhere")
		if err != nil {
			return err
		}
		return errors.Join(
			other.attach(Attachment{"guard", port.index}, program{verdict(t, -1), ingress}),
			other.close(),
		)
	})
	before := attached(t, port)
	d := n.open(o)
	n.do(func() error { return d.AttachPort(port.index, alice) })
	if got := attached(t, port); len(got) != 2 || got[0] == before[0] || got[1] != before[0] {
		t.Errorf("attached are %v, want one before %v", got, before)
	}
	if got, want := must(d.Attachments()), []Attachment{{fromMachine, port.index}}; !reflect.DeepEqual(got, want) {
		t.Errorf("attachments are %v, want %v", got, want)
	}
	ok(t, d.DetachPort(port.index))
	if got := attached(t, port); !reflect.DeepEqual(got, before) {
		t.Errorf("attached are %v, want %v", got, before)
	}
	ok(t, d.Remove())
	if got := attached(t, port); !reflect.DeepEqual(got, before) {
		t.Errorf("attached are %v, want %v", got, before)
	}
}

// The elder ingress qdisc takes filters for a side that it does not have.
func TestEgressProgramIsNotAttachedToAnIngressQdisc(t *testing.T) {
	n := newNamespace(t)
	near, _ := vethPair(n, n, "near", "far", 1500)
	n.do(func() error {
		err := netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: near.index, Parent: netlink.HANDLE_INGRESS}})
		if err != nil {
			return err
		}
		c, err := newClsact("/")
		if err != nil {
			return err
		}
		defer c.close()
		if err := c.attach(Attachment{fromElsewhere, near.index}, program{verdict(t, 0), egress}); err == nil {
			t.Error("attached")
		}
		return c.attach(Attachment{fromStack, near.index}, program{verdict(t, 0), ingress})
	})
	if got := attached(t, near); len(got) != 1 {
		t.Errorf("attached are %v, want what is for ingress", got)
	}
}
