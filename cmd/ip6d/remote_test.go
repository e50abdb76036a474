package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"ip6d/api"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/certificate"
	"ip6d/certificate/certtest"
)

// serveTLS serves a stub to clients of the authority until the test ends, and returns its address.
func serveTLS(t *testing.T, s *stub, authority *certtest.Authority) (address string) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err == nil && lo.Attrs().Flags&net.FlagUp == 0 { // in a namespace of the tests' own
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	files, err := certificate.Open(authority.Issue(t.TempDir(), "server", "127.0.0.1"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewHostServiceHandler(s))
	server := api.NewServer(mux, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- server.Serve(tls.NewListener(l, files.Server())) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "https://" + l.Addr().String()
}

func TestACommandReachesAnotherHostsDaemonWithACertificate(t *testing.T) {
	authority, stranger := certtest.NewAuthority(t), certtest.NewAuthority(t)
	address := serveTLS(t, &stub{}, authority)
	mine := authority.Issue(t.TempDir(), "operator")
	theirs := stranger.Issue(t.TempDir(), "operator")
	with := func(p certificate.Paths, ca string) []string {
		return []string{"-o", "json", "--address", address, "--certificate", p.Certificate, "--key", p.Key, "--ca", ca, "host", "list"}
	}
	if got := runLine(t, "", with(mine, mine.Authorities)...); got.status != exitOK || got.stdout != "["+host1JSON+","+host2JSON+"]\n" {
		t.Errorf("host list over TLS: %+v", got)
	}
	for what, line := range map[string][]string{
		"a certificate of another authority": with(theirs, mine.Authorities),
		"a daemon's that is not of those":    with(mine, theirs.Authorities),
	} {
		got := runLine(t, "", line...)
		if got.status != exitError || got.stdout != "" || !strings.Contains(got.stderr, "no agreement with "+address) {
			t.Errorf("%s: %+v", what, got)
		}
		checkOneLine(t, got)
	}
}

func TestAnAddressNeedsACertificate(t *testing.T) {
	for _, c := range []struct{ line, says string }{
		{"--address https://a:1 status", "--address needs --certificate and --key"},
		{"--address http://a:1 --certificate a --key b status", "must be https://HOST:PORT"},
		{"--address https://a --certificate a --key b status", "must be https://HOST:PORT"},
		{"--ca a status", "are for --address"},
	} {
		got := runLine(t, "", strings.Fields(c.line)...)
		if got.status != exitUsage || !strings.Contains(got.stderr, c.says) {
			t.Errorf("ip6d %s: %+v, want status %d and %q", c.line, got, exitUsage, c.says)
		}
		checkOneLine(t, got)
	}
	got := runLine(t, "", "--address", "https://a:1", "--certificate", "/nowhere/a.crt", "--key", "/nowhere/a.key", "status")
	if got.status != exitError || !strings.Contains(got.stderr, "/nowhere/a.crt") {
		t.Errorf("with a certificate that is not there: %+v", got)
	}
}

func TestTheSocketIsItsGroupsAndNobodyElses(t *testing.T) {
	needRoot(t)
	nobody, err := user.LookupGroupId("65534")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		group string
		want  uint32
	}{{nobody.Name, 65534}, {"no-group-of-this-name", 0}} {
		var said bytes.Buffer
		path := filepath.Join(t.TempDir(), "socket")
		l, err := listenAPI(path, c.group, slog.New(slog.NewTextHandler(&said, nil)))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		at := info.Sys().(*syscall.Stat_t)
		if at.Uid != 0 || at.Gid != c.want || info.Mode().Perm() != socketMode || said.Len() != 0 {
			t.Errorf("group %s: the socket is %d:%d with mode %#o, want 0:%d with %#o; the log: %s", c.group, at.Uid, at.Gid, info.Mode().Perm(), c.want, socketMode, said.String())
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
