package nat

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The programs read the time in jiffies, the kernel's count of clock ticks: compiled, that is one load, where every
// other clock is a call. Here it is a duration since some start.

// readTick returns how long a tick is: the resolution of the coarse clocks (clock_getres(2)).
func readTick() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &t); err != nil {
		return 0, fmt.Errorf("read the length of a clock tick: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// readJiffies reads the programs' clock. A failure reads as 0, by which no next hop's MAC is trusted.
func (d *Datapath) readJiffies() time.Duration {
	var jiffies uint64
	if _, err := d.objects.ReadJiffies.Run(&ebpf.RunOptions{Context: &jiffies, ContextOut: &jiffies}); err != nil {
		d.log.Error("clock of the programs not read", "error", err)
		return 0
	}
	return time.Duration(jiffies) * d.tick
}

// ticks is a time of that clock as the programs have it.
func (d *Datapath) ticks(t time.Duration) uint64 { return uint64(t / d.tick) }
