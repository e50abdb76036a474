package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The oldest kernel that the tests run on (make test-kernel). It has all that is needed: bpf_redirect_peer (5.10),
// bpf_check_mtu (5.12) and neighbours that the kernel keeps fresh (5.16); TCX (6.6) is used where it is there.
const minMajor, minMinor = 6, 1

// Where a BPF file system is usually mounted. Only this is advised as a mount point: a directory derived from a
// wrong setting could be / or hold files, which the mount would hide.
const usualBPFFS = "/sys/fs/bpf"

// CheckRequirements returns what this computer lacks for a datapath that is pinned in pinDir: ErrKernel, ErrPermission
// or ErrNoBPFFS. Open does this first; a daemon that has other things to make before asks here.
func CheckRequirements(pinDir string) error {
	if err := CheckKernel(); err != nil {
		return err
	}
	if err := CheckCapabilities(); err != nil {
		return err
	}
	return CheckBPFFS(pinDir)
}

// CheckKernel is the part of CheckRequirements about the kernel.
func CheckKernel() error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("read the kernel's release: %w", err)
	}
	return checkKernel(unix.ByteSliceToString(name.Release[:]))
}

// CheckCapabilities is the part of CheckRequirements about what this process may do.
func CheckCapabilities() error {
	effective, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	return checkCapabilities(effective)
}

// checkKernel reads a release as uname -r prints it. One that it cannot read is let through: the kernel says
// itself what it cannot do.
func checkKernel(release string) error {
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return nil
	}
	if major > minMajor || major == minMajor && minor >= minMinor {
		return nil
	}
	return fmt.Errorf("%w: this is Linux %s; ip6d needs %d.%d or newer", ErrKernel, release, minMajor, minMinor)
}

// effectiveCapabilities returns the capabilities of the calling thread, one bit each.
func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

func checkCapabilities(effective uint64) error {
	has := func(c uint) bool { return effective&(1<<c) != 0 }
	var missing []string
	if !has(unix.CAP_BPF) && !has(unix.CAP_SYS_ADMIN) {
		missing = append(missing, "CAP_BPF")
	}
	if !has(unix.CAP_NET_ADMIN) {
		missing = append(missing, "CAP_NET_ADMIN")
	}
	if missing == nil {
		return nil
	}
	return fmt.Errorf("%w: %s missing; run as root, or give the service these capabilities", ErrPermission, strings.Join(missing, " and "))
}

// CheckBPFFS is the part of CheckRequirements about the pin directory. It looks at that or, where it does not exist yet, at the nearest directory above it.
func CheckBPFFS(pinDir string) error {
	for dir := pinDir; ; dir = filepath.Dir(dir) {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		switch {
		case err == nil && s.Type == unix.BPF_FS_MAGIC:
			return nil
		case errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir):
			continue
		case err != nil:
			return fmt.Errorf("look at pin directory: %w", &os.PathError{Op: "statfs", Path: dir, Err: err})
		}
		return fmt.Errorf("%w: pin directory %s is not on one; mount -t bpf bpf %s, and set bpf_dir below it", ErrNoBPFFS, pinDir, usualBPFFS)
	}
}
