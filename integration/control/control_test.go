package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ip6d/hwmap/etcd/etcdproc"
)

// keys are those of the last line: others read them.
var keys = []string{
	"api_create_vs_noop", "boot_1m_ms", "bytes_per_moved", "bytes_per_unmoved", "create_vs_fsync", "create_vs_goipam_etcd",
	"create_vs_hostlocal", "fanout_vs_raw_watch", "flip_us", "lookup_ns", "moves_per_s", "moves_vs_txn",
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == answerNothing { // this program is started again for that
		exit(serveNothing(os.Args[2]))
	}
	os.Exit(m.Run())
}

func TestEveryKeyIsMeasuredAndNothingIsLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and BPF need root")
	}
	etcd, err := etcdproc.FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	// Too short to mean anything, but it does everything.
	b := bench{
		rounds: 2, duration: 20 * time.Millisecond, agents: 10, moved: 2000, moves: 10, given: 200, bin: filepath.Dir(etcd),
		dir: t.TempDir(), progress: t.Output(), samples: make(map[string][]float64),
	}
	if err := b.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := b.report()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
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
	for key, v := range last {
		if v <= 0 && key != "bytes_per_unmoved" {
			t.Errorf("%s is %g", key, v)
		}
	}
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	plot, err := os.ReadFile(filepath.Join(dir, "control.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(plot)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("control.svg: %v", err)
		}
	}
	for _, rival := range []string{"host-local", "go-ipam", "bbolt Batch", "bare watches"} {
		if !bytes.Contains(plot, []byte(rival)) {
			t.Errorf("control.svg does not show %s", rival)
		}
	}
}

func TestAQuotientIsOfTheRivalsBest(t *testing.T) {
	b := bench{samples: map[string][]float64{createOurs: {100, 90}, createGoIPAM: {10, 9}, createGoIPAM1: {20, 3}}}
	for _, g := range goals() {
		if g.key != "create_vs_goipam_etcd" {
			continue
		}
		if got := g.of(&b); !slices.Equal(got, []float64{5, 10}) {
			t.Errorf("100 beside 10 and 20, 90 beside 9 and 3: %v", got)
		}
	}
}

func TestArgumentsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, args := range [][]string{{"create"}, {"-rounds", "0"}, {"-duration", "soon"}, {"-only", "creat"}} {
		if err := run(t.Context(), args, io.Discard, io.Discard); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
}
