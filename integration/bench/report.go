package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// report is what is written to datapath.json.
type report struct {
	Computer computer      `json:"computer"`
	Rounds   int           `json:"rounds"`
	Seconds  float64       `json:"seconds_per_load"`
	Ways     []wayReport   `json:"ways"`
	Ratios   []ratioReport `json:"ratios"`
}

// computer is where it was measured.
type computer struct {
	Kernel   string `json:"kernel"`
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	Governor string `json:"governor"` // "none" where the kernel does not set the clock
	Time     string `json:"time"`
}

// wayReport is about one way. Of what was not measured there is nothing.
type wayReport struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Packets spread   `json:"packets_received_per_second"`
	Cost    spread   `json:"ns_per_packet"`
	TCP     *spread  `json:"tcp_bits_per_second,omitempty"`
	P50     *spread  `json:"request_p50_us,omitempty"`
	P99     *spread  `json:"request_p99_us,omitempty"`
	Rounds  []sample `json:"rounds"`
}

// ratioReport is about one ratio.
type ratioReport struct {
	Key string `json:"key"`
	spread
	Bar    float64   `json:"bar"`
	Goal   string    `json:"goal"` // at_least or at_most the bar
	Met    bool      `json:"met"`
	Rounds []float64 `json:"rounds"`
}

func newReport(o options, r *results) (*report, error) {
	c, err := thisComputer()
	if err != nil {
		return nil, err
	}
	rep := &report{Computer: c, Rounds: o.rounds, Seconds: o.duration.Seconds()}
	for _, w := range r.ways {
		samples := r.samples[w.name]
		of := func(value func(sample) float64) *spread {
			numbers := make([]float64, len(samples))
			for i, s := range samples {
				numbers[i] = value(s)
			}
			if s := spreadOf(numbers); s != (spread{}) {
				return &s
			}
			return nil
		}
		rep.Ways = append(rep.Ways, wayReport{
			Name:    w.name,
			Title:   w.title,
			Packets: *of(func(s sample) float64 { return s.PacketsPerSecond }),
			Cost:    *of(func(s sample) float64 { return s.NsPerPacket }),
			TCP:     of(func(s sample) float64 { return s.TCPBitsPerSecond }),
			P50:     of(func(s sample) float64 { return s.RequestP50 }),
			P99:     of(func(s sample) float64 { return s.RequestP99 }),
			Rounds:  samples,
		})
	}
	for _, x := range ratios() {
		if !x.measured(r) {
			continue
		}
		q := ratioReport{Key: x.key, Bar: x.bar, Goal: "at_least"}
		for round := range o.rounds {
			q.Rounds = append(q.Rounds, x.of(r, round))
		}
		q.spread = spreadOf(q.Rounds)
		q.Met = q.Median >= x.bar
		if x.below {
			q.Goal, q.Met = "at_most", q.Median <= x.bar
		}
		rep.Ratios = append(rep.Ratios, q)
	}
	return rep, nil
}

// print writes the tables, and as the last line the ratios as one JSON object.
func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d cores, Linux %s, governor %s; %d rounds of %gs per load; medians, and quartiles in brackets\n\n",
		r.Computer.CPU, r.Computer.Cores, r.Computer.Kernel, r.Computer.Governor, r.Rounds, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tpackets/s\t\tns/packet\tTCP Gbit/s\tp50 µs\tp99 µs\t")
	for _, x := range r.Ways {
		fmt.Fprintf(t, "%s\t%.0f\t[%.0f %.0f]\t%.0f\t%s\t%s\t%s\t\n", x.Title, x.Packets.Median, x.Packets.LowQuartile,
			x.Packets.HighQuartile, x.Cost.Median, median(x.TCP, 1e-9), median(x.P50, 1), median(x.P99, 1))
	}
	fmt.Fprintln(t, "\t\t\t\t\t\t\t")
	fmt.Fprintln(t, "\tmedian\t\tbar\t\t\t\t")
	last := make(map[string]float64)
	for _, x := range r.Ratios {
		met := "met"
		if !x.Met {
			met = "NOT MET"
		}
		fmt.Fprintf(t, "%s\t%.3f\t[%.3f %.3f]\t%s %g\t%s\t\t\t\n", x.Key, x.Median, x.LowQuartile, x.HighQuartile,
			strings.ReplaceAll(x.Goal, "_", " "), x.Bar, met)
		last[x.Key] = x.Median
	}
	if err := t.Flush(); err != nil {
		return err
	}
	line, err := json.Marshal(last)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\n%s\n", line)
	return err
}

func median(s *spread, unit float64) string {
	if s == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f", s.Median*unit)
}

// write writes datapath.json and datapath.svg.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "datapath.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "datapath.svg"), r.plot(), 0o644)
}

func thisComputer() (c computer, err error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return c, fmt.Errorf("read the kernel's release: %w", err)
	}
	version, _, _ := strings.Cut(unix.ByteSliceToString(name.Release[:]), "-") // what follows is whose build it is
	c = computer{
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
