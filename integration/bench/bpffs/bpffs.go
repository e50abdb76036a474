// Package bpffs makes BPF file systems that are mounted nowhere.
package bpffs

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FS is a BPF file system that is gone with this process, and so are the programs and maps that are pinned on it.
type FS struct{ file *os.File }

// New makes an empty one. It needs root.
func New() (*FS, error) {
	context, err := unix.Fsopen("bpf", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a BPF file system: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, fmt.Errorf("make a BPF file system: %w", err)
	}
	mount, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a BPF file system: %w", err)
	}
	return &FS{os.NewFile(uintptr(mount), "bpf")}, nil
}

// Dir is the path of a directory on it, for this process.
func (f *FS) Dir(name string) string {
	return filepath.Join(fmt.Sprintf("/proc/self/fd/%d", f.file.Fd()), name)
}

// File holds it, for another process to inherit: there its path is that of its file descriptor.
func (f *FS) File() *os.File { return f.file }

// Close lets go of it.
func (f *FS) Close() error { return f.file.Close() }
