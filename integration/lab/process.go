package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ip6d/host/netns"
)

// Process is a process of the lab that this one has started. It has a session of its own, so that neither Ctrl-C nor the
// end of this process ends it.
type Process struct {
	name   string
	log    string // path of its log
	cmd    *exec.Cmd
	exited chan struct{}
}

// The mark is an entry in the environment of each process of a lab. By it they are found again after a crash: unlike a
// file with a number in it, it cannot be missing, and cannot mean another process.
const markName = "IP6D_LAB="

func (o Options) mark() string { return markName + o.directory() }

// start starts cmd in the namespace. Its output goes to the end of the log.
func (o Options) start(name string, ns *netns.Namespace, cmd *exec.Cmd) (*Process, error) {
	log := filepath.Join(o.directory(), name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer f.Close()
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(slices.Clone(cmd.Env), o.mark())
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := ns.Start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, log: log, cmd: cmd, exited: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in the log
		close(p.exited)
	}()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Kill ends the process with SIGKILL, as a crash would, and waits until it has ended.
func (p *Process) Kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}

// wait calls try until it succeeds. Errors: ErrEnded with what the process said last, or that of ctx with the last of try.
func (p *Process) wait(ctx context.Context, try func(context.Context) error) error {
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return fmt.Errorf("%w: %s: %s", ErrEnded, p.name, lastLine(p.log))
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: %w; it said last: %s", p.name, context.Cause(ctx), err, lastLine(p.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lastLine is the last line of a log, which is where a process says why it ends.
func lastLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if last := lines[len(lines)-1]; last != "" {
		return last
	}
	return "it said nothing"
}

// endProcesses kills every process with the lab's mark and waits until they have ended. It looks until it finds none: a
// daemon may have started one, which is to outlive it, after the processes were listed.
func (o Options) endProcesses() error {
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return fmt.Errorf("list processes: %w", err)
		}
		found := false
		var errs []error
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
				ended, err := endIfMarked(pid, o.mark())
				found = found || ended
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil || !found {
			return err
		}
	}
}

// endIfMarked ends the process of that number if it has the mark, and reports whether it has ended one. The number is looked
// up once: what is read and killed is one process, also when it ends meanwhile and its number goes to another.
func endIfMarked(pid int, mark string) (ended bool, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return false, nil // ended, or a thread
	}
	defer unix.Close(fd)
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	// Ended meanwhile, or one that even root may not look at, which no process of a lab is.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the environment of process %d: %w", pid, err)
	}
	if !slices.ContainsFunc(bytes.Split(environ, []byte{0}), func(e []byte) bool { return string(e) == mark }) {
		return false, nil
	}
	// Had it ended before its environment was read, that would be another's, but then this fails.
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		if errors.Is(err, unix.ESRCH) {
			return false, nil
		}
		return false, fmt.Errorf("kill process %d: %w", pid, err)
	}
	return true, waitEnd(fd, pid)
}

// killTimeout is how long a killed process may take to end: it may have memory to give back, but nothing else to do.
const killTimeout = 10 * time.Second

func waitEnd(pidfd, pid int) error {
	deadline := time.Now().Add(killTimeout)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("process %d was killed and has not ended after %v", pid, killTimeout)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the end of process %d: %w", pid, err)
		}
		if n > 0 {
			return nil
		}
	}
}
