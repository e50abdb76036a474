package api

import (
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	ip6dv1 "ip6d/api/ip6d/v1"
)

func TestAnyHostIsCordonedThroughAnyDaemon(t *testing.T) {
	fleet := database(t)
	other, d := newDaemon(t, 2, fleet), newDaemon(t, 1, fleet)
	eventually(t, "host 1 knows host 2", func() bool { return len(call(t, d.Hosts.ListHosts, &ip6dv1.ListHostsRequest{}).Hosts) == 2 })
	got := call(t, d.Hosts.CordonHost, &ip6dv1.CordonHostRequest{Host: "host2"}).Host
	want := &ip6dv1.Host{Host: 2, Name: "host2", Identity: "identity2", State: "cordoned", Underlay: "127.0.0.102", Prefix: "fdab:0:2::/48", Blocks: []uint32{0}}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("cordoned (-want +got):\n%s", d)
	}
	state := func() string { return call(t, other.Hosts.GetStatus, &ip6dv1.GetStatusRequest{}).Host.State }
	eventually(t, "host 2 has learned that it is cordoned", func() bool { return state() == "cordoned" })
	refused(t, connect.CodeFailedPrecondition, other.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 1})
	call(t, d.Hosts.UncordonHost, &ip6dv1.UncordonHostRequest{Host: "2"})
	eventually(t, "host 2 has learned that it takes machines", func() bool { return state() == "joined" })
	call(t, other.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 1})
}

func TestBlocksAreHandedOverThroughTheirHome(t *testing.T) {
	fleet := database(t)
	first, second := newDaemon(t, 1, fleet), newDaemon(t, 2, fleet)
	state := func() string { return call(t, first.Hosts.GetStatus, &ip6dv1.GetStatusRequest{}).Host.State }
	eventually(t, "host 1 knows host 2", func() bool { return len(call(t, first.Hosts.ListHosts, &ip6dv1.ListHostsRequest{}).Hosts) == 2 })
	refused(t, connect.CodeFailedPrecondition, first.Hosts.HandOverBlocks, &ip6dv1.HandOverBlocksRequest{})
	call(t, second.Hosts.CordonHost, &ip6dv1.CordonHostRequest{Host: "host1"})
	eventually(t, "host 1 has learned that it is cordoned", func() bool { return state() == "cordoned" })
	refused(t, connect.CodeInvalidArgument, first.Hosts.HandOverBlocks, &ip6dv1.HandOverBlocksRequest{To: "host1"})
	refused(t, connect.CodeNotFound, first.Hosts.HandOverBlocks, &ip6dv1.HandOverBlocksRequest{To: "host9"})
	got := call(t, first.Hosts.HandOverBlocks, &ip6dv1.HandOverBlocksRequest{To: "host2"})
	want := &ip6dv1.HandOverBlocksResponse{Blocks: []*ip6dv1.HandedOverBlock{{Block: 0, Home: 2}}}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("handed over (-want +got):\n%s", d)
	}
	if again := call(t, first.Hosts.HandOverBlocks, &ip6dv1.HandOverBlocksRequest{}); len(again.Blocks) != 0 {
		t.Errorf("again: %v", again)
	}
	if h := call(t, first.Hosts.GetHost, &ip6dv1.GetHostRequest{Host: "2"}).Host; len(h.Blocks) != 2 {
		t.Errorf("host 2: %v", h)
	}
	// And nothing keeps it in the fleet any more.
	if text := refused(t, connect.CodeFailedPrecondition, second.Hosts.RemoveHost, &ip6dv1.RemoveHostRequest{Host: "host2"}); !strings.Contains(text, "home of 2 blocks (0, 1)") {
		t.Errorf("the refusal does not say what points at host 2: %s", text)
	}
	if r := call(t, second.Hosts.RemoveHost, &ip6dv1.RemoveHostRequest{Host: "host1"}); r.Host != 1 {
		t.Errorf("removed: %v", r)
	}
	eventually(t, "host 1 has learned that it was removed", func() bool {
		return strings.Contains(call(t, first.Hosts.GetStatus, &ip6dv1.GetStatusRequest{}).StoreError, "ip6d host join")
	})
	refused(t, connect.CodeNotFound, second.Hosts.RemoveHost, &ip6dv1.RemoveHostRequest{Host: "1"})
}

func TestAHostThatIsNotThereIsNotFound(t *testing.T) {
	d := newDaemon(t, 1, database(t))
	for _, host := range []string{"9", "host9", ""} {
		refused(t, connect.CodeNotFound, d.Hosts.CordonHost, &ip6dv1.CordonHostRequest{Host: host})
		refused(t, connect.CodeNotFound, d.Hosts.RemoveHost, &ip6dv1.RemoveHostRequest{Host: host})
		refused(t, connect.CodeNotFound, d.Hosts.UncordonHost, &ip6dv1.UncordonHostRequest{Host: host})
		refused(t, connect.CodeNotFound, d.Hosts.GetHost, &ip6dv1.GetHostRequest{Host: host})
	}
	if hosts := call(t, d.Hosts.ListHosts, &ip6dv1.ListHostsRequest{}).Hosts; slices.ContainsFunc(hosts, func(h *ip6dv1.Host) bool { return h.Host != 1 }) {
		t.Errorf("hosts that nobody joined: %v", hosts)
	}
}
