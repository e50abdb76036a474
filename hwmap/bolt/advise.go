package bolt

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// advise adds to a failure of the disk what to do about it. path is that of the database.
func advise(err error, path string) error {
	dir := filepath.Dir(path)
	switch {
	case err == nil:
	case isErrno(err, unix.ENOSPC), isErrno(err, unix.EDQUOT):
		return fmt.Errorf("%w; make room on the file system of %s, and it works again without a restart", err, dir)
	case isErrno(err, unix.EROFS):
		return fmt.Errorf("%w; the file system of %s is read-only, as after an error of its disk: see the kernel's log, mount it anew, then restart ip6d", err, dir)
	case isErrno(err, unix.EIO):
		return fmt.Errorf("%w; the disk under %s fails: see the kernel's log, and move the file to another", err, dir)
	}
	return err
}

// isErrno is errors.Is, also for what bbolt has made text of.
func isErrno(err error, n syscall.Errno) bool {
	return errors.Is(err, n) || strings.Contains(err.Error(), n.Error())
}
