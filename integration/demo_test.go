package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"ip6d/integration/lab"
	"ip6d/integration/lab/labtest"
)

func TestTheDemoShowsWhatItPromises(t *testing.T) {
	labtest.RequireRoot(t)
	var out bytes.Buffer
	report, err := lab.Demo(t.Context(), lab.DemoOptions{
		Options: options(3),
		Out:     &out,
	})
	t.Logf("%s", &out)
	if err != nil {
		t.Fatal(err)
	}
	if err := gone(); err != nil {
		t.Error(err)
	}
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := []string{"hosts", "machines", "moves", "udp_sent", "udp_lost", "udp_duplicated", "udp_reordered", "udp_early",
		"longest_gap_ms", "tcp_bytes", "tcp_broken", "refused", "daemon_kills", "seconds"}
	for _, key := range want {
		if _, ok := got[key]; !ok {
			t.Errorf("the report lacks %s: %s", key, text)
		}
	}
	for key := range got {
		if !slices.Contains(want, key) {
			t.Errorf("the report has %s, which nobody asked for: %s", key, text)
		}
	}
	if report.Hosts != 3 || report.Machines != 6 || report.Moves != 3 || report.DaemonKills != 1 || report.UDPSent == 0 || report.TCPBytes == 0 {
		t.Errorf("the report is of another demo: %s", text)
	}
	if r := report.Refused; r.OtherNetwork == 0 || r.ForgedSource == 0 || r.RoutingDestination == 0 {
		t.Errorf("something was not refused: %s", text)
	}
}

func TestAnInterruptedDemoLeavesNothing(t *testing.T) {
	labtest.RequireRoot(t)
	for _, at := range []string{"host2:", "pinged", "other_network", "UDP at", "away from home"} {
		t.Run(at, func(t *testing.T) {
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			_, err := lab.Demo(ctx, lab.DemoOptions{
				Options: options(3),
				Out:     &trigger{at, interrupt},
			})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("interrupted, it says %v", err)
			}
			if err := gone(); err != nil {
				t.Error(err)
			}
		})
	}
}

// trigger is a writer that calls f when a certain text is written to it.
type trigger struct {
	at string
	f  func()
}

func (w *trigger) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(w.at)) {
		w.f()
	}
	return len(p), nil
}
