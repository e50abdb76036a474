package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// scrape reads the metrics as Prometheus does.
func (h *testHost) scrape(network, address string) (map[string]string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (c net.Conn, err error) {
		err = h.ns.Do(func() error {
			var d net.Dialer
			c, err = d.DialContext(ctx, network, address)
			return err
		})
		return c, err
	}}}
	r, err := client.Get("http://ip6d/metrics")
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %w", r.Status, err)
	}
	series := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			series[name] = value
		}
	}
	return series, nil
}

func TestPrometheusIsToldOfDropsMapsAndMachines(t *testing.T) {
	h := newTestHost(t)
	err := h.ns.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		t.Fatal(err)
	}
	h.start("--metrics", "[::1]:9446")
	a, b, other := h.machine("a", 42), h.machine("b", 42), h.machine("other", 43)
	a.meets(b)
	a.send(other, "let me in")
	h.eventually("the packet is refused", func() bool { return h.drops()["other_network"] > 0 })
	for network, address := range map[string]string{"unix": h.socket(), "tcp": "[::1]:9446"} {
		got, err := h.scrape(network, address)
		if err != nil {
			t.Fatal(err)
		}
		for series, want := range map[string]string{
			`ip6d_dropped_packets_total{reason="other_network"}`: fmt.Sprint(h.drops()["other_network"]),
			`ip6d_dropped_packets_total{reason="loop"}`:          "0",
			`ip6d_drop_events_lost_total{cause="ring_full"}`:     "0",
			`ip6d_map_entries{map="machines"}`:                   "3",
			`ip6d_map_entries{map="ports"}`:                      "3",
			`ip6d_map_entries{map="blocks"}`:                     "1",
			`ip6d_map_entries{map="moved"}`:                      "0",
			`ip6d_map_entries{map="hosts"}`:                      "1", // itself: its block leads to it
			`ip6d_map_max_entries{map="machines"}`:               "8192",
			`ip6d_machines{state="here"}`:                        "3",
			`ip6d_machines{state="away"}`:                        "0",
			`ip6d_store_following`:                               "1",
			`ip6d_hints_sent_total`:                              "0",
		} {
			if got[series] != want {
				t.Errorf("over %s, %s is %q, want %s", network, series, got[series], want)
			}
		}
		for series := range got {
			if strings.Contains(series, `"a"`) || strings.Contains(series, "42") {
				t.Errorf("%s is about one machine or network, and would go on without it", series)
			}
		}
	}
	if _, err := h.scrape("tcp", "[::1]:6446"); err == nil {
		t.Error("it answers on an address that nobody set")
	}
}

func TestAnAddressForMetricsThatCannotBeListenedOnIsSaid(t *testing.T) {
	h := newTestHost(t)
	said := h.fails(h.command(h.serveArgs("--metrics", "[2001:db8::1]:9446")...))
	if !strings.Contains(said, "metrics") || !strings.Contains(said, "2001:db8::1") {
		t.Errorf("it says %q", said)
	}
}

func TestMonitorShowsARefusedPacketAsItHappens(t *testing.T) {
	h := newTestHost(t)
	h.start()
	a, other := h.machine("a", 42), h.machine("other", 43)
	ctx, interrupt := context.WithTimeout(t.Context(), patience)
	defer interrupt()
	r, w := io.Pipe()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"--socket", h.socket(), "-o", "json", "monitor", "--machine", "a", "--reason", "other_network"}, strings.NewReader(""), w, io.Discard)
		w.Close()
	}()
	lines := make(chan monitorAnswer)
	go func() {
		defer close(lines)
		for d := json.NewDecoder(r); ; {
			var a monitorAnswer
			if d.Decode(&a) != nil {
				return
			}
			lines <- a
		}
	}()
	var shown *dropEventAnswer
	h.eventually("a packet is shown", func() bool {
		a.send(other, "let me in") // again and again: the command may not have begun
		select {
		case line := <-lines:
			shown = line.Drop
		default:
		}
		return shown != nil
	})
	if shown.Reason != "other_network" || shown.Way != "from_machine" || shown.SourceMachine != "a" || shown.DestinationMachine != "other" ||
		shown.Source != a.stable.String() || shown.Destination != other.stable.String() || shown.NextHeader != 17 {
		t.Errorf("it shows %+v", shown)
	}
	interrupt()
	for range lines { // what was on its way
	}
	if status := <-done; status != exitOK {
		t.Errorf("exit status %d after an interruption, want 0", status)
	}
}

// No series is about one machine, and what counts machines does so when it is read.
func TestTheMetricsOfADestroyedMachineAreGoneAtOnce(t *testing.T) {
	h := newTestHost(t)
	h.start()
	h.machine("ephemeral", 42)
	scrape := func() map[string]string {
		t.Helper()
		series, err := h.scrape("unix", h.socket())
		if err != nil {
			t.Fatal(err)
		}
		for name := range series {
			if strings.Contains(name, "ephemeral") {
				t.Errorf("there is a series of one machine: %s", name)
			}
		}
		return series
	}
	const here, ports, entries = `ip6d_machines{state="here"}`, `ip6d_map_entries{map="ports"}`, `ip6d_map_entries{map="machines"}`
	before := scrape()
	h.run(new(map[string]any), "machine", "destroy", "ephemeral")
	after := scrape()
	for _, name := range []string{here, entries} {
		if before[name] != "1" || after[name] != "0" {
			t.Errorf("%s is %q with the machine and %q without, want 1 and 0", name, before[name], after[name])
		}
	}
	if before[ports] == "" || before[ports] == after[ports] {
		t.Errorf("%s is %q with the machine and %q without", ports, before[ports], after[ports])
	}
}
