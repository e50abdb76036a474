package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/integration/lab"
)

// labName is that of the tests' lab; no user has one of that name. A test that finds another's leftovers removes them.
const labName = "ip6d-test-e2e"

// programs are what the labs run.
type programs struct{ ip6d, etcd string }

// built is set by TestMain.
var built programs

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crashingUp()
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		return m.Run() // every test says that it needs root
	}
	dir, err := os.MkdirTemp("", "ip6d-integration-")
	if err == nil {
		defer os.RemoveAll(dir)
		built, err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	status := m.Run()
	if err := lab.Down(labName); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return status
}

// build makes the ip6d of this very tree.
func build(dir string) (programs, error) {
	p := programs{ip6d: filepath.Join(dir, "ip6d")}
	cmd := exec.Command("go", "build", "-o", p.ip6d, "ip6d/cmd/ip6d")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return p, fmt.Errorf("build ip6d: %w\n%s", err, out)
	}
	var err error
	p.etcd, err = etcdproc.FindBinary()
	return p, err
}

// requireRoot skips, and fails where tests must all run.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root, for network namespaces and BPF")
	}
	t.Skip("needs root, for network namespaces and BPF")
}

// patience is how long a test waits for what must come, before it fails.
const patience = 2 * time.Minute

// fleet is a lab for one test.
type fleet struct {
	*lab.Lab
	t   *testing.T
	ctx context.Context
}

// newFleet makes a lab with so many hosts, and a red and a blue machine on each. It is removed when the test ends; if that
// failed, it ends with what the daemons said.
func newFleet(t *testing.T, hosts int) *fleet {
	t.Helper()
	requireRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	l, err := lab.Up(ctx, lab.Options{Name: labName, Hosts: hosts, Binary: built.ip6d, Etcd: built.etcd})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{Lab: l, t: t, ctx: ctx}
	logs := make([]string, 0, hosts)
	for _, h := range l.Hosts() {
		logs = append(logs, h.Log())
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, path := range logs {
				t.Logf("the end of %s:\n%s", path, tail(path, 30))
			}
		}
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// tail returns the last lines of a file.
func tail(path string, lines int) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	all := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return bytes.Join(all[max(0, len(all)-lines):], []byte("\n"))
}

// must fails the test on an error.
func (f *fleet) must(errs ...error) {
	f.t.Helper()
	for _, err := range errs {
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

// eventually waits until try succeeds.
func (f *fleet) eventually(what string, try func() error) {
	f.t.Helper()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-f.ctx.Done():
			f.t.Fatalf("%s: not in time: %v", what, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// mustFail fails the test unless err says all of the words.
func (f *fleet) mustFail(what string, err error, words ...string) {
	f.t.Helper()
	if err == nil {
		f.t.Fatalf("%s: succeeded, must fail", what)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			f.t.Errorf("%s: error %q does not say %q", what, err, w)
		}
	}
}

// allPairs lets every machine ping every other one of its network.
func (f *fleet) allPairs() {
	f.t.Helper()
	for _, from := range f.Machines() {
		for _, to := range f.Machines() {
			if from != to && from.Network == to.Network {
				f.must(from.Ping(f.ctx, to))
			}
		}
	}
}
