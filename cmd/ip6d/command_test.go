package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	ip6dv1 "ip6d/api/ip6d/v1"
)

const (
	web1JSON  = `{"name":"web1","network":42,"cell":1,"machine":1,"stable":"fdaa:0:2a:1::1:2","routing":"fdab:0:1:0:2a:0:1:1","host":1,"epoch":18446744073709551615,"state":"leaving","peer":2,"port":{"device":"ip6d00000001","mac":"12:01:00:00:00:01","mtu":1500,"netns":"/run/netns/web1","guest_device":"eth0"}}`
	web2JSON  = `{"name":"web2","network":42,"cell":1,"machine":2,"stable":"fdaa:0:2a:1::2:2","host":2,"epoch":2,"state":"elsewhere"}`
	host1JSON = `{"host":1,"name":"host1","identity":"one","state":"joined","underlay":"fd00::1","prefix":"fdab:0:1::/48","blocks":[4,0,1,2],"self":true}`
	host2JSON = `{"host":2,"name":"host2","identity":"two","state":"joined","underlay":"fd00::2","prefix":"fdab:0:2::/48","blocks":[],"self":false}`
)

func TestCommandsAnswerInJSON(t *testing.T) {
	s := &stub{outcome: ip6dv1.Outcome_OUTCOME_COMMITTED}
	socket := startStub(t, s)
	for _, c := range []struct{ line, want string }{
		{"machine create web1 --network 42", web1JSON},
		{"machine attach web1 --device tap0", web1JSON},
		{"machine list", "[" + web1JSON + "," + web2JSON + "]"},
		{"machine destroy web1", `{"name":"web1","destroyed":true}`},
		{"migrate begin web1 --to host2", `{"name":"web1","stable":"fdaa:0:2a:1::1:2","to":2,"activate_on_first_packet":false}`},
		{"migrate switchover web1", `{"name":"web1","outcome":"committed","epoch":2}`},
		{"migrate finish web1", `{"name":"web1","ended":"finished"}`},
		{"migrate abort web1", `{"name":"web1","ended":"aborted"}`},
		{"host list", "[" + host1JSON + "," + host2JSON + "]"},
		{"host show host2", host2JSON},
		{"host cordon host2", `{"host":2,"name":"host2","identity":"two","state":"cordoned","prefix":"fdab:0:2::/48","blocks":[],"self":false}`},
		{"host uncordon 2", host2JSON},
		{"host remove host2", `{"host":2,"removed":true}`},
		{"store accept", `{"generation":2}`},
		{"db accept", `{"reason":"it is older","frozen_blocks":[0,1],"ended_machines":[]}`},
		{"status", `{"version":"v1","host":` + host1JSON + `,"standalone":false,"endpoints":["http://[fd00::ffff]:2379"],"following":false,"revision":7,"store_error":"store unreachable","stale_since":"2026-01-02T03:04:05Z","machines":{"away":1,"here":3},"in_doubt":["web1"],"ids_free":200,"drops":{"not_here":9007199254740993},"firewall":["rule 1 stops errors"],"maps":{"blocks":{"entries":1,"size":2},"moved":{"entries":3,"size":512}}}`},
	} {
		got := runLine(t, "", append([]string{"--socket", socket, "-o", "json"}, strings.Fields(c.line)...)...)
		if got.status != exitOK || got.stderr != "" || got.stdout != c.want+"\n" {
			t.Errorf("ip6d %s: %+v\nwant %s", c.line, got, c.want)
		}
		if !json.Valid([]byte(got.stdout)) {
			t.Errorf("ip6d %s: its answer is no JSON", c.line)
		}
	}
}

