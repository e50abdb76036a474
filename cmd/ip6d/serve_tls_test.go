package main

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ip6d/certificate/certtest"
	"ip6d/hwmap/etcd/etcdproc"
)

func TestADaemonOffersItsAPIByTLSAndSpeaksItWithTheStore(t *testing.T) {
	plain, here := newFleet(t)
	plain.Stop() // it is this test's own that is spoken with
	authority := certtest.NewAuthority(t)
	binary, err := etcdproc.FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 98, byte(rand.Uint32()), 1 + byte(rand.Uint32()%254)}), uint16(20000+rand.IntN(10000)))
	server, err := etcdproc.Start(t.Context(), etcdproc.Options{
		Binary: binary, Dir: t.TempDir(), Listen: at, Files: authority.Issue(t.TempDir(), "etcd", at.Addr().String()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)

	h := newTestHostIn(t, here)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	mine := authority.Issue(t.TempDir(), "host1", "127.0.0.1")
	h.start(fleetArgs(server, "--store-ca", mine.Authorities, "--store-certificate", mine.Certificate, "--store-key", mine.Key,
		"--api-address", address, "--api-certificate", mine.Certificate, "--api-key", mine.Key, "--api-client-ca", mine.Authorities)...)
	var s statusAnswer
	h.eventually("it follows the store", func() bool {
		h.run(&s, "status")
		return s.Following && s.Endpoints[0] == server.Endpoint()
	})

	me := authority.Issue(t.TempDir(), "operator")
	remote := []string{"--address", "https://" + address, "--certificate", me.Certificate, "--key", me.Key, "--ca", me.Authorities}
	if got := runLine(t, "", append(remote, "machine", "create", "web1", "--network", "42")...); got.status != exitOK || !strings.Contains(got.stdout, "fdaa:0:2a:1:") {
		t.Errorf("a create by TLS: %+v", got)
	}
	if got := h.log.String(); !strings.Contains(got, "method=CreateMachine machine=web1 address=127.0.0.1:") || !strings.Contains(got, "subject=\"CN=operator\"") {
		t.Error("the log does not say who created web1")
	}
	if key, err := os.Stat(filepath.Join(h.state(), "peer.key")); err != nil || key.Mode().Perm() != 0o600 {
		t.Errorf("the key for other hosts: %v, %v", key, err)
	}
	if status := h.signal(unix.SIGTERM); status != exitOK {
		t.Errorf("exit status %d after SIGTERM, want 0", status)
	}
	if said := h.fails(h.command(h.serveArgs(fleetArgs(server, "--store-ca", filepath.Join(h.dir, "none.crt"))...)...)); !strings.Contains(said, "none.crt") {
		t.Errorf("without the store's authorities it says %q", said)
	}
}
