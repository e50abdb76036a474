package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// boot runs a virtual machine until it powers off, and gives what it writes to its second serial port to read. Its
// console, which is its first one, goes to console. The machine is emulated: that works everywhere, also within
// another virtual machine. Its files are put into dir.
func boot(ctx context.Context, dir string, image, initramfs []byte, commandLine string, console io.Writer, read func(io.Reader) error) error {
	kernel, initrd := filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd")
	err := errors.Join(os.WriteFile(kernel, image, 0o600), os.WriteFile(initrd, initramfs, 0o600))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot", "-kernel", kernel, "-initrd", initrd, "-append", commandLine,
		"-serial", "file:/dev/stderr", "-serial", "stdio",
	)
	c.Stderr = console
	// however this program ends; the signal is sent when the thread that started the process ends
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	err = read(out)
	if err != nil {
		stop()
	}
	if waitErr := c.Wait(); err == nil && waitErr != nil {
		err = fmt.Errorf("qemu: %w", waitErr)
	}
	return err
}
