package report

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Computer is where it was measured.
type Computer struct {
	Kernel   string `json:"kernel"`
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	Governor string `json:"governor"` // "none" where the kernel does not set the clock
	Time     string `json:"time"`
}

// String is for the head of a table.
func (c Computer) String() string {
	return fmt.Sprintf("%s, %d cores, Linux %s, governor %s", c.CPU, c.Cores, c.Kernel, c.Governor)
}

// ThisComputer describes the one that this runs on.
func ThisComputer() (c Computer, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return c, fmt.Errorf("read the kernel's release: %w", err)
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-") // what follows is whose build it is
	c = Computer{
		Kernel:   version,
		CPU:      "unknown CPU",
		Cores:    runtime.NumCPU(),
		Governor: "none",
		Time:     time.Now().UTC().Format(time.RFC3339),
	}
	if text, err := os.ReadFile("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"); err == nil {
		c.Governor = strings.TrimSpace(string(text))
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return c, err
	}
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			c.CPU = strings.TrimSpace(value)
			break
		}
	}
	return c, nil
}
