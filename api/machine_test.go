package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
)

func TestAMachinesLife(t *testing.T) {
	d := newDaemon(t, 7, nil)
	want := &ip6dv1.Machine{
		Name: "web1", Network: 42, Cell: 1, Machine: 1, // the lowest that is ever issued
		Stable: "fdaa:0:2a:1::1:2", Routing: "fdab:0:7:0:2a:0:1:fffa",
		Host: 7, Epoch: 1, State: ip6dv1.MachineState_MACHINE_STATE_HERE,
	}
	equal := func(what string, got *ip6dv1.Machine) {
		t.Helper()
		if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}

	create := &ip6dv1.CreateMachineRequest{Name: "web1", Network: 42}
	equal("created", call(t, d.Machines.CreateMachine, create).Machine)
	equal("created again", call(t, d.Machines.CreateMachine, create).Machine)

	attach := &ip6dv1.AttachMachineRequest{Name: "web1", Netns: "/run/netns/web1"}
	want.Port = &ip6dv1.Port{Device: "ip6d1/1", Mac: "02:00:5e:10:00:01", Mtu: 1500, Netns: "/run/netns/web1", GuestDevice: "eth0"}
	equal("attached", call(t, d.Machines.AttachMachine, attach).Machine)
	attach.GuestDevice = "eth0" // the default, said aloud
	equal("attached again", call(t, d.Machines.AttachMachine, attach).Machine)
	equal("shown", call(t, d.Machines.GetMachine, &ip6dv1.GetMachineRequest{Name: "web1"}).Machine)
	list := call(t, d.Machines.ListMachines, &ip6dv1.ListMachinesRequest{}).Machines
	if len(list) != 1 {
		t.Fatalf("%d machines in the list, want 1", len(list))
	}
	equal("listed", list[0])

	want.Port = nil
	equal("detached", call(t, d.Machines.DetachMachine, &ip6dv1.DetachMachineRequest{Name: "web1"}).Machine)
	equal("detached again", call(t, d.Machines.DetachMachine, &ip6dv1.DetachMachineRequest{Name: "web1"}).Machine)
	call(t, d.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "web1"})
	if list := call(t, d.Machines.ListMachines, &ip6dv1.ListMachinesRequest{}).Machines; len(list) != 0 {
		t.Errorf("still listed after destroy: %v", list)
	}
}

func TestARefusalSaysWhyAndWithWhichCode(t *testing.T) {
	d := newDaemon(t, 1, nil)
	call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 42})
	call(t, d.Machines.AttachMachine, &ip6dv1.AttachMachineRequest{Name: "web1", Device: "tap0"})
	says := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("the message %q does not say %q", text, p)
			}
		}
	}
	says(refused(t, connect.CodeInvalidArgument, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web2"}), "network 0")
	says(refused(t, connect.CodeInvalidArgument, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "a b", Network: 1}), `"a b"`)
	says(refused(t, connect.CodeAlreadyExists, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 43}), `"web1"`, "42")
	says(refused(t, connect.CodeNotFound, d.Machines.GetMachine, &ip6dv1.GetMachineRequest{Name: "web9"}), `"web9"`)
	says(refused(t, connect.CodeNotFound, d.Machines.DetachMachine, &ip6dv1.DetachMachineRequest{Name: "web9"}), `"web9"`)
	says(refused(t, connect.CodeNotFound, d.Machines.AttachMachine, &ip6dv1.AttachMachineRequest{Name: "web9", Device: "tap0"}), `"web9"`)
	says(refused(t, connect.CodeInvalidArgument, d.Machines.AttachMachine, &ip6dv1.AttachMachineRequest{Name: "web1"}), "namespace", "device")
	says(refused(t, connect.CodeInvalidArgument, d.Machines.AttachMachine, &ip6dv1.AttachMachineRequest{Name: "web1", Device: "tap0", Netns: "/n"}), "namespace", "device")
	says(refused(t, connect.CodeFailedPrecondition, d.Machines.AttachMachine, &ip6dv1.AttachMachineRequest{Name: "web1", Device: "tap1"}), `"web1"`, "tap0")
	says(refused(t, connect.CodeFailedPrecondition, d.Migrations.BeginMigration, &ip6dv1.BeginMigrationRequest{Name: "web1", To: 2}), "standalone")
	says(refused(t, connect.CodeFailedPrecondition, d.Migrations.SwitchoverMigration, &ip6dv1.SwitchoverMigrationRequest{Name: "web1"}), `"web1"`, "here")
	says(refused(t, connect.CodeFailedPrecondition, d.Migrations.FinishMigration, &ip6dv1.FinishMigrationRequest{Name: "web1"}), `"web1"`, "here")
	says(refused(t, connect.CodeNotFound, d.Migrations.AbortMigration, &ip6dv1.AbortMigrationRequest{Name: "web9"}), `"web9"`)
	says(refused(t, connect.CodeNotFound, d.Hosts.GetHost, &ip6dv1.GetHostRequest{Host: "nowhere"}), `"nowhere"`)
}

func TestACreateThatTheKernelRefusesLeavesNothing(t *testing.T) {
	d := newDaemon(t, 1, nil)
	d.datapath.mu.Lock()
	d.datapath.broken = errors.New("map is full")
	d.datapath.mu.Unlock()
	if text := refused(t, connect.CodeInternal, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 1}); !strings.Contains(text, "map is full") {
		t.Errorf("the message %q does not say why", text)
	}
	if list := call(t, d.Machines.ListMachines, &ip6dv1.ListMachinesRequest{}).Machines; len(list) != 0 {
		t.Errorf("half made: %v", list)
	}
}

func TestTheSameHandlerSpeaksJSONAndGRPC(t *testing.T) {
	d := newDaemon(t, 1, nil)
	call(t, d.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 42})
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.socket)
	}

	plain := &http.Client{Transport: &http.Transport{DialContext: dial}}
	t.Cleanup(plain.CloseIdleConnections)
	r, err := plain.Post("http://ip6d/ip6d.v1.MachineService/GetMachine", "application/json", bytes.NewBufferString(`{"name":"web1"}`))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Fatal(err)
	}
	var answer struct{ Machine struct{ Stable string } }
	if err := json.Unmarshal(body, &answer); err != nil || answer.Machine.Stable != "fdaa:0:2a:1::1:2" {
		t.Errorf("JSON answer %s (%v), want the stable address", body, err)
	}

	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Client{Transport: &http.Transport{DialContext: dial, Protocols: protocols}}
	t.Cleanup(h2.CloseIdleConnections)
	grpc := ip6dv1connect.NewMachineServiceClient(h2, "http://ip6d", connect.WithGRPC())
	if got := call(t, grpc.GetMachine, &ip6dv1.GetMachineRequest{Name: "web1"}).Machine.Stable; got != "fdaa:0:2a:1::1:2" {
		t.Errorf("gRPC answer %s, want fdaa:0:2a:1::1:2", got)
	}
	refused(t, connect.CodeNotFound, grpc.GetMachine, &ip6dv1.GetMachineRequest{Name: "web9"})
}
