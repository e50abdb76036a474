package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/host/netns"
	"ip6d/integration/lab"
	"ip6d/integration/lab/labtest"
)

// crashEnv makes the test binary the process that crashes. Its value is the options of the lab.
const crashEnv = "IP6D_TEST_CRASHING_UP"

// crashingUp makes a lab and tells each step, until it is killed, or the test that wants to kill it has gone.
func crashingUp() {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	var o lab.Options
	err := json.Unmarshal([]byte(os.Getenv(crashEnv)), &o)
	if err == nil {
		o.Say = func(line string) { fmt.Println(line) }
		_, err = lab.Up(context.Background(), o)
	}
	fmt.Println("up:", err)
	select {}
}

func TestDownRemovesALabWhoseMakerWasKilledHalfWay(t *testing.T) {
	labtest.RequireRoot(t)
	for _, c := range []struct{ underlay, step string }{
		{lab.UnderlayDevice, "underlay:"},
		{lab.UnderlayDevice, "host1:"},
		{lab.UnderlayDevice, "red1:"},
		{lab.UnderlayDevice, "blue2:"},
		{lab.UnderlayDevice, "up:"},
		{lab.UnderlayWireGuard, "host1:"},
		{lab.UnderlayWireGuard, "up:"},
	} {
		step := c.step
		t.Run(c.underlay+" "+step, func(t *testing.T) {
			text, err := json.Marshal(map[string]any{"Name": setup.lab, "Hosts": 3, "Underlay": c.underlay, "Binary": setup.ip6d, "Etcd": setup.etcd})
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), crashEnv+"="+string(text))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			alive, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer alive.Close()
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var said string
			for lines := bufio.NewScanner(out); lines.Scan(); {
				said = lines.Text()
				if strings.HasPrefix(said, step) || strings.HasPrefix(said, "up:") {
					break
				}
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait() // that it was killed is what is wanted
			if !strings.HasPrefix(said, step) {
				t.Errorf("it never came to %q; last it said %q", step, said)
			}
			if err := lab.Down(setup.lab); err != nil {
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
		if strings.HasPrefix(name, setup.lab) {
			errs = append(errs, fmt.Errorf("namespace %s is left", name))
		}
	}
	if _, err := os.Lstat("/run/" + setup.lab); !os.IsNotExist(err) {
		errs = append(errs, fmt.Errorf("/run/%s is left (%v)", setup.lab, err))
	}
	sockets, err := filepath.Glob("/run/wireguard/*.sock")
	if err != nil {
		return err
	}
	for _, path := range sockets {
		if strings.HasPrefix(filepath.Base(path), wireGuardDevices()) {
			errs = append(errs, fmt.Errorf("%s is left", path))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), setup.lab) {
		errs = append(errs, fmt.Errorf("a mount is left:\n%s", mounts))
	}
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range lines {
		if text, err := os.ReadFile(path); err == nil && (strings.Contains(string(text), "/run/"+setup.lab) || strings.Contains(string(text), wireGuardDevices())) {
			errs = append(errs, fmt.Errorf("a process is left: %q", text))
		}
	}
	return errors.Join(errs...)
}
