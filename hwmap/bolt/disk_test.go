package bolt

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// disk is a file system of one directory that knows what is on the disk and what is not yet: all that was written since the
// last fsync. It keeps a log, from which the disk after a power cut at any point of it can be made; and it can fail.
//
// Whoever uses it must be another process: this one could not serve the page for which it waits.
type disk struct {
	fs.Inode
	mu     sync.Mutex // guards all below, and all files
	log    []step
	names  map[string]*diskFile          // as processes see them
	faults func(operation) syscall.Errno // decides about each operation; nil: all succeed
	random *rand.Rand                    // decides what a failed fsync leaves
}

// diskFile is a file of a disk.
type diskFile struct {
	fs.Inode
	disk    *disk
	id      int
	data    []byte // as the kernel reads it
	stable  []byte // what is on the disk
	pending []step // what is in data and not in stable
}

// operation is what can fail.
type operation string

const (
	opWrite    operation = "write"
	opTruncate operation = "truncate"
	opSync     operation = "fsync"
	opSyncDir  operation = "fsync of the directory"
	opCreate   operation = "create"
	opRename   operation = "rename"
	opUnlink   operation = "unlink"
)

// step is an operation that succeeded.
type step struct {
	operation
	file     int // its id
	offset   int64
	data     []byte
	name, to string
}

// mountDisk mounts a new disk at dir, for this thread and its children, until the thread ends.
func mountDisk(dir string, seed uint64) (*disk, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, err
	}
	d := &disk{names: map[string]*diskFile{}, random: rand.New(rand.NewPCG(seed, 1))}
	long := time.Hour
	// The kernel is to keep what it has read, as of a disk.
	_, err := fs.Mount(dir, d, &fs.Options{
		MountOptions: fuse.MountOptions{
			DirectMountStrict: true, ExplicitDataCacheControl: true, DisableXAttrs: true, Name: "ip6dtest", FsName: "ip6dtest",
		},
		EntryTimeout: &long, AttrTimeout: &long,
	})
	return d, err
}

// fail decides whether an operation fails. The caller holds mu.
func (d *disk) fail(o operation) syscall.Errno {
	if d.faults == nil {
		return 0
	}
	return d.faults(o)
}

// length is how long the log is.
func (d *disk) length() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.log)
}

func (d *disk) Create(ctx context.Context, name string, _, _ uint32, _ *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if errno := d.fail(opCreate); errno != 0 {
		return nil, nil, 0, errno
	}
	f := &diskFile{disk: d, id: len(d.log)}
	d.log = append(d.log, step{operation: opCreate, file: f.id, name: name})
	d.names[name] = f
	return d.NewPersistentInode(ctx, f, fs.StableAttr{Mode: unix.S_IFREG}), nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (d *disk) Rename(_ context.Context, name string, _ fs.InodeEmbedder, to string, _ uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if errno := d.fail(opRename); errno != 0 {
		return errno
	}
	d.log = append(d.log, step{operation: opRename, name: name, to: to})
	d.names[to] = d.names[name]
	delete(d.names, name)
	return 0
}

func (d *disk) Unlink(_ context.Context, name string) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if errno := d.fail(opUnlink); errno != 0 {
		return errno
	}
	d.log = append(d.log, step{operation: opUnlink, name: name})
	delete(d.names, name)
	return 0
}

// Fsync of the directory.
func (d *disk) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	d.mu.Lock()
	defer d.mu.Unlock()
	if errno := d.fail(opSyncDir); errno != 0 {
		return errno
	}
	d.log = append(d.log, step{operation: opSyncDir})
	return 0
}

func (d *disk) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Blocks, out.Bfree, out.Bavail, out.NameLen = 4096, 1<<20, 1<<20, 1<<20, 255
	return 0
}

func (f *diskFile) Open(context.Context, uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return nil, fuse.FOPEN_KEEP_CACHE, 0
}

func (f *diskFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	out.Mode, out.Size = unix.S_IFREG|0o600, uint64(len(f.data))
	return 0
}

func (f *diskFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	if size, ok := in.GetSize(); ok {
		if errno := f.disk.fail(opTruncate); errno != 0 {
			return errno
		}
		f.change(step{operation: opTruncate, offset: int64(size)})
	}
	out.Mode, out.Size = unix.S_IFREG|0o600, uint64(len(f.data))
	return 0
}

