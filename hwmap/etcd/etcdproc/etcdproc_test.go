package etcdproc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// parentDir makes the test binary a process that starts a server in that directory, and waits to be killed.
const parentDir = "IP6D_TEST_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentDir); dir != "" {
		if err := startAndWait(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func startAndWait(dir string) error {
	binary, err := FindBinary()
	if err != nil {
		return err
	}
	s, err := Start(context.Background(), Options{Binary: binary, Dir: dir})
	if err != nil {
		return err
	}
	fmt.Println(s.o.Listen)
	select {} // the test kills it, and should that die, the kernel
}

func TestServerDiesWithItsParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	parent := exec.Command(self)
	parent.Env = append(os.Environ(), parentDir+"="+filepath.Join(t.TempDir(), "etcd"))
	parent.Stderr = os.Stderr
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	r, err := start(parent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the parent said nothing: %v", err)
	}
	at, err := netip.ParseAddrPort(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if !answers(at) {
		t.Fatalf("nothing answers at %s", at)
	}
	r.kill()
	for deadline := time.Now().Add(patience); answers(at); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the server at %s lives on", at)
		}
	}
}

func answers(at netip.AddrPort) bool {
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

func TestMissingBinarySaysWhatToDo(t *testing.T) {
	_, err := Start(t.Context(), Options{Binary: filepath.Join(t.TempDir(), "etcd"), Dir: t.TempDir()})
	if !errors.Is(err, ErrNoBinary) || !strings.Contains(err.Error(), "run make") {
		t.Errorf("Start returned %v", err)
	}
	t.Chdir(t.TempDir())
	if _, err := FindBinary(); !errors.Is(err, ErrNoBinary) || !strings.Contains(err.Error(), "run make") {
		t.Errorf("FindBinary returned %v", err)
	}
}

func TestServerThatCannotStartSaysWhy(t *testing.T) {
	binary, err := FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	taken := netip.MustParseAddrPort(l.Addr().String())
	_, err = Start(t.Context(), Options{Binary: binary, Dir: filepath.Join(t.TempDir(), "etcd"), Listen: taken})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("Start returned %v", err)
	}
}
