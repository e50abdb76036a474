package nat

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/addr"
)

var update = flag.Bool("update", false, "write what is in testdata/ anew")

// The ways into the datapath, by number.
var fuzzedPrograms = []string{fromMachine, fromUnderlay, fromStack}

// fuzzWorlds are benches that differ in their settings; the first is the table's.
func fuzzWorlds(t testing.TB) []*bench {
	plain, withoutStack, verifying, fenced := newBench(t, 1, true), newBench(t, 1, false), newBench(t, 1, true), newBench(t, 1, true)
	worlds := []*bench{plain, withoutStack, verifying, fenced}
	fenced.reference.Fenced = true
	for _, b := range worlds {
		b.settle()
		must(b.heard()) // which opens what a fuzz target must not
	}
	verifying.reopen(func(o *Options) { o.VerifyMAC = true })
	verifying.reference.VerifyMAC = true
	return worlds
}

// fuzzAddresses are what a fuzzer would not find by chance: addresses that mean something in every world.
func fuzzAddresses() (all []netip.Addr) {
	for _, s := range []addr.Stable{
		alice, bob, mallet, gone, bare, unplugged, ghost, remote, mover, lost, arriving, stranger, onFour, onFive, nobody,
		endpoint(1, 1), endpoint(1, 2), endpoint(2, 1),
	} {
		all = append(all, s.Addr())
		for _, host := range []addr.Host{1, 2, 3, 0x77} { // the last is dead
			all = append(all, must(plan.Relay(s, host)))
		}
	}
	return append(all, control(1), control(2), internet, linkLocal, gatewayAddress, solicitedNode, allRouters)
}

// fuzzFrame makes the frame one that can come in by d: the kernel runs no program on less than both headers, and
// nothing here is about longer ones than fill a few underlay frames. An address is replaced by the one of that number; 0: it
// stays.
func fuzzFrame(d device, source, destination uint8, frame []byte) []byte {
	addresses := fuzzAddresses()
	f := make([]byte, max(etherLength+ipv6Length, min(len(frame), 2*underlayMTU)))
	copy(f, frame)
	copy(f, d.mac)
	for at, n := range map[int]uint8{8: source, 24: destination} {
		if n > 0 {
			putAddress(f[etherLength:], at, addresses[int(n-1)%len(addresses)])
		}
	}
	return f
}

// ways returns the devices by which frames come to each of fuzzedPrograms.
func (b *bench) ways() []device { return []device{b.port, b.underlay, b.stack} }

// Programs and reference agree on whatever frame comes in by whatever way.
func FuzzPrograms(f *testing.F) {
	worlds := fuzzWorlds(f)
	for way, cases := range [][]packetCase{machineCases(), underlayCases(), stackCases()} {
		for _, c := range cases {
			for world := range worlds {
				f.Add(uint8(world), uint8(way), uint8(0), uint8(0), c.frame.bytes())
			}
		}
	}
	if *update {
		writeFuzzCorpus(f, worlds[0])
	}
	f.Fuzz(func(t *testing.T, world, way, source, destination uint8, frame []byte) {
		b := worlds[int(world)%len(worlds)]
		n := int(way) % len(fuzzedPrograms)
		on := b.ways()[n]
		frame = fuzzFrame(on, source, destination, frame)
		in := namespace{t, b.ns}
		in.do(func() error {
			if _, err := b.compare(fuzzedPrograms[n], on.index, frame); err != nil {
				t.Error(err)
			}
			return nil
		})
	})
}

// writeFuzzCorpus writes to testdata/ the shortest of many generated packets for each thing that can become of one.
func writeFuzzCorpus(f *testing.F, b *bench) {
	dir := filepath.Join("testdata", "fuzz", f.Name())
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		f.Fatal(err)
	}
	g := generator{rand.New(rand.NewPCG(1, 0)), b}
	shortest := make(map[string][]byte)
	for range 20_000 {
		way := g.IntN(len(fuzzedPrograms))
		on := b.ways()[way]
		frame := g.packet(fuzzedPrograms[way], on)
		v := b.predict(fuzzedPrograms[way], on.index, bytes.Clone(frame))
		name := strings.ReplaceAll(fmt.Sprintf("%s %v %s", fuzzedPrograms[way], v.Action, v.Reason), " ", "-")
		content := fmt.Appendf(nil, "go test fuzz v1\nbyte('\\x00')\nbyte('\\x%02x')\nbyte('\\x00')\nbyte('\\x00')\n[]byte(%q)\n", way, frame)
		if old, ok := shortest[name]; !ok || len(content) < len(old) {
			shortest[name] = content
		}
	}
	for name, content := range shortest {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			f.Fatal(err)
		}
	}
}
