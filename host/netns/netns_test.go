package netns_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"

	"ip6d/host/netns"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root, and CI=true allows no skip")
	}
	t.Skip("needs root, to make network namespaces")
}

func newNamespace(t *testing.T) *netns.Namespace {
	t.Helper()
	n, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func current(t *testing.T) *netns.Namespace {
	t.Helper()
	n, err := netns.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func same(t *testing.T, a, b *netns.Namespace) bool {
	t.Helper()
	same, err := a.Same(b)
	if err != nil {
		t.Fatal(err)
	}
	return same
}

// freeName is a name that no other test run uses.
func freeName(t *testing.T) string {
	return fmt.Sprintf("ip6d-test-%d-%s", os.Getpid(), strings.ToLower(filepath.Base(t.Name())))
}

func TestDoRunsInTheNamespaceAndComesBack(t *testing.T) {
	needRoot(t)
	before, inside := current(t), newNamespace(t)
	var devices []net.Interface
	var during *netns.Namespace
	err := inside.Do(func() (err error) {
		if during, err = netns.Current(); err != nil {
			return err
		}
		devices, err = net.Interfaces()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer during.Close()
	if !same(t, during, inside) {
		t.Error("the function ran in another namespace")
	}
	if len(devices) != 1 || devices[0].Name != "lo" {
		t.Errorf("a new namespace has the devices %v, want lo alone", devices)
	}
	if !same(t, current(t), before) {
		t.Error("the caller was moved into another namespace")
	}
}

func TestDoReturnsTheErrorOfItsFunction(t *testing.T) {
	needRoot(t)
	want := errors.New("an error")
	if err := newNamespace(t).Do(func() error { return want }); err != want {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestDoDoesNotWaitForAFunctionThatEndsItsGoroutine(t *testing.T) {
	needRoot(t)
	n := newNamespace(t)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		_ = n.Do(func() error { runtime.Goexit(); return nil })
		t.Error("Do returned, though its function ended the goroutine")
	}()
	<-ended
}

// Threads that were in a namespace go back into the pool; none may take the namespace along.
func TestNoThreadStaysInANamespace(t *testing.T) {
	needRoot(t)
	before, inside := current(t), newNamespace(t)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if err := inside.Do(func() error { runtime.Gosched(); return nil }); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			n, err := netns.Current()
			if err != nil {
				t.Error(err)
				return
			}
			defer n.Close()
			if s, err := n.Same(before); err != nil || !s {
				t.Errorf("a goroutine outside of Do runs in %s (%v)", n, err)
			}
		})
	}
	all.Wait()
}

func TestSysctlsInDoAreThoseOfTheNamespace(t *testing.T) {
	needRoot(t)
	const path = "/proc/sys/net/ipv6/conf/all/hop_limit"
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inside := newNamespace(t)
	if err := inside.Do(func() error { return os.WriteFile(path, []byte("77"), 0) }); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Errorf("the process's own %s went from %q to %q", path, before, after)
	}
}

func TestACommandRunsInTheNamespace(t *testing.T) {
	needRoot(t)
	inside := newNamespace(t)
	err := inside.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "inside", TxQLen: -1}, PeerName: "peer"})
	})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := exec.Command("cat", "/proc/net/dev")
	cmd.Stdout = &out
	if err := inside.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "inside:") {
		t.Errorf("the command saw these devices:\n%s", out.String())
	}
}

func TestANamedNamespaceLivesUntilDelete(t *testing.T) {
	needRoot(t)
	name := freeName(t)
	made, err := netns.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netns.Delete(name); err != nil {
			t.Error(err)
		}
	})
	if !netns.Exists(name) {
		t.Fatal("Exists says that there is none after Create")
	}
	names, err := netns.List()
	if err != nil || !slices.Contains(names, name) {
		t.Errorf("List returned %v, %v", names, err)
	}
	opened, err := netns.Open(netns.Path(name))
	if err != nil {
		t.Fatal(err)
	}
	if !same(t, made, opened) {
		t.Error("Open opened another namespace than Create made")
	}
	made.Close()
	opened.Close()

	if out, err := exec.Command("ip", "netns", "exec", name, "true").CombinedOutput(); err != nil {
		t.Errorf("`ip netns exec` cannot enter it: %v: %s", err, out)
	}
	if _, err := netns.Create(name); !errors.Is(err, netns.ErrExists) {
		t.Errorf("Create of a name in use returned %v, want ErrExists", err)
	}
	if !netns.Exists(name) {
		t.Error("a refused Create removed the namespace that was there")
	}
	if err := netns.Delete(name); err != nil {
		t.Fatal(err)
	}
	if netns.Exists(name) {
		t.Error("Exists says that there is one after Delete")
	}
	if _, err := os.Stat(netns.Path(name)); !os.IsNotExist(err) {
		t.Errorf("Delete left its file behind (%v)", err)
	}
	if err := netns.Delete(name); err != nil {
		t.Errorf("Delete of what is gone returned %v", err)
	}
}

func TestDeleteRemovesWhatACrashLeft(t *testing.T) {
	needRoot(t)
	name := freeName(t)
	if err := os.MkdirAll(filepath.Dir(netns.Path(name)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(netns.Path(name), nil, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(netns.Path(name))
	if netns.Exists(name) {
		t.Error("an empty file counts as a namespace")
	}
	if err := netns.Delete(name); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(netns.Path(name)); !os.IsNotExist(err) {
		t.Errorf("the file is still there (%v)", err)
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		want       error
	}{
		{"nothing there", filepath.Join(t.TempDir(), "none"), netns.ErrNotFound},
		{"below a file", filepath.Join(file, "none"), netns.ErrNotFound},
		{"a file", file, netns.ErrNotNamespace},
		{"a directory", t.TempDir(), netns.ErrNotNamespace},
		{"a namespace of another kind", "/proc/self/ns/uts", netns.ErrNotNamespace},
		{"a process that is gone", "/proc/4194305/ns/net", netns.ErrNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := netns.Open(c.path); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestNamesThatAreNoFileNamesAreRefused(t *testing.T) {
	for _, name := range []string{"", ".", "..", "a/b", "../a", "a\x00b", strings.Repeat("a", 256)} {
		if n, err := netns.Create(name); !errors.Is(err, netns.ErrName) {
			t.Errorf("Create(%q) returned %v, %v; want ErrName", name, n, err)
		}
		if err := netns.Delete(name); !errors.Is(err, netns.ErrName) {
			t.Errorf("Delete(%q) returned %v, want ErrName", name, err)
		}
		if netns.Exists(name) {
			t.Errorf("Exists(%q) is true", name)
		}
	}
}
