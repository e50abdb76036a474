package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/doctor"
)

// examined runs the doctor, and returns the findings by what was looked at.
func examined(t *testing.T, args ...string) (findings map[string]doctor.Finding, status int) {
	t.Helper()
	got := runLine(t, "", append([]string{"-o", "json", "doctor"}, args...)...)
	var all []doctor.Finding
	if err := json.Unmarshal([]byte(got.stdout), &all); err != nil || (got.stderr == "") != (got.status == exitOK) {
		t.Fatalf("doctor %v: %+v (%v)", args, got, err)
	}
	want := map[doctor.Severity]int{doctor.OK: exitOK, doctor.Info: exitOK, doctor.Warning: exitWarnings, doctor.Error: exitErrors}[doctor.Worst(all)]
	if got.status != want {
		t.Errorf("doctor %v: exit status %d, want %d for %+v", args, got.status, want, all)
	}
	findings = make(map[string]doctor.Finding)
	for _, f := range all {
		findings[f.Check] = f
	}
	return findings, got.status
}

func TestTheDoctorFindsNothingWrongWithAHealthyHost(t *testing.T) {
	server, here := newFleet(t)
	wire, err := netlink.LinkByName("wire")
	if err == nil {
		err = netlink.LinkSetUp(wire)
	}
	if err != nil {
		t.Fatal(err)
	}
	h := newTestHostIn(t, here)
	path := filepath.Join(h.dir, "ip6d.yaml")
	text := fmt.Sprintf("host: 1\nname: host1\nidentity: test\nstate_dir: %s\nsocket: %s\nbpf_dir: %s\nunderlay: {device: eth0, address: 'fd00:6d::1'}\nstore: {endpoints: ['%s']}\n",
		h.state(), h.socket(), h.bpfDir, server.Endpoint())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// What this computer is, and not the host: nobody may keep its clock, its disk may be in memory or nearly full.
	computer := map[string]bool{"clock": true, "durability": true, "disk": true}
	healthy := func(when string) map[string]doctor.Finding {
		t.Helper()
		findings, _ := examined(t, "--config", path)
		for check, f := range findings {
			if (f.Severity == doctor.Warning || f.Severity == doctor.Error) && !computer[check] {
				t.Errorf("%s: %+v", when, f)
			}
		}
		return findings
	}
	if f := healthy("before it is started")["daemon"]; f.Severity != doctor.Info {
		t.Errorf("a daemon that does not run is %+v", f)
	}
	h.start(fleetArgs(server)...)
	h.eventually("it follows the store", func() bool {
		var s statusAnswer
		h.run(&s, "status")
		return s.Following
	})
	findings := healthy("while it runs")
	for _, check := range []string{
		"configuration", "daemon", "kernel", "capabilities", "BPF file system", "BPF helpers", "BPF programs", "open files", "state_dir", "identity",
		"underlay", "underlay MTU", "underlay address", "forwarding", "routes", "programs on the underlay", "firewall", "store " + server.Endpoint(), "clock",
	} {
		if findings[check].Severity == "" {
			t.Errorf("nothing is said about %s: %v", check, findings)
		}
	}
	server.Stop()
	if f := findings["store "+server.Endpoint()]; !strings.Contains(f.Value, "etcd 3.") {
		t.Errorf("the store is %+v, want its version", f)
	}
	findings, _ = examined(t, "--config", path)
	if f := findings["store "+server.Endpoint()]; f.Severity != doctor.Error {
		t.Errorf("without the store: %+v", f)
	}
	if status := h.signal(unix.SIGTERM); status != exitOK {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
}

func TestTheDoctorNamesAWrongConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ip6d.yaml")
	if err := os.WriteFile(path, []byte("host: 0\ncell: 0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, says string }{{path, `cell "0"`}, {"/nowhere/ip6d.yaml", "/nowhere/ip6d.yaml"}} {
		findings, status := examined(t, "--config", c.path)
		if f := findings["configuration"]; status != exitErrors || len(findings) != 1 || f.Severity != doctor.Error || !strings.Contains(f.Value, c.says) {
			t.Errorf("%s: status %d, %+v", c.path, status, findings)
		}
	}
	got := runLine(t, "", "doctor", "--config", "/nowhere/ip6d.yaml")
	if got.status != exitErrors || !strings.HasPrefix(got.stdout, "SEVERITY  CHECK") || got.stderr != "ip6d: there are errors\n" {
		t.Errorf("in text: %+v", got)
	}
}
