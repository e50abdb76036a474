package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"ip6d/integration/lab/guard"
)

// MinRate is what the fast UDP stream of a demo must reach, in packets per second.
const MinRate = 20_000

// Report is what a demo measured. Its JSON is that of `ip6d lab demo -o json`.
type Report struct {
	Hosts    int `json:"hosts"`
	Machines int `json:"machines"`
	Moves    int `json:"moves"`

	// Of both UDP streams.
	UDPSent       uint64 `json:"udp_sent"`
	UDPLost       uint64 `json:"udp_lost"`
	UDPDuplicated uint64 `json:"udp_duplicated"`
	UDPReordered  uint64 `json:"udp_reordered"` // came after one that was sent later; no failure
	UDPEarly      uint64 `json:"udp_early"`     // came to a port before the switchover to it

	LongestGap float64 `json:"longest_gap_ms"` // between two packets that came of the fast stream
	TCPBytes   uint64  `json:"tcp_bytes"`      // that came as they were sent, both ways
	TCPBroken  bool    `json:"tcp_broken"`

	Refused     Refused `json:"refused"`
	DaemonKills int     `json:"daemon_kills"`
	Seconds     float64 `json:"seconds"` // from nothing to nothing

	streams  []UDPResult // the fast one first
	tcp      TCPResult
	guarded  guard.Counts
	timeline Timeline
	overrun  uint64 // packets that this computer's kernel dropped because a CPU's backlog was full
}

// Refused are numbers of packets that were sent, and refused by the sender's host.
type Refused struct {
	OtherNetwork       uint64 `json:"other_network"`
	ForgedSource       uint64 `json:"forged_source"`
	RoutingDestination uint64 `json:"routing_destination"`
}

// gather fills in the sums.
func (r *Report) gather() {
	for _, s := range r.streams {
		r.UDPSent += s.Sent
		r.UDPLost += s.Lost
		r.UDPDuplicated += s.Duplicated
		r.UDPReordered += s.Reordered
	}
	r.UDPEarly = r.guarded.Early.UDP
	r.LongestGap = milliseconds(r.streams[0].LongestGap)
	r.TCPBytes = r.tcp.Bytes
	r.TCPBroken = r.tcp.Broken != nil
}

// check returns what is not as it must be: nil, or an ErrFailed.
func (r *Report) check() error {
	var wrong []string
	say := func(n uint64, format string, args ...any) {
		if n > 0 {
			wrong = append(wrong, fmt.Sprintf("%d ", n)+fmt.Sprintf(format, args...))
		}
	}
	for _, s := range r.streams {
		say(s.Lost, "UDP packets from %s to %s were lost, the first of them number %v", s.From, s.To, s.Missing)
		if s.SendError != nil {
			wrong = append(wrong, fmt.Sprintf("%s could not always send to %s: %v", s.From, s.To, s.SendError))
		}
		say(s.Duplicated, "UDP packets from %s to %s came twice", s.From, s.To)
		say(s.Foreign, "packets came to %s that %s had not sent like that", s.To, s.From)
	}
	say(r.guarded.Early.UDP, "UDP packets came to a port before the switchover to it")
	say(r.guarded.Early.Other, "other packets came to a port before the switchover to it")
	say(r.guarded.Late.Total(), "packets came to a port after the switchover to another was committed")
	if r.tcp.Broken != nil {
		wrong = append(wrong, fmt.Sprintf("the TCP connection broke: %v", r.tcp.Broken))
	}
	if len(wrong) == 0 {
		return nil
	}
	if r.overrun > 0 {
		wrong = append(wrong, fmt.Sprintf("meanwhile this computer's kernel dropped %d packets because a CPU had too many waiting (net.core.netdev_max_backlog): it may be too slow for this, or too busy", r.overrun))
	}
	return fmt.Errorf("%w: %s", ErrFailed, strings.Join(wrong, "; "))
}

// write writes the table, the picture and the verdict.
func (r *Report) write(w io.Writer, failed error) {
	fmt.Fprintln(w)
	table := grid{{"", "sent", "lost", "twice", "too early", "out of order", "longest gap", "the sender's own"}}
	for i, s := range r.streams {
		early := "-"
		if i == 0 { // the one to the machine that moves
			early = thousands(r.guarded.Early.UDP)
		}
		table = append(table, []string{
			fmt.Sprintf("UDP %s -> %s", s.From, s.To), thousands(s.Sent), thousands(s.Lost), thousands(s.Duplicated), early,
			thousands(s.Reordered), fmt.Sprintf("%.1f ms", milliseconds(s.LongestGap)),
			fmt.Sprintf("%.1f ms", milliseconds(s.OwnGap)),
		})
	}
	table.write(w)
	state := "every byte came as it was sent"
	if r.TCPBroken {
		state = "BROKEN"
	}
	fmt.Fprintf(w, "\n  TCP %s <-> %s   %s MB, %s", r.tcp.From, r.tcp.To, thousands(r.TCPBytes/1e6), state)
	if n := r.tcp.Retransmits; n > 0 {
		fmt.Fprintf(w, ", %s (%d of them needlessly)", plural(uint64(n), "segment sent again", "segments sent again"), r.tcp.Needless)
	}
	fmt.Fprintln(w)
	fast := r.streams[0]
	fmt.Fprintf(w, "  %s packets/s from %s to %s", thousands(uint64(fast.Rate)), fast.From, fast.To)
	if fast.Rate < MinRate {
		fmt.Fprintf(w, ": this computer is too slow, or too busy, for the %s that were meant", thousands(MinRate))
	}
	fmt.Fprint(w, "\n\n")
	r.timeline.Draw(w)
	fmt.Fprintln(w)
	if failed != nil {
		fmt.Fprintf(w, "FAILED: %s\n", strings.TrimPrefix(failed.Error(), ErrFailed.Error()+": "))
		return
	}
	fmt.Fprintf(w, "%s moved %s and a daemon was killed: nothing was lost, came twice, too early or too late.\n",
		fast.To, plural(r.Moves, "time", "times"))
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond).Microseconds()) / 1000
}

// backlogDrops is how many packets this computer's kernel has dropped because the backlog of a CPU was full: the second
// column of /proc/net/softnet_stat, in hexadecimal, a line for each CPU.
func backlogDrops() (uint64, error) {
	text, err := os.ReadFile("/proc/net/softnet_stat")
	if err != nil {
		return 0, err
	}
	var sum uint64
	for line := range strings.Lines(string(text)) {
		columns := strings.Fields(line)
		if len(columns) < 2 {
			return 0, errors.New("softnet_stat has too few columns")
		}
		n, err := strconv.ParseUint(columns[1], 16, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
