package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/integration/lab"
	"ip6d/integration/lab/labtest"
)

// setup is what TestMain makes for all tests.
var setup struct {
	lab        string // the name of the tests' lab, which no user has
	ip6d, etcd string // paths of the programs
}

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crashingUp()
	}
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (status int, err error) {
	if os.Geteuid() != 0 {
		return m.Run(), nil // every test says that it needs root
	}
	var release func() error
	if setup.lab, release, err = labtest.ClaimName("ip6d-test-e2e"); err != nil {
		return 0, err
	}
	dir := filepath.Join(os.TempDir(), setup.lab)
	defer func() { err = errors.Join(err, os.RemoveAll(dir), release()) }()
	if err := build(dir); err != nil {
		return 0, err
	}
	return m.Run(), lab.Down(setup.lab)
}

// build makes the ip6d of this very tree.
func build(dir string) (err error) {
	setup.ip6d = filepath.Join(dir, "ip6d")
	cmd := exec.Command("go", "build", "-o", setup.ip6d, "ip6d/cmd/ip6d")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build ip6d: %w\n%s", err, out)
	}
	setup.etcd, err = etcdproc.FindBinary()
	return err
}

// options are those of the tests' lab.
func options(hosts int) lab.Options {
	return lab.Options{Name: setup.lab, Hosts: hosts, Binary: setup.ip6d, Etcd: setup.etcd}
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
	return newFleetWith(t, options(hosts))
}

// newFleetWith is newFleet for a lab of another kind.
func newFleetWith(t *testing.T, o lab.Options) *fleet {
	t.Helper()
	return newFleetWithin(t, patience, o)
}

// newFleetWithin is newFleetWith for a test that takes longer.
func newFleetWithin(t *testing.T, patience time.Duration, o lab.Options) *fleet {
	t.Helper()
	labtest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	l, err := lab.Up(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{Lab: l, t: t, ctx: ctx}
	logs := make([]string, 0, o.Hosts)
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
