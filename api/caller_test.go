package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/certificate"
	"ip6d/certificate/certtest"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

func TestACallThatMayChangeSomethingIsLoggedWithItsCaller(t *testing.T) {
	d := newDaemon(t, 1, nil)
	said := new(lines)
	logger := func(level slog.Level) *slog.Logger {
		return slog.New(slog.NewTextHandler(said, &slog.HandlerOptions{Level: level}))
	}
	handler := func(level slog.Level) http.Handler {
		return NewHandler(HandlerOptions{Map: d.hwmap, Datapath: d.datapath, Events: d.events, Logger: logger(level)})
	}
	socket := filepath.Join(t.TempDir(), "socket")
	serve(t, listen(t, "unix", socket), handler(slog.LevelInfo))
	local := NewClient(socket)
	t.Cleanup(local.Close)
	who := fmt.Sprintf("uid=%d gid=%d pid=%d", os.Getuid(), os.Getgid(), os.Getpid())

	call(t, local.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web1", Network: 42})
	if got := said.take(); !strings.Contains(got, "msg=called service=MachineService method=CreateMachine machine=web1 "+who) || strings.Contains(got, "error=") {
		t.Errorf("a create is logged as %q, want it with %q", got, who)
	}
	refused(t, connect.CodeNotFound, local.Machines.DestroyMachine, &ip6dv1.DestroyMachineRequest{Name: "web2"})
	if got := said.take(); !strings.Contains(got, who+" error=") || !strings.Contains(got, "web2") {
		t.Errorf("a destroy that is refused is logged as %q", got)
	}
	call(t, local.Machines.ListMachines, &ip6dv1.ListMachinesRequest{})
	if got := said.take(); got != "" {
		t.Errorf("at level info, reading is logged: %q", got)
	}

	authority := certtest.NewAuthority(t)
	files := func(name string) *certificate.Files {
		f, err := certificate.Open(authority.Issue(t.TempDir(), name, "127.0.0.1"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, tls.NewListener(l, files("server").Server()), handler(slog.LevelDebug))
	remote := NewTLSClient("https://"+l.Addr().String(), files("orchestrator").Client())
	t.Cleanup(remote.Close)
	call(t, remote.Machines.CreateMachine, &ip6dv1.CreateMachineRequest{Name: "web3", Network: 42})
	if got := said.take(); !strings.Contains(got, "level=INFO") || !strings.Contains(got, "machine=web3 address=127.0.0.1:") || !strings.Contains(got, `subject="CN=orchestrator" names="[orchestrator.example 127.0.0.1]" serial=`) {
		t.Errorf("a create over TLS is logged as %q", got)
	}
	call(t, remote.Machines.ListMachines, &ip6dv1.ListMachinesRequest{})
	if got := said.take(); !strings.Contains(got, "level=DEBUG msg=called service=MachineService method=ListMachines address=") {
		t.Errorf("at level debug, reading is logged as %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := remote.Hosts.MonitorDrops(ctx, connect.NewRequest(&ip6dv1.MonitorDropsRequest{}))
	if err != nil || !stream.Receive() {
		t.Fatalf("no stream over TLS: %v, %v", err, stream.Err())
	}
	if got := said.take(); !strings.Contains(got, `method=MonitorDrops`) || !strings.Contains(got, "orchestrator") {
		t.Errorf("a stream is logged as %q", got)
	}
}

// What only reads says so in its service, and is then logged at level debug; everything else is in the log.
func TestAMethodSaysByItsNameWhetherItOnlyReads(t *testing.T) {
	reading := []string{"Get", "List", "Monitor", "Watch", "Check", "Trace", "Reread"}
	services := 0
	for _, file := range []protoreflect.FileDescriptor{
		ip6dv1.File_ip6d_v1_machine_proto, ip6dv1.File_ip6d_v1_migration_proto, ip6dv1.File_ip6d_v1_host_proto, ip6dv1.File_ip6d_v1_peer_proto,
	} {
		for i := range file.Services().Len() {
			services++
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				declared := m.Options().(*descriptorpb.MethodOptions).GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
				named := false
				for _, word := range reading {
					named = named || strings.HasPrefix(string(m.Name()), word)
				}
				if declared != named {
					t.Errorf("%s: idempotency_level NO_SIDE_EFFECTS is %v; methods that begin with %v have it, and no others", m.FullName(), declared, reading)
				}
			}
		}
	}
	if services != 4 {
		t.Errorf("there are %d services in these files, want 4", services)
	}
}
