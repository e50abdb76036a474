package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"ip6d/integration/bench/report"
)

// measured is what is written to control.json.
type measured struct {
	Computer report.Computer `json:"computer"`
	Rounds   int             `json:"rounds"`
	Seconds  float64         `json:"seconds_per_load"`
	Numbers  []report.Goal   `json:"numbers"` // as measured
	Goals    []report.Goal   `json:"goals"`   // what the table of the last line has
}

// goal makes one of the numbers that are held to a bar. of returns nil where what it needs was not measured.
type goal struct {
	key   string
	bar   float64 // 0, with told: none
	below bool
	told  bool
	of    func(b *bench) []float64
}

func goals() []goal {
	number := func(key string) func(*bench) []float64 { return func(b *bench) []float64 { return b.samples[key] } }
	quotient := func(a string, of ...string) func(*bench) []float64 {
		return func(b *bench) (q []float64) {
			for i, v := range b.samples[a] {
				best := 0.0
				for _, key := range of {
					best = max(best, b.samples[key][i])
				}
				q = append(q, v/best)
			}
			return q
		}
	}
	return []goal{
		{key: "create_vs_fsync", bar: 8, of: quotient(createOurs, createFsync)},
		{key: "api_create_vs_noop", bar: 0.5, of: quotient(callOurs, callNothing)},
		{key: "create_vs_hostlocal", bar: 300, of: quotient(createOurs, createHostLocal)},
		{key: "create_vs_goipam_etcd", bar: 20, of: quotient(createOurs, createGoIPAM, createGoIPAM1)},
		{key: "lookup_ns", bar: 100, below: true, of: number(lookupTime)},
		{key: "fanout_vs_raw_watch", bar: 1.3, below: true, of: quotient(fanoutOurs, fanoutBare)},
		{key: "moves_per_s", told: true, of: number(moveOurs)},
		{key: "moves_vs_txn", bar: 0.7, of: quotient(moveOurs, moveBare)},
		{key: "boot_1m_ms", bar: 1500, below: true, of: number(bootTime)},
		{key: "bytes_per_moved", bar: 96, below: true, of: number(bytesMoved)},
		{key: "bytes_per_unmoved", bar: 0, below: true, of: number(bytesUnmoved)},
		{key: "flip_us", bar: 50, below: true, of: number(flipTime)},
	}
}

func (b *bench) report() (*measured, error) {
	c, err := report.ThisComputer()
	if err != nil {
		return nil, err
	}
	r := &measured{Computer: c, Rounds: b.rounds, Seconds: b.duration.Seconds()}
	var keys []string
	for key := range b.samples {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		r.Numbers = append(r.Numbers, report.Told(key, b.samples[key]))
	}
	for _, g := range goals() {
		rounds := g.of(b)
		switch {
		case len(rounds) == 0:
		case g.told:
			r.Goals = append(r.Goals, report.Told(g.key, rounds))
		case g.below:
			r.Goals = append(r.Goals, report.AtMost(g.key, g.bar, rounds))
		default:
			r.Goals = append(r.Goals, report.AtLeast(g.key, g.bar, rounds))
		}
	}
	return r, nil
}

// write writes control.json and control.svg.
func (r *measured) write(dir string) error { return report.Write(dir, "control", r, r.plot()) }

// print writes the tables, and as the last line the goals as one JSON object.
func (r *measured) print(w io.Writer) error {
	fmt.Fprintf(w, "%s; %d rounds, %gs per load; medians, and quartiles in brackets\n\n", r.Computer, r.Rounds, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, n := range r.Numbers {
		fmt.Fprintf(t, "%s\t%.4g\t[%.4g %.4g]\t\n", n.Key, n.Median, n.LowQuartile, n.HighQuartile)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return report.PrintGoals(w, r.Goals)
}

// plot draws what is compared.
func (r *measured) plot() []byte {
	panel := func(title, format string, unit float64, bars ...[2]string) report.Panel {
		p := report.Panel{Title: title, Format: format, Unit: unit}
		for i, bar := range bars {
			for _, n := range r.Numbers {
				if n.Key == bar[0] {
					p.Bars = append(p.Bars, report.Bar{Title: bar[1], Ours: i == 0, Spread: n.Spread})
				}
			}
		}
		return p
	}
	return report.Chart("The control plane: ip6d, what limits it, and what else gives out addresses",
		fmt.Sprintf("%s, Linux %s; medians of %d rounds, whiskers from the lower to the upper quartile", r.Computer.CPU, r.Computer.Kernel, r.Rounds),
		[]report.Panel{
			panel("Addresses given out per second (longer is better)", "%.0f", 1,
				[2]string{createOurs, "ip6d, 64 callers"}, [2]string{createFsync, "bbolt, 1 put a commit"}, [2]string{createBatch, "bbolt Batch, 64 callers"},
				[2]string{createHostLocal, "host-local"}, [2]string{createGoIPAM1, "go-ipam on etcd, 1"}, [2]string{createGoIPAM, "go-ipam on etcd, 64"}),
			panel("Creates per second through the socket, 64 clients (longer is better)", "%.0f", 1,
				[2]string{callOurs, "ip6d"}, [2]string{callNothing, "answered at once"}),
			panel("Moves per second, 64 in flight (longer is better)", "%.0f", 1,
				[2]string{moveOurs, "ip6d, switchovers"}, [2]string{moveBare, "etcd, transactions"}),
			panel("From a switchover to 1,000 hosts, 99th percentile (shorter is better)", "%.1f ms", 1,
				[2]string{fanoutOurs, "ip6d"}, [2]string{fanoutBare, "etcd, bare watches"}),
		})
}
