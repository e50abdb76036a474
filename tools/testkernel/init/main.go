// Init is the only program of the virtual machine that testkernel starts: it loads the modules, runs the tests, says
// on the second serial port how each ended, and powers off. Its arguments are passed on to the tests, its environment
// too; both come from the kernel's command line.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err) // the console
	}
	unix.Sync()
	// Init must never return, or the kernel panics; testkernel starts its machine so that a panic ends it, too.
	panic(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func run(args []string) error {
	if err := mount(); err != nil {
		return err
	}
	out, err := openRaw("/dev/ttyS1")
	if err != nil {
		return err
	}
	defer out.Close()
	if err := loadModules(); err != nil {
		return err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	report(out, "kernel", unix.ByteSliceToString(name.Release[:]))
	tests, err := filepath.Glob("/src/*/*.test")
	if err != nil {
		return err
	}
	for _, binary := range tests {
		dir := filepath.Dir(binary)
		report(out, "start", filepath.Base(dir))
		c := exec.Command(binary, args...)
		c.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
		c.Dir, c.Stdout, c.Stderr = dir, out, out
		status := "0"
		if err := c.Run(); err != nil {
			status = err.Error()
		}
		report(out, "end", status)
	}
	report(out, "done", "")
	return nil
}

// report writes a line that no test writes. What a test wrote last may lack its newline.
func report(out io.Writer, what, value string) { fmt.Fprintf(out, "\n\x02%s %s\n", what, value) }

func mount() error {
	for _, m := range []struct{ kind, at string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"bpf", "/sys/fs/bpf"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := errors.Join(os.MkdirAll(m.at, 0o755), unix.Mount(m.kind, m.at, m.kind, 0, "")); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return errors.Join(os.MkdirAll("/var", 0o755), os.Symlink("/run", "/var/run"))
}

// openRaw opens a serial port so that bytes pass as they are.
func openRaw(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	settings, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err == nil {
		settings.Oflag &^= unix.OPOST
		err = unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, settings)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up %s: %w", path, err), port.Close())
	}
	return port, nil
}

// loadModules loads them by the order of their files' names.
func loadModules() error {
	paths, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = errors.Join(unix.FinitModule(int(f.Fd()), "", 0), f.Close())
		if err != nil {
			return fmt.Errorf("load %s: %w", path, err)
		}
	}
	return nil
}
