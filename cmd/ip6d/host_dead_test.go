package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	ip6dv1 "ip6d/api/ip6d/v1"
)

func TestCommandsAboutLostHostsAskWhatTheirLinesSay(t *testing.T) {
	s := &stub{}
	socket := startStub(t, s)
	block := uint32(0)
	for _, c := range []struct {
		line   string
		want   any
		prints string
	}{
		{"host dead host2 --yes", &ip6dv1.DeclareHostDeadRequest{Host: "host2"}, `{"host":2,"name":"host2","identity":"two","state":"dead","prefix":"fdab:0:2::/48","blocks":[],"self":false}`},
		{"host dead 2 --force --yes", &ip6dv1.DeclareHostDeadRequest{Host: "2", Force: true}, `"state":"dead"`},
		{"host revive host2", &ip6dv1.ReviveHostRequest{Host: "host2"}, `"state":"joined"`},
		{"host adopt host2", &ip6dv1.AdoptBlocksRequest{From: "host2"}, `{"blocks":[4,5,7],"home":1}`},
		{"host adopt host2 --to host3", &ip6dv1.AdoptBlocksRequest{From: "host2", To: "host3"}, `{"blocks":[4,5,7],"home":1}`},
		{"block unfreeze --block 0 --yes", &ip6dv1.UnfreezeBlocksRequest{Block: &block}, `{"blocks":[]}`},
		{"block unfreeze --host host2 --yes", &ip6dv1.UnfreezeBlocksRequest{Host: "host2"}, `{"blocks":[]}`},
		{"migrate claim web1 --force --network 42 --address fdaa::2", &ip6dv1.ClaimMachineRequest{Name: "web1", Network: 42, Stable: "fdaa::2"}, `"name":"web1"`},
	} {
		got := runLine(t, "", append([]string{"--socket", socket, "-o", "json"}, strings.Fields(c.line)...)...)
		if got.status != exitOK || !strings.Contains(got.stdout, c.prints) {
			t.Errorf("%s: %+v, want %s", c.line, got, c.prints)
		}
		if d := cmp.Diff(c.want, s.asked, protocmp.Transform()); d != "" {
			t.Errorf("%s asks (-want +got):\n%s", c.line, d)
		}
	}
	got := runLine(t, "", "--socket", socket, "host", "adopt", "host2")
	if want := "home     1\nadopted  4-5, 7\n"; got.stdout != want {
		t.Errorf("adopt prints %q, want %q", got.stdout, want)
	}
}

func TestWhatCannotBeTakenBackIsConfirmed(t *testing.T) {
	s := &stub{}
	socket := startStub(t, s)
	for _, line := range []string{"host dead host2", "host dead host2 --force", "block unfreeze --block 3"} {
		got := runLine(t, "yes\n", append([]string{"--socket", socket}, strings.Fields(line)...)...)
		if got.status != exitUsage || !strings.Contains(got.stderr, "--yes") || s.asked != nil {
			t.Errorf("%s: %+v, and the daemon was asked %v", line, got, s.asked)
		}
	}
	for line, says := range map[string]string{
		"migrate claim web1 --network 1 --address fdaa::2":               `"force" not set`,
		"migrate claim web1 --force=false --network 1 --address fdaa::2": "claimed by force",
		"migrate claim web1 --force --address fdaa::2":                   `"network" not set`,
		"block unfreeze --yes":                                           "[block host]",
	} {
		if got := runLine(t, "", append([]string{"--socket", socket}, strings.Fields(line)...)...); got.status != exitUsage || !strings.Contains(got.stderr, says) {
			t.Errorf("%s: %+v, want usage that says %q", line, got, says)
		}
	}
}