func TestCommandsAnswerInText(t *testing.T) {
	s := &stub{outcome: ip6dv1.Outcome_OUTCOME_COMMITTED}
	socket := startStub(t, s)
	for _, c := range []struct {
		line string
		want []string
	}{
		{"machine list", []string{
			"NAME  NETWORK  STABLE            HOST  STATE      PEER  PORT",
			"web1  42       fdaa:0:2a:1::1:2  1     leaving    2     ip6d00000001",
			"web2  42       fdaa:0:2a:1::2:2  2     elsewhere  -     -",
		}},
		{"machine create web1 --network 0x2a", []string{"stable        fdaa:0:2a:1::1:2", "other host    2", "guest device  eth0"}},
		{"migrate begin web1 --to 2", []string{"leaving, to host 2", "then ip6d migrate switchover web1 here"}},
		{"migrate begin web1 --to 2 --activate-on-first-packet", []string{"leaving, to host 2", "after its first packet, ip6d migrate finish web1 here"}},
		{"migrate finish web1 --timeout 5s", []string{"migration  finished"}},
		{"host list", []string{"1     host1  joined  fd00::1   fdab:0:1::/48  4       yes", "2     host2  joined  fd00::2   fdab:0:2::/48  0       -"}},
		{"host show host1", []string{"underlay   fd00::2"}},
		{"host cordon host2", []string{"state      cordoned"}},
		{"host remove 2", []string{"state  removed"}},
		{"status", []string{"block ids  0-2, 4", "lost at revision 7, ", " ago: store unreachable", "1 away, 3 here", "in doubt   web1", "9007199254740993 not_here", "blocks 1 of 2, moved 3 of 512"}},
	} {
		got := runLine(t, "", append([]string{"--socket", socket}, strings.Fields(c.line)...)...)
		if got.status != exitOK || got.stderr != "" {
			t.Errorf("ip6d %s: %+v", c.line, got)
		}
		for _, want := range c.want {
			if !strings.Contains(got.stdout, want) {
				t.Errorf("ip6d %s: %q is missing in\n%s", c.line, want, got.stdout)
			}
		}
	}
}

func TestAnAttachAsksForThePortOfTheCommandLine(t *testing.T) {
	s := &stub{}
	socket := startStub(t, s)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		want *ip6dv1.AttachMachineRequest
	}{
		{"--netns web1", &ip6dv1.AttachMachineRequest{Name: "m", Netns: "/run/netns/web1"}},
		{"--netns ./web1 --guest-device net0", &ip6dv1.AttachMachineRequest{Name: "m", Netns: filepath.Join(here, "web1"), GuestDevice: "net0"}},
		{"--netns /proc/7/ns/net --unconfigured --mac 02:00:00:00:00:01", &ip6dv1.AttachMachineRequest{Name: "m", Netns: "/proc/7/ns/net", Unconfigured: true, Mac: "02:00:00:00:00:01"}},
		{"--device tap0", &ip6dv1.AttachMachineRequest{Name: "m", Device: "tap0"}},
	} {
		got := runLine(t, "", append([]string{"--socket", socket, "machine", "attach", "m"}, strings.Fields(c.line)...)...)
		if got.status != exitOK {
			t.Errorf("attach %s: %+v", c.line, got)
		}
		if d := cmp.Diff(any(c.want), s.asked, protocmp.Transform()); d != "" {
			t.Errorf("attach %s asks (-want +got):\n%s", c.line, d)
		}
	}
}

func TestACommandLineThatCannotBeMeantIsUsage(t *testing.T) {
	for _, c := range []struct{ line, says string }{
		{"machine create web1", `"network" not set`},
		{"machine create web1 --network 0", `network "0": must be a number from 1 to 4294967295`},
		{"machine create --network 1", "accepts 1 arg(s)"},
		{"machine attach web1", "[netns device]"},
		{"machine attach web1 --netns a --device b", "[device netns]"},
		{"machine attach web1 --device b --guest-device c", "[device guest-device]"},
		{"machine attach web1 --netns=", "--netns is empty"},
		{"machine", "ip6d machine needs a command"},
		{"migrate begin web1", `"to" not set`},
		{"migrate finish web1 --timeout 0s", "must be above zero"},
		{"serve --host 0", `host "0": must be a number from 1 to 4294967295`},
		{"serve --store-endpoints http://a:1", "each host of a fleet needs a hardware id of its own"},
		{"host join", "a standalone host has no fleet"},
		{"host join --store-endpoints http://a:1", "each host of a fleet needs a hardware id of its own"},
		{"serve now", `unknown command "now"`},
	} {
		got := runLine(t, "", append([]string{"--socket", "/nowhere"}, strings.Fields(c.line)...)...)
		if got.status != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, c.says) {
			t.Errorf("ip6d %s: %+v, want status %d and %q", c.line, got, exitUsage, c.says)
		}
		checkOneLine(t, got)
	}
}

