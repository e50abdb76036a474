package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/integration/lab/labtest"
)

// quick is too short to mean anything, but does everything.
func quick(t *testing.T) options {
	return options{
		rounds: 1, duration: 20 * time.Millisecond, movers: 2000, destinations: 200, repeat: 1000, progress: t.Output(),
	}
}

// keys are those of the last line: others read them.
var keys = []string{
	"added_cost_vs_plain", "ns_from_machine", "ns_from_underlay", "pps_1m_moved_vs_empty", "pps_vs_nft_nat",
	"pps_vs_nft_stateless", "pps_vs_npt", "pps_vs_plain", "pps_vs_srv6", "pps_vs_vxlan", "rr_p50_vs_plain",
	"same_host_pps_vs_plain", "tcp_vs_plain",
}

func TestEveryWayCarriesAndEveryRatioIsReported(t *testing.T) {
	labtest.RequireRoot(t)
	o := quick(t)
	r, err := measure(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range r.ways {
		for _, s := range r.samples[w.name] {
			if s.Received == 0 || s.Received > s.Sent {
				t.Errorf("%s: %d packets sent, %d received", w.title, s.Sent, s.Received)
			}
			if w.to == nil && (s.TCPBitsPerSecond <= 0 || s.RequestP50 <= 0 || s.RequestP99 < s.RequestP50) {
				t.Errorf("%s: TCP carried %g bit/s, its requests took %g µs, the slowest %g", w.title, s.TCPBitsPerSecond, s.RequestP50, s.RequestP99)
			}
		}
	}
	measured, err := newReport(o, r)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := measured.write(dir); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, dir)

	var out bytes.Buffer
	if err := measured.print(&out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var last map[string]float64
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("the last line is no JSON object of numbers: %v\n%s", err, &out)
	}
	if got := slices.Sorted(maps.Keys(last)); !slices.Equal(got, keys) {
		t.Errorf("the last line has the keys %v, want %v", got, keys)
	}
}

// checkFiles looks at what was written: JSON with all ratios, a plot with all ways.
func checkFiles(t *testing.T, dir string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "datapath.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r datapath
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range r.Ratios {
		got = append(got, x.Key)
	}
	slices.Sort(got)
	if !slices.Equal(got, keys) {
		t.Errorf("datapath.json has the ratios %v, want %v", got, keys)
	}
	if r.Computer.Kernel == "" || r.Computer.Cores == 0 || r.Computer.Governor == "" {
		t.Errorf("datapath.json does not say where it was measured: %+v", r.Computer)
	}
	plot, err := os.ReadFile(filepath.Join(dir, "datapath.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(plot)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("datapath.svg: %v", err)
		}
	}
	for _, w := range r.Ways {
		if !bytes.Contains(plot, []byte(w.Title)) {
			t.Errorf("datapath.svg does not show %s", w.Title)
		}
	}
}

// newTestPath makes a path, and waits until it carries.
func newTestPath(t *testing.T, build func(*path) error, wire string) *path {
	t.Helper()
	labtest.RequireRoot(t)
	p, err := newPath(build)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(); err != nil {
			t.Error(err)
		}
	})
	if err := p.check(wire); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPacketsAreCountedWhereTheyArrive(t *testing.T) {
	p := newTestPath(t, line(plain), "")
	o := quick(t)
	w := way{title: "a path", to: nil}
	s, err := o.flood(w, p)
	if err != nil {
		t.Fatal(err)
	}
	if s.Received == 0 {
		t.Errorf("%d packets sent, %d received", s.Sent, s.Received)
	}
	last := p.hosts[1]
	if err := last.ip(last.words("route replace blackhole MACHINE\n")); err != nil {
		t.Fatal(err)
	}
	if s, err := o.flood(w, p); err == nil {
		t.Errorf("the last host drops everything, but of %d packets %d were received", s.Sent, s.Received)
	}
}

func TestDatagramsInTheReceiversQueueAreCountedOnce(t *testing.T) {
	p := newTestPath(t, straight, "")
	n, err := p.flood(quick(t).load(1), p.destinations(nil))
	if err != nil {
		t.Fatal(err)
	}
	// a loaded computer may lose some, but none can come twice
	if n.received == 0 || n.received > n.sent {
		t.Errorf("%d packets sent on a cable, %d received", n.sent, n.received)
	}
}

func TestOneConnectionAfterTheOther(t *testing.T) {
	p := newTestPath(t, straight, "")
	for range 50 {
		c, err := p.connect()
		if err != nil {
			t.Fatal(err)
		}
		// who closes first keeps the port for a while
		if err := errors.Join(unix.Close(c.receiver), unix.Close(c.sender)); err != nil {
			t.Fatal(err)
		}
	}
}

// A rival that does less than its job would be measured too fast.
func TestCheckFindsAWayThatDoesNotDoItsJob(t *testing.T) {
	// the addresses stay as they are
	p := newTestPath(t, line(plain), "MACHINE/128 REMOTE/128")
	if err := p.check("MACHINE_ROUTING/128 REMOTE_ROUTING/128"); !errors.Is(err, errWrong) {
		t.Errorf("a way without translation passed for one that translates: %v", err)
	}
	// the source is not translated back
	forgetful := func(path *path, h *host) error {
		return errors.Join(nftStateless(path, h), h.run("", "nft", "flush", "map", "ip6", "translate", "in_source"))
	}
	wrong, err := newPath(line(forgetful))
	if err != nil {
		t.Fatal(err)
	}
	defer wrong.close()
	if err := wrong.check(""); !errors.Is(err, errWrong) {
		t.Errorf("a way that leaves a routing address in the packets passed: %v", err)
	}
}

// The namespaces have no names, and the programs' pins no place: both last as long as something holds them open.
func TestABenchLetsGoOfEverything(t *testing.T) {
	labtest.RequireRoot(t)
	o := quick(t)
	o.only = []string{wayIP6D, waySharedIP6D, wayMoved}
	before := held(t)
	if _, err := measure(o); err != nil {
		t.Fatal(err)
	}
	if after := held(t); len(after) > len(before) {
		t.Errorf("held open before: %v, after: %v", before, after)
	}
}

func TestArgumentsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range [][]string{{"plain"}, {"-rounds", "0"}, {"-duration", "0s"}, {"-duration", "soon"}, {"-o"}, {"-ways", "plane"}} {
		if err := run(args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}

// held are the network namespaces, BPF objects and mounts that this process holds open.
func held(t *testing.T) (all []string) {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		what, err := os.Readlink(filepath.Join("/proc/self/fd", f.Name()))
		if err != nil {
			continue // the one that read the directory
		}
		if strings.HasPrefix(what, "net:") || strings.HasPrefix(what, "anon_inode:bpf") || what == "/" {
			all = append(all, what)
		}
	}
	return all
}
