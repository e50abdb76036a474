package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// monitored is what a stub streams.
func monitored() []*ip6dv1.MonitorDropsResponse {
	at := timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.Local))
	return []*ip6dv1.MonitorDropsResponse{
		{},
		{Drop: &ip6dv1.DropEvent{
			Time: at, Reason: "foreign_source", Way: "from_machine", Device: "veth1", Source: "fd00::1", Destination: "fd00::2",
			SourceMachine: "web1", NextHeader: 17, Length: 60,
		}},
		{Drop: &ip6dv1.DropEvent{Time: at, Reason: "arp", Way: "from_machine", SourceMachine: "web1", Length: 42}},
		{Drop: &ip6dv1.DropEvent{Time: at, Reason: "ipv4", Way: "from_underlay", Device: "eth0", Length: 42}},
		{Missed: &ip6dv1.MissedDrops{Sampled: 5, TooSlow: 6}},
	}
}

// monitorUntil runs a command line until it has written so many lines, then interrupts it.
func monitorUntil(t *testing.T, lines int, args ...string) (stdout string, status int) {
	t.Helper()
	ctx, interrupt := context.WithTimeout(t.Context(), patience)
	defer interrupt()
	out := &interruptingBuffer{lines: lines, interrupt: interrupt}
	var stderr bytes.Buffer
	status = run(ctx, args, strings.NewReader(""), out, &stderr)
	if stderr.Len() > 0 {
		t.Errorf("it complains: %s", &stderr)
	}
	return out.String(), status
}

type interruptingBuffer struct {
	bytes.Buffer
	lines     int
	interrupt func()
}

func (b *interruptingBuffer) Write(p []byte) (int, error) {
	n, err := b.Buffer.Write(p)
	if bytes.Count(b.Bytes(), []byte("\n")) >= b.lines {
		b.interrupt()
	}
	return n, err
}

func TestMonitorWritesWordsUntilItIsInterrupted(t *testing.T) {
	s := &stub{monitor: monitored()}
	got, status := monitorUntil(t, 4, "--socket", startStub(t, s), "monitor")
	const want = `03:04:05.006 foreign_source from_machine veth1: fd00::1 (web1) > fd00::2, UDP, 60 bytes
03:04:05.006 arp from_machine -: a frame of web1, 42 bytes
03:04:05.006 ipv4 from_underlay eth0: a frame, 42 bytes
not shown: 5 were too many at once; 6 came while this command was too slow
`
	if got != want || status != exitOK {
		t.Errorf("status %d, it wrote\n%s\nwant\n%s", status, got, want)
	}
}

func TestMonitorWritesALineOfJSONForEach(t *testing.T) {
	s := &stub{monitor: monitored()}
	got, status := monitorUntil(t, 4, "--socket", startStub(t, s), "-o", "json", "monitor")
	lines := strings.Split(strings.TrimSpace(got), "\n")
	if status != exitOK || len(lines) != 4 {
		t.Fatalf("status %d, it wrote\n%s", status, got)
	}
	var first monitorAnswer
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Drop.Reason != "foreign_source" || first.Drop.Length != 60 || first.Missed != nil {
		t.Errorf("the first line is %s: %v", lines[0], err)
	}
	if want := `{"missed":{"sampled":5,"ring_full":0,"too_slow":6}}`; lines[3] != want {
		t.Errorf("the last line is %s, want %s", lines[3], want)
	}
}

func TestMonitorAsksForWhatTheCommandLineSays(t *testing.T) {
	s := &stub{monitor: monitored()}
	monitorUntil(t, 1, "--socket", startStub(t, s), "monitor", "--reason", "loop", "--reason", "arp,ipv4", "--machine", "web1", "--network", "0x2a")
	network := uint32(42)
	want := &ip6dv1.MonitorDropsRequest{Reasons: []string{"loop", "arp", "ipv4"}, Machine: "web1", Network: &network}
	if d := cmp.Diff(any(want), s.asked, protocmp.Transform()); d != "" {
		t.Errorf("it asks (-want +got):\n%s", d)
	}
}

func TestMonitorSaysWhenTheDaemonEndsIt(t *testing.T) {
	s := &stub{monitor: monitored(), stop: true}
	got := runLine(t, "", "--socket", startStub(t, s), "monitor")
	if got.status != exitError || !strings.Contains(got.stderr, "ended the stream") {
		t.Errorf("%+v", got)
	}
}
