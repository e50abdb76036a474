package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// state looks at the directory of the databases.
func (o Options) state() []Finding {
	dir := o.Config.StateDir
	at := dir
	for { // the daemon makes what is missing
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			return []Finding{{"state_dir", Error, at + " is no directory", "move it away, or set state_dir"}}
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return []Finding{{"state_dir", Error, err.Error(), "make it a directory of root's"}}
		}
		at = filepath.Dir(at)
	}
	all := []Finding{writable(dir, at)}
	var s unix.Statfs_t
	if err := unix.Statfs(at, &s); err != nil {
		return append(all, fromError("state_dir", "", &os.PathError{Op: "statfs", Path: at, Err: err}))
	}
	return append(all, durable(dir, s.Type), room(dir, s.Bavail*uint64(s.Bsize)))
}

// writable makes a file, and has it written to the disk.
func writable(dir, at string) Finding {
	err := func() error {
		f, err := os.CreateTemp(at, ".ip6d-doctor-*")
		if err != nil {
			return err
		}
		_, err = f.WriteString("x")
		return errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	}()
	if err != nil {
		return Finding{"state_dir", Error, err.Error(), "mount it for writing, and give it to the daemon's user"}
	}
	return Finding{Check: "state_dir", Severity: OK, Value: dir + " can be written"}
}

func durable(dir string, kind int64) Finding {
	if kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC {
		return Finding{"durability", Warning, dir + " is in memory: a reboot loses which machines this host has", "set state_dir to a directory on a disk"}
	}
	return Finding{Check: "durability", Severity: OK, Value: fmt.Sprintf("%s is on a file system of type %#x", dir, kind)}
}

// How much room the databases should have: a million moved machines take about 200 MiB, and a compaction as much again.
const (
	littleRoom = 1 << 30
	noRoom     = 64 << 20
)

func room(dir string, free uint64) Finding {
	f := Finding{Check: "disk", Severity: OK, Value: fmt.Sprintf("%d MiB free in %s", free>>20, dir)}
	switch {
	case free < noRoom:
		f.Severity = Error
	case free < littleRoom:
		f.Severity = Warning
	default:
		return f
	}
	f.Remedy = fmt.Sprintf("make room: below %d MiB a database may not be written any more", noRoom>>20)
	return f
}

func (o Options) identity() Finding {
	return Finding{Check: "identity", Severity: OK, Value: fmt.Sprintf("host %d, %q, with identity %q", o.Config.Host, o.Config.Name, o.Config.Identity)}
}