func (f *diskFile) Read(_ context.Context, _ fs.FileHandle, to []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	n := 0
	if offset < int64(len(f.data)) {
		n = copy(to, f.data[offset:])
	}
	return fuse.ReadResultData(to[:n]), 0
}

// shortWrite is the error number of a fault that writes half of what it should, and says so.
const shortWrite = syscall.Errno(1 << 20)

func (f *diskFile) Write(_ context.Context, _ fs.FileHandle, data []byte, offset int64) (uint32, syscall.Errno) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	switch errno := f.disk.fail(opWrite); errno {
	case 0:
	case shortWrite:
		data = data[:len(data)/2]
	default:
		return 0, errno
	}
	f.change(step{operation: opWrite, offset: offset, data: bytes.Clone(data)})
	return uint32(len(data)), 0
}

func (f *diskFile) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	errno := f.disk.fail(opSync)
	if errno != 0 {
		// As of a real disk: some of it was written, the rest never will be, and the kernel keeps in memory what it had.
		// The size is the journal's, which does not lose it without the file system being read-only from then on.
		for i := range f.pending {
			if f.pending[i].operation == opTruncate {
				f.stable = apply(f.stable, f.pending[i:i+1])
			}
		}
		f.stable = survive(f.stable, f.pending, f.disk.random)
		f.data, f.pending = bytes.Clone(f.stable), nil
		return errno
	}
	f.stable, f.pending = apply(f.stable, f.pending), nil
	f.disk.log = append(f.disk.log, step{operation: opSync, file: f.id})
	return 0
}

// change makes a step on the file. The caller holds the disk's mu.
func (f *diskFile) change(s step) {
	s.file = f.id
	f.data = apply(f.data, []step{s})
	f.pending = append(f.pending, s)
	f.disk.log = append(f.disk.log, s)
}

// apply makes steps on the content of a file.
func apply(content []byte, steps []step) []byte {
	for _, s := range steps {
		end := s.offset + int64(len(s.data))
		if s.operation == opTruncate && end < int64(len(content)) {
			content = content[:end]
		}
		if missing := end - int64(len(content)); missing > 0 {
			content = append(content, make([]byte, missing)...)
		}
		copy(content[s.offset:], s.data)
	}
	return content
}

// survive makes what a power cut leaves of steps that were not on the disk yet: each is there, or not, or in part.
func survive(content []byte, steps []step, random *rand.Rand) []byte {
	for _, s := range steps {
		switch random.IntN(4) {
		case 0:
			continue
		case 1:
			if n := len(s.data); n > 0 {
				at := random.IntN(n)
				if random.IntN(2) == 0 {
					s.data = s.data[:at]
				} else {
					s.data, s.offset = s.data[at:], s.offset+int64(at)
				}
			}
		}
		content = apply(content, []step{s})
	}
	return content
}

// powerCut returns the files after a power cut at the end of the log. lost is how often, of a hundred, the disk loses
// what it acknowledged: 0 for an honest one.
func powerCut(log []step, random *rand.Rand, lost int) map[string][]byte {
	stable, pending := map[int][]byte{}, map[int][]step{}
	names, renaming := map[string]int{}, []step(nil)
	name := func(steps []step) {
		for _, s := range steps {
			switch s.operation {
			case opCreate:
				names[s.name] = s.file
			case opRename:
				if file, ok := names[s.name]; ok {
					names[s.to] = file
				}
				delete(names, s.name)
			case opUnlink:
				delete(names, s.name)
			}
		}
	}
	for _, s := range log {
		switch s.operation {
		case opWrite, opTruncate:
			pending[s.file] = append(pending[s.file], s)
		case opSync:
			steps := slices.DeleteFunc(pending[s.file], func(step) bool { return lost > 0 && random.IntN(100) < lost })
			stable[s.file] = apply(stable[s.file], steps)
			delete(pending, s.file)
		case opSyncDir:
			name(renaming)
			renaming = nil
		default:
			renaming = append(renaming, s)
		}
	}
	name(renaming[:random.IntN(len(renaming)+1)]) // a journal keeps their order
	for _, file := range slices.Sorted(maps.Keys(pending)) {
		stable[file] = survive(stable[file], pending[file], random)
	}
	files := map[string][]byte{}
	for name, file := range names {
		files[name] = stable[file]
	}
	return files
}

// lay writes files into a directory.
func lay(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
