package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/nat"
)

// A small ext4 runs full under creates: each that fails says which disk and leaves nothing, all that succeeded are there, and
// with room it goes on without a restart.
func TestAFullDiskFailsCreatesWithAClearErrorAndNothingHalfMade(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s needs root", t.Name())
		}
		t.Skipf("%s needs root", t.Name())
	}
	dir := t.TempDir()
	done := make(chan struct{})
	go func() { // a thread that sees the mount alone, and ends with it
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if err := mountSmall(dir); err != nil {
			t.Error(err)
			return
		}
		fillUnderCreates(t, filepath.Join(dir, "disk"))
	}()
	<-done
}

// mountSmall mounts an ext4 of 4 MiB at disk in dir. The loop device goes with the mount, and the mount with the thread.
func mountSmall(dir string) error {
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "disk")
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 4<<20), os.Mkdir(at, 0o700)); err != nil {
		return err
	}
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
		return err
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	return nil
}

func fillUnderCreates(t *testing.T, dir string) {
	k, ports := newKernel(1, func(nat.Machine) {}), newDevices()
	start := func() (*hwmap.Map, *bolt.Store, error) {
		truth, err := bolt.Open(bolt.Options{Path: filepath.Join(dir, "host.db")})
		if err != nil {
			return nil, nil, err
		}
		m, err := hwmap.Open(context.Background(), hwmap.Options{
			Plan: addr.DefaultPlan, Cell: cell, Self: hwmap.Host{ID: 1, Name: "host1", Identity: "one"},
			Truth: truth, Fleet: truth, Datapath: k, Ports: ports,
			Quarantine: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		})
		return m, truth, err
	}
	m, truth, err := start()
	if err != nil {
		t.Error(err)
		return
	}
	// What takes the room is another's, but for some kilobytes.
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	for err == nil {
		_, err = f.Write(make([]byte, 1<<10)) // an ext4 refuses a large one while there is room for a small one
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Errorf("filling the disk: %v", err)
		return
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err := errors.Join(err, f.Truncate(size-24<<10), f.Sync(), f.Close()); err != nil {
		t.Error(err)
		return
	}
	made := map[string]hwmap.MachineView{}
	create := func(n int) error {
		name := fmt.Sprintf("machine%0200d", n)
		v, err := m.Create(context.Background(), name, 7)
		if err == nil {
			made[name] = v
			return nil
		}
		if entries, _ := k.Machines(); len(entries) != len(made) {
			t.Errorf("%d machines were made, and the kernel has %d", len(made), len(entries))
		}
		if _, err := m.Machine(name); !errors.Is(err, hwmap.ErrUnknownMachine) {
			t.Errorf("a machine that was not made: %v", err)
		}
		return err
	}
	n := 0
	for err = nil; err == nil && n < 200; n++ {
		err = create(n)
	}
	if !errors.Is(err, hwmap.ErrUnavailable) || !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "host.db") || !strings.Contains(err.Error(), "make room on the file system of "+dir) {
		t.Errorf("create on a full disk: %v", err)
	}
	full := len(made)
	if _, err := truth.Compact(context.Background()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a compaction on a full disk: %v", err)
	}
	for range 3 { // it stays so, and harms nothing
		if err := create(n); err == nil {
			full++
		}
		n++
	}
	if err := os.Remove(filler); err != nil {
		t.Error(err)
	}
	for range 20 {
		if err := create(n); err != nil {
			t.Errorf("create with room again: %v", err)
		}
		n++
	}
	if full == 0 || len(made) != full+20 {
		t.Errorf("%d machines were made before the disk was full, %d in all", full, len(made))
	}
	if _, err := truth.Check(context.Background()); err != nil {
		t.Error(err)
	}
	if err := truth.Close(); err != nil {
		t.Error(err)
	}
	k.reboot()
	if m, truth, err = start(); err != nil {
		t.Error(err)
		return
	}
	defer truth.Close() // its end is not what this is about
	for name, want := range made {
		if got, err := m.Machine(name); err != nil || got.Stable != want.Stable {
			t.Errorf("after a restart %.20s... has %v, %v; want %v", name, got.Stable, err, want.Stable)
		}
	}
	if entries, _ := k.Machines(); len(entries) != len(made) {
		t.Errorf("after a restart the kernel has %d machines, want %d", len(entries), len(made))
	}
}
