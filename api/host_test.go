package api

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	ip6dv1 "ip6d/api/ip6d/v1"
)

func TestAHostIsFoundByNameAndByID(t *testing.T) {
	fleet := database(t)
	newDaemon(t, 2, fleet)
	d := newDaemon(t, 1, fleet)
	list := call(t, d.Hosts.ListHosts, &ip6dv1.ListHostsRequest{}).Hosts
	want := []*ip6dv1.Host{
		{Host: 1, Name: "host1", Identity: "identity1", State: "joined", Underlay: "127.0.0.101", Prefix: "fdab:0:1::/48", Blocks: []uint32{1}, Self: true},
		{Host: 2, Name: "host2", Identity: "identity2", State: "joined", Underlay: "127.0.0.102", Prefix: "fdab:0:2::/48", Blocks: []uint32{0}},
	}
	if d := cmp.Diff(want, list, protocmp.Transform()); d != "" {
		t.Fatalf("hosts (-want +got):\n%s", d)
	}
	for _, name := range []string{"host2", "2", "0x2"} {
		got := call(t, d.Hosts.GetHost, &ip6dv1.GetHostRequest{Host: name}).Host
		if d := cmp.Diff(want[1], got, protocmp.Transform()); d != "" {
			t.Errorf("host %q (-want +got):\n%s", name, d)
		}
	}
}

func TestStatusTellsOfHostMachinesAndDrops(t *testing.T) {
	d := newDaemon(t, 1, nil)
	call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "a", Network: 1})
	call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "b", Network: 1})
	call(t, d.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "b"})
	var got *ip6dv1.GetStatusResponse
	eventually(t, "the store is followed", func() bool {
		got = call(t, d.Hosts.GetStatus, &ip6dv1.GetStatusRequest{})
		return got.Following
	})
	want := &ip6dv1.GetStatusResponse{
		Version:   "test",
		Host:      &ip6dv1.Host{Host: 1, Name: "host1", Identity: "identity1", State: "joined", Prefix: "fdab:0:1::/48", Blocks: []uint32{0}, Self: true},
		Following: true,
		Machines:  map[string]uint32{"here": 1, "quarantined": 1},
		IdsFree:   253, // machine 0 is never issued
		Drops:     []*ip6dv1.Drop{{Reason: "not_here", Packets: 3, Meaning: "the machine is not on this host"}},
		Maps:      []*ip6dv1.MapFill{{Map: "moved", Entries: 2, Size: 8}},
	}
	if d := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(want, "revision")); d != "" {
		t.Errorf("status (-want +got):\n%s", d)
	}
	if got.Revision == 0 {
		t.Error("the revision is 0 though the store is followed")
	}
}
