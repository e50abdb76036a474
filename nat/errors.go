package nat

import "errors"

var (
	// ErrInvalid: an argument is wrong in itself.
	ErrInvalid = errors.New("invalid")

	// ErrStale: the entry that is there has a higher epoch. Nothing was changed.
	ErrStale = errors.New("a higher epoch is there")

	// ErrNotFound: there is no such entry.
	ErrNotFound = errors.New("no such entry")

	// ErrFull: the map has no room. Its size is a setting.
	ErrFull = errors.New("map is full")

	// ErrKernel: the kernel is too old.
	ErrKernel = errors.New("kernel is too old")

	// ErrPermission: a capability is missing.
	ErrPermission = errors.New("not permitted")

	// ErrNoBPFFS: the pin directory is not on a BPF file system.
	ErrNoBPFFS = errors.New("no BPF file system")

	// ErrTaken: the device has a program of this name already, of another pin directory's datapath.
	ErrTaken = errors.New("another datapath is attached")

	// ErrLayout: entries of a map that was pinned before have no room in this version's, or another meaning.
	ErrLayout = errors.New("pinned map does not fit")
)
