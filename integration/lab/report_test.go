package lab

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"ip6d/integration/lab/guard"
)

// good is a report of a demo in which all went well.
func good() *Report {
	r := &Report{
		Hosts: 3, Machines: 6, Moves: 3, DaemonKills: 1, Seconds: 10.5,
		Refused: Refused{3, 3, 3},
		streams: []UDPResult{
			{From: "red1", To: "red2", Sent: 200_000, Reordered: 4, Rate: 24_000, LongestGap: 5 * time.Millisecond, Timeline: []uint32{2400, 2400}},
			{From: "red2", To: "red1", Sent: 20_000, Rate: 2_000},
		},
		tcp:      TCPResult{From: "red1", To: "red2", Bytes: 70e6},
		timeline: Timeline{Packets: []uint32{2400, 2400}},
	}
	return r
}

func TestAGoodDemoIsReportedAsOne(t *testing.T) {
	r := good()
	r.gather()
	if err := r.check(); err != nil {
		t.Error(err)
	}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"hosts":3,"machines":6,"moves":3,"udp_sent":220000,"udp_lost":0,"udp_duplicated":0,"udp_reordered":4,"udp_early":0,` +
		`"longest_gap_ms":5,"tcp_bytes":70000000,"tcp_broken":false,"refused":{"other_network":3,"forged_source":3,"routing_destination":3},` +
		`"daemon_kills":1,"seconds":10.5}`
	if string(text) != want {
		t.Errorf("JSON:\n%s\nwant:\n%s", text, want)
	}
	var out strings.Builder
	r.write(&out, nil)
	if !strings.Contains(out.String(), "red2 moved 3 times") || strings.Contains(out.String(), "FAILED") {
		t.Errorf("the text is:\n%s", &out)
	}
}

func TestWhateverWentWrongFailsTheDemoByName(t *testing.T) {
	for _, c := range []struct {
		what  string
		spoil func(*Report)
		want  string
	}{
		{"lost", func(r *Report) { r.streams[0].Lost, r.streams[0].Missing = 2, []uint64{7, 9} }, "2 UDP packets from red1 to red2 were lost, the first of them number [7 9]"},
		{"lost on the way back", func(r *Report) { r.streams[1].Lost = 1 }, "1 UDP packets from red2 to red1 were lost"},
		{"not sent", func(r *Report) { r.streams[0].SendError = errors.New("no buffer space") }, "no buffer space"},
		{"twice", func(r *Report) { r.streams[0].Duplicated = 1 }, "came twice"},
		{"foreign", func(r *Report) { r.streams[1].Foreign = 1 }, "had not sent"},
		{"early", func(r *Report) { r.guarded.Early.UDP = 3 }, "3 UDP packets came to a port before"},
		{"early, not UDP", func(r *Report) { r.guarded.Early.Other = 1 }, "1 other packets came to a port before"},
		{"late", func(r *Report) { r.guarded.Late = guard.Packets{UDP: 1, Other: 1} }, "2 packets came to a port after"},
		{"broken", func(r *Report) { r.tcp.Broken = errors.New("byte 5 is wrong") }, "byte 5 is wrong"},
		{"overrun", func(r *Report) { r.streams[0].Lost, r.overrun = 1, 12 }, "kernel dropped 12 packets"},
	} {
		r := good()
		c.spoil(r)
		r.gather()
		err := r.check()
		if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want ErrFailed that says %q", c.what, err, c.want)
			continue
		}
		var out strings.Builder
		r.write(&out, err)
		if !strings.Contains(out.String(), "FAILED: ") || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: the text is:\n%s", c.what, &out)
		}
	}
}

func TestASlowComputerIsSaidToBeOneAndFailsNothing(t *testing.T) {
	r := good()
	r.streams[0].Rate = 12_345
	r.gather()
	var out strings.Builder
	r.write(&out, r.check())
	if text := out.String(); !strings.Contains(text, "12,345 packets/s") || !strings.Contains(text, "too slow") || strings.Contains(text, "FAILED") {
		t.Errorf("the text is:\n%s", text)
	}
}
