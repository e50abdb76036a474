package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What this test binary is told by its environment.
const (
	asCommand   = "IP6D_TEST_COMMAND"  // to be ip6d, with its arguments
	isSecluded  = "IP6D_TEST_SECLUDED" // that it has namespaces of its own
	bpfRoot     = "/sys/fs/bpf"        // a BPF file system of its own is there
	lifelineFD  = 3                    // of ip6d: it ends when this does, so that none outlives a test that crashed
	rootMissing = "needs root, for namespaces and a BPF file system"
)

// TestMain lets the binary be ip6d itself and, as root, moves the tests into mount and network namespaces of their own:
// they vanish with the process, whatever a test or a crash left in them.
func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Exit(beCommand())
	}
	if os.Geteuid() == 0 && os.Getenv(isSecluded) == "" {
		if err := seclude(); err != nil {
			fmt.Fprintln(os.Stderr, "tests of cmd/ip6d:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func beCommand() int {
	go func() {
		_, _ = io.Copy(io.Discard, os.NewFile(lifelineFD, "lifeline"))
		os.Exit(3)
	}()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// seclude starts this process anew in namespaces of its own. It returns only when it fails.
func seclude() error {
	runtime.LockOSThread() // the namespaces are this thread's, until exec makes it the only one
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("bpf", bpfRoot, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a BPF file system: %w", err)
	}
	return unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), isSecluded+"=1"))
}

func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal(rootMissing + ", and CI=true allows no skip")
	default:
		t.Skip(rootMissing)
	}
}
