package host_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"ip6d/host"
)

// What this test binary is told by its environment.
const (
	asWireGuard = "IP6D_TEST_WIREGUARD" // to be the WireGuard process of that device
	isSecluded  = "IP6D_TEST_SECLUDED"  // that it has mounts of its own
	lifelineFD  = 3                     // of a WireGuard process: it ends when this does, so that none outlives a test that crashed
)

// TestMain lets the binary be a WireGuard process and, as root, gives the tests a /run of their own: all namespaces of a
// computer share the one where WireGuard processes have their sockets.
func TestMain(m *testing.M) {
	if device := os.Getenv(asWireGuard); device != "" {
		os.Exit(beWireGuard(device))
	}
	if os.Geteuid() == 0 && os.Getenv(isSecluded) == "" {
		if err := seclude(); err != nil {
			fmt.Fprintln(os.Stderr, "tests of host:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func beWireGuard(device string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(lifelineFD, "lifeline"))
		cancel()
	}()
	if err := host.ServeWireGuard(ctx, device, os.Stdout, slog.Default()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// seclude starts this process anew with mounts of its own. It returns only when it fails.
func seclude() error {
	runtime.LockOSThread() // the mounts are this thread's, until exec makes it the only one
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("run", "/run", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), isSecluded+"=1"))
}
