package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/host/netns"
	"ip6d/integration/lab/labtest"
)

// testOptions are those of a lab that no user has, without daemons; what an earlier run left of it is removed.
func testOptions(t *testing.T) Options {
	t.Helper()
	labtest.RequireRoot(t)
	name, release, err := labtest.ClaimName("ip6d-test-parts")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Name: name}
	if err := Down(o.Name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(Down(o.Name), release()); err != nil {
			t.Error(err)
		}
	})
	return o
}

func testLab(t *testing.T, o Options) *Lab {
	t.Helper()
	l := &Lab{o: o}
	l.o.Say = func(string) {}
	var err error
	if l.lock, err = lockDirectory(o.directory()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.close()
		l.lock.release()
	})
	return l
}

// sleeper is a process that does nothing.
func sleeper(t *testing.T, o Options) *Process {
	t.Helper()
	here, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	p, err := o.start("sleeper", here, exec.Command("sleep", "1000"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Kill(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestDownEndsTheLabsProcessesAndNoOthers(t *testing.T) {
	o := testOptions(t)
	testLab(t, o)
	other := o
	other.Name = o.Name + "0" // the beginning is the same
	if err := os.Mkdir(other.directory(), 0o755); err != nil && !os.IsExist(err) {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(other.directory()) })
	ours, theirs := sleeper(t, o), sleeper(t, other)

	if err := o.remove(); err != nil {
		t.Fatal(err)
	}
	<-ours.Exited()
	select {
	case <-theirs.Exited():
		t.Error("the process of another lab was ended")
	default:
	}
}

func TestDownRemovesWhatACrashLeft(t *testing.T) {
	o := testOptions(t)
	l := testLab(t, o)
	if err := l.mountBPF(); err != nil {
		t.Fatal(err)
	}
	if err := l.makeUnderlay(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.directory(), "etcd"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A crash releases the lock, and nothing else.
	if err := errors.Join(l.close(), l.lock.release()); err != nil {
		t.Fatal(err)
	}

	for range 2 { // the second time there is nothing
		if err := Down(o.Name); err != nil {
			t.Fatal(err)
		}
	}
	if err := checkGone(o); err != nil {
		t.Error(err)
	}
}

// checkGone tells what is left of a lab.
func checkGone(o Options) error {
	var errs []error
	names, err := netns.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, o.namespace("")) {
			errs = append(errs, fmt.Errorf("namespace %s is left", name))
		}
	}
	if _, err := os.Lstat(o.directory()); !os.IsNotExist(err) {
		errs = append(errs, fmt.Errorf("%s is left (%v)", o.directory(), err))
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), o.Name) {
		errs = append(errs, fmt.Errorf("a mount is left:\n%s", mounts))
	}
	return errors.Join(append(errs, err)...)
}

func TestALabInUseIsNotRemoved(t *testing.T) {
	o := testOptions(t)
	l := testLab(t, o)
	err := Down(o.Name)
	if !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("removing a lab in use: %v, want ErrRunning with the number of this process", err)
	}
	if _, err := lockDirectory(o.directory()); !errors.Is(err, ErrRunning) {
		t.Errorf("taking a lab in use: %v, want ErrRunning", err)
	}
	if err := l.lock.release(); err != nil {
		t.Fatal(err)
	}
	if err := Down(o.Name); err != nil {
		t.Errorf("removing a lab that was released: %v", err)
	}
}

func TestADirectoryThatIsNotALabsIsLeftAlone(t *testing.T) {
	o := testOptions(t)
	if err := os.Mkdir(o.directory(), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(o.directory()) })
	precious := filepath.Join(o.directory(), "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Down(o.Name); !errors.Is(err, ErrForeign) {
		t.Errorf("down: %v, want ErrForeign", err)
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was in it has gone: %v", err)
	}
	if err := os.Remove(precious); err != nil {
		t.Fatal(err)
	}
	if err := Down(o.Name); err != nil { // empty, it may be what a crash left
		t.Errorf("down of an empty directory: %v", err)
	}
}

func TestAProcessThatEndsSaysWhy(t *testing.T) {
	o := testOptions(t)
	testLab(t, o)
	here, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	p, err := o.start("failing", here, exec.Command("sh", "-c", "echo starting; echo no such luck >&2; exit 1"))
	if err != nil {
		t.Fatal(err)
	}
	err = p.wait(testContext(t), func(context.Context) error { return errors.New("not ready") })
	if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("error %v, want ErrEnded with what it said last", err)
	}
}

func TestWrongOptionsAreNamed(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Name: "../etc"}, `"../etc"`},
		{Options{Name: "a b"}, `"a b"`},
		{Options{Name: strings.Repeat("x", 33)}, "at most 32"},
		{Options{Hosts: -1}, "-1"},
		{Options{Hosts: MaxHosts + 1}, fmt.Sprint(MaxHosts + 1)},
		{Options{Underlay: "vxlan"}, `"vxlan"`},
		{Options{Binary: "/none/ip6d"}, "/none/ip6d"},
		{Options{Binary: self, Etcd: "/none/etcd"}, "/none/etcd"},
	} {
		if _, err := c.o.fill(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %s", c.o, err, c.want)
		}
	}
}

func TestAMissingEtcdIsNamedWithTheWayOut(t *testing.T) {
	t.Chdir("/")
	t.Setenv("PATH", "")
	_, err := Options{Binary: "/proc/self/exe"}.fill()
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "run make") {
		t.Errorf("error %v, want ErrMissing that says to run make", err)
	}
}