func TestASwitchoverThatIsNotCommittedFailsAfterItsAnswer(t *testing.T) {
	for _, c := range []struct {
		outcome    ip6dv1.Outcome
		want, says string
	}{
		{ip6dv1.Outcome_OUTCOME_ABORTED, `"outcome":"aborted"`, "the machine is still on this host"},
		{ip6dv1.Outcome_OUTCOME_IN_DOUBT, `"outcome":"in_doubt"`, "repeat the switchover, or abort"},
		{99, `"outcome":"99"`, "a newer one?"},
	} {
		socket := startStub(t, &stub{outcome: c.outcome})
		got := runLine(t, "", "--socket", socket, "-o", "json", "migrate", "switchover", "web1")
		if got.status != exitError || !strings.Contains(got.stdout, c.want) || !strings.Contains(got.stderr, c.says) {
			t.Errorf("outcome %v: %+v, want status %d, %s and %q", c.outcome, got, exitError, c.want, c.says)
		}
		checkOneLine(t, got)
	}
}

func TestWhatTheDaemonRefusesIsSaidInItsWords(t *testing.T) {
	socket := startStub(t, &stub{refuse: errors.New(`not possible now: machine "web1" is away`)})
	for _, line := range []string{"machine destroy web1", "migrate abort web1", "host list", "status"} {
		got := runLine(t, "", append([]string{"--socket", socket}, strings.Fields(line)...)...)
		if got.status != exitError || got.stdout != "" || got.stderr != "ip6d: not possible now: machine \"web1\" is away\n" {
			t.Errorf("ip6d %s: %+v", line, got)
		}
	}
}

func TestWithoutADaemonACommandAsksForOne(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "socket")
	for _, line := range []string{"machine list", "migrate begin web1 --to host2", "host show 1", "status"} {
		got := runLine(t, "", append([]string{"--socket", dead}, strings.Fields(line)...)...)
		if got.status != exitError || !strings.Contains(got.stderr, "no daemon answers on "+dead+": is `ip6d serve` running?") {
			t.Errorf("ip6d %s: %+v", line, got)
		}
		checkOneLine(t, got)
	}
}

func TestADaemonOfAnOlderVersionIsSaidToBeOne(t *testing.T) {
	socket := serveStub(t, http.NotFoundHandler()) // what it has not got, it does not find
	for _, line := range []string{"drops", "monitor"} {
		got := runLine(t, "", "--socket", socket, line)
		if got.status != exitError || !strings.Contains(got.stderr, "older version") {
			t.Errorf("ip6d %s: %+v", line, got)
		}
		checkOneLine(t, got)
	}
}

func TestADaemonThatDoesNotAnswerIsNotWaitedForForEver(t *testing.T) {
	// Nobody takes the connections of this listener: so does a daemon look that was stopped.
	silent := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", silent)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, c := range []struct{ line, within string }{
		{"status", "10ms"},
		{"machine create web1 --network 42", "10ms"},
		{"migrate begin web1 --to host2", "10ms"},
		{"migrate switchover web1", "10ms"},
		{"migrate finish web1 --timeout 10ms", "1.01s"},
	} {
		var stdout, stderr bytes.Buffer
		client := &cli{stdout: &stdout, stderr: &stderr, output: formatText, patience: 10 * time.Millisecond}
		status := client.run(t.Context(), append([]string{"--socket", silent}, strings.Fields(c.line)...))
		got := result{status, stdout.String(), stderr.String()}
		if says := "the daemon on " + silent + " did not answer within " + c.within + ": "; got.status != exitError || got.stdout != "" || !strings.Contains(got.stderr, says) {
			t.Errorf("ip6d %s: %+v, want status %d and %q", c.line, got, exitError, says)
		}
		checkOneLine(t, got)
	}
}

func TestAWrongConfigurationFileIsNamed(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"hots: 1\n", "line 1: unknown field hots"},
		{"cell: 0\n", `cell "0": must be a number from 1 to 65534`},
		{"host: 1\ncell: 0\nlog_level: loud\n", `log_level "loud"`},
	} {
		path := filepath.Join(t.TempDir(), "ip6d.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := runLine(t, "", "serve", "--config", path)
		if got.status != exitError || !strings.Contains(got.stderr, path) || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%q: %+v, want status %d, the path and %q", c.text, got, exitError, c.says)
		}
		checkOneLine(t, got)
	}
	if got := runLine(t, "", "serve", "--config", "/nowhere/ip6d.yaml"); got.status != exitError || !strings.Contains(got.stderr, "/nowhere/ip6d.yaml") {
		t.Errorf("without the file: %+v", got)
	}
}
