package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"ip6d/integration/bench/report"
)

// datapath is what is written to datapath.json.
type datapath struct {
	Computer report.Computer `json:"computer"`
	Rounds   int             `json:"rounds"`
	Seconds  float64         `json:"seconds_per_load"`
	Ways     []wayReport     `json:"ways"`
	Ratios   []report.Goal   `json:"ratios"`
}

// wayReport is about one way. Of what was not measured there is nothing.
type wayReport struct {
	Name    string         `json:"name"`
	Title   string         `json:"title"`
	Packets report.Spread  `json:"packets_received_per_second"`
	Cost    report.Spread  `json:"ns_per_packet"`
	TCP     *report.Spread `json:"tcp_bits_per_second,omitempty"`
	P50     *report.Spread `json:"request_p50_us,omitempty"`
	P99     *report.Spread `json:"request_p99_us,omitempty"`
	Rounds  []sample       `json:"rounds"`
}

func newReport(o options, r *results) (*datapath, error) {
	c, err := report.ThisComputer()
	if err != nil {
		return nil, err
	}
	rep := &datapath{Computer: c, Rounds: o.rounds, Seconds: o.duration.Seconds()}
	for _, w := range r.ways {
		samples := r.samples[w.name]
		of := func(value func(sample) float64) *report.Spread {
			numbers := make([]float64, len(samples))
			for i, s := range samples {
				numbers[i] = value(s)
			}
			if s := report.SpreadOf(numbers); s != (report.Spread{}) {
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
		var rounds []float64
		for round := range o.rounds {
			rounds = append(rounds, x.of(r, round))
		}
		q := report.AtLeast(x.key, x.bar, rounds)
		if x.below {
			q = report.AtMost(x.key, x.bar, rounds)
		}
		rep.Ratios = append(rep.Ratios, q)
	}
	return rep, nil
}

// print writes the tables, and as the last line the ratios as one JSON object.
func (r *datapath) print(w io.Writer) error {
	fmt.Fprintf(w, "%s; %d rounds of %gs per load; medians, and quartiles in brackets\n\n",
		r.Computer, r.Rounds, r.Seconds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tpackets/s\t\tns/packet\tTCP Gbit/s\tp50 µs\tp99 µs\t")
	for _, x := range r.Ways {
		fmt.Fprintf(t, "%s\t%.0f\t[%.0f %.0f]\t%.0f\t%s\t%s\t%s\t\n", x.Title, x.Packets.Median, x.Packets.LowQuartile,
			x.Packets.HighQuartile, x.Cost.Median, median(x.TCP, 1e-9), median(x.P50, 1), median(x.P99, 1))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	return report.PrintGoals(w, r.Ratios)
}

func median(s *report.Spread, unit float64) string {
	if s == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f", s.Median*unit)
}

// write writes datapath.json and datapath.svg.
func (r *datapath) write(dir string) error { return report.Write(dir, "datapath", r, r.plot()) }
