package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/host/netns"
	"ip6d/integration/lab"
)

// crashEnv makes the test binary the process that crashes: its value is the directory of the programs.
const crashEnv = "IP6D_TEST_CRASHING_UP"

// crashingUp makes a lab and tells each step, until it is killed.
func crashingUp() {
	text := strings.Split(os.Getenv(crashEnv), ":")
	_, err := lab.Up(context.Background(), lab.Options{
		Name: labName, Binary: text[0], Etcd: text[1],
		Say: func(line string) { fmt.Println(line) },
	})
	fmt.Println("up:", err)
	select {}
}

func TestDownRemovesALabWhoseMakerWasKilledHalfWay(t *testing.T) {
	requireRoot(t)
	for _, step := range []string{"underlay:", "host1:", "red1:", "blue2:", "up:"} {
		t.Run(step, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), crashEnv+"="+built.ip6d+":"+built.etcd)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			reached := false
			for lines := bufio.NewScanner(out); !reached && lines.Scan(); {
				reached = strings.HasPrefix(lines.Text(), step)
			}
			err = errors.Join(cmd.Process.Kill())
			if waitErr := cmd.Wait(); err != nil || cmd.ProcessState.Success() {
				t.Errorf("kill: %v, wait: %v", err, waitErr)
			}
			if !reached {
				t.Errorf("it never came to %q", step)
			}
			if err := lab.Down(labName); err != nil {
				t.Fatal(err)
			}
			if err := gone(); err != nil {
				t.Error(err)
			}
		})
	}
}

// gone tells what is left of the tests' lab.
func gone() error {
	var errs []error
	names, err := netns.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, labName) {
			errs = append(errs, fmt.Errorf("namespace %s is left", name))
		}
	}
	if _, err := os.Lstat("/run/" + labName); !os.IsNotExist(err) {
		errs = append(errs, fmt.Errorf("/run/%s is left (%v)", labName, err))
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), labName) {
		errs = append(errs, fmt.Errorf("a mount is left:\n%s", mounts))
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range lines {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), "/run/"+labName) {
			errs = append(errs, fmt.Errorf("a process is left: %q", text))
		}
	}
	return errors.Join(errs...)
}
