package certificate_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/certificate"
	"ip6d/certificate/certtest"
)

const at = "127.0.0.1"

// meet has a client and a server shake hands, and returns who each saw.
func meet(t *testing.T, server, client *tls.Config) (serverSaw, clientSaw string, err error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	client = client.Clone()
	client.ServerName = at
	there, here := tls.Server(a, server), tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		err := there.HandshakeContext(t.Context())
		if err == nil {
			_, err = there.Write([]byte("x"))
		}
		done <- errors.Join(err, a.Close())
	}()
	err = here.HandshakeContext(t.Context())
	if err == nil { // whether the server takes the client, TLS 1.3 tells with the first data only
		_, err = here.Read(make([]byte, 1))
	}
	b.Close()
	if err = errors.Join(err, <-done); err != nil {
		return "", "", err
	}
	return there.ConnectionState().PeerCertificates[0].Subject.CommonName, here.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func open(t *testing.T, p certificate.Paths, log *slog.Logger) *certificate.Files {
	t.Helper()
	f, err := certificate.Open(p, log)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestCertificatesThatAreReplacedAreTakenAtTheNextHandshake(t *testing.T) {
	first, second := certtest.NewAuthority(t), certtest.NewAuthority(t)
	var said bytes.Buffer
	dir, clients := t.TempDir(), t.TempDir()
	server := open(t, first.Issue(dir, "server", at), slog.New(slog.NewTextHandler(&said, nil)))
	client := open(t, first.Issue(clients, "client"), slog.New(slog.DiscardHandler))
	settings := server.Server() // as a listener has it, for ever

	if s, c, err := meet(t, settings, client.Client()); err != nil || s != "client" || c != "server" {
		t.Fatalf("they see %q and %q: %v", s, c, err)
	}
	second.Issue(dir, "server", at)
	if _, _, err := meet(t, settings, client.Client()); err == nil {
		t.Error("a client of the old authority was taken by a server that has a new one")
	}
	second.Issue(clients, "client")
	if _, _, err := meet(t, settings, client.Client()); err != nil {
		t.Errorf("both have certificates of the new authority: %v", err)
	}
	if n := strings.Count(said.String(), "certificate reloaded"); n != 1 {
		t.Errorf("it tells %d times that it has reloaded, want once:\n%s", n, said.String())
	}
}

func TestFilesBehindALinkThatIsSwappedAreTaken(t *testing.T) {
	// As Kubernetes does it: server.crt -> ..data/server.crt, ..data -> a directory that is another one each time.
	dir := t.TempDir()
	authority := certtest.NewAuthority(t)
	swap := func(name string) {
		t.Helper()
		to := filepath.Join(dir, name)
		err := os.Mkdir(to, 0o700)
		if err == nil {
			authority.Issue(to, "server", at)
			authority.Issue(to, name, at)
			err = errors.Join(os.Rename(filepath.Join(to, name+".crt"), filepath.Join(to, "server.crt")), os.Rename(filepath.Join(to, name+".key"), filepath.Join(to, "server.key")))
		}
		if err == nil {
			err = os.Symlink(name, filepath.Join(dir, "..new"))
		}
		if err == nil {
			err = os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	swap("one")
	for _, file := range []string{"server.crt", "server.key", "ca.crt"} {
		if err := os.Symlink(filepath.Join("..data", file), filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	p := certificate.Paths{Certificate: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key"), Authorities: filepath.Join(dir, "ca.crt")}
	settings := open(t, p, slog.New(slog.DiscardHandler)).Server()
	client := open(t, authority.Issue(t.TempDir(), "client"), slog.New(slog.DiscardHandler))
	for _, want := range []string{"one", "two", "three"} {
		if want != "one" {
			swap(want)
		}
		if _, got, err := meet(t, settings, client.Client()); err != nil || got != want {
			t.Errorf("the client sees %q (%v), want %q", got, err, want)
		}
	}
}

func TestABrokenFileKeepsTheCertificateBeforeAndIsToldOnce(t *testing.T) {
	authority := certtest.NewAuthority(t)
	client := open(t, authority.Issue(t.TempDir(), "client"), slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		name    string
		breakIt func(certificate.Paths) error
		says    string
	}{
		{"the key is another's", func(p certificate.Paths) error {
			other := authority.Issue(t.TempDir(), "server", at)
			return os.Rename(other.Key, p.Key)
		}, "private key does not match"},
		{"a certificate half written", func(p certificate.Paths) error { return os.Truncate(p.Certificate, 100) }, "failed to find"},
		{"no authority", func(p certificate.Paths) error { return os.WriteFile(p.Authorities, []byte("none\n"), 0o600) }, "holds no certificate"},
		{"a file has gone", func(p certificate.Paths) error { return os.Remove(p.Key) }, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var said bytes.Buffer
			dir := t.TempDir()
			p := authority.Issue(dir, "server", at)
			settings := open(t, p, slog.New(slog.NewTextHandler(&said, nil))).Server()
			if err := c.breakIt(p); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if _, _, err := meet(t, settings, client.Client()); err != nil {
					t.Errorf("with the certificate before: %v", err)
				}
			}
			if strings.Count(said.String(), "certificate not reloaded") != 1 || !strings.Contains(said.String(), c.says) {
				t.Errorf("it says this, want once, with %q:\n%s", c.says, said.String())
			}
			authority.Issue(dir, "server", at)
			if _, _, err := meet(t, settings, client.Client()); err != nil || !strings.Contains(said.String(), "certificate reloaded") {
				t.Errorf("mended: %v, and it says:\n%s", err, said.String())
			}
		})
	}
}

func TestAServerRefusesOldProtocolsAndClientsWithoutCertificate(t *testing.T) {
	authority := certtest.NewAuthority(t)
	p := authority.Issue(t.TempDir(), "server", at)
	settings := open(t, p, slog.New(slog.DiscardHandler)).Server()
	client := open(t, authority.Issue(t.TempDir(), "client"), slog.New(slog.DiscardHandler))
	old := client.Client()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, err := meet(t, settings, old); err == nil {
		t.Error("TLS 1.2 was taken")
	}
	nobody := client.Client()
	nobody.Certificates = nil
	if _, _, err := meet(t, settings, nobody); err == nil {
		t.Error("a client without certificate was taken")
	}
	foreign := open(t, certtest.NewAuthority(t).Issue(t.TempDir(), "client"), slog.New(slog.DiscardHandler)).Client()
	foreign.RootCAs = client.Client().RootCAs
	if _, _, err := meet(t, settings, foreign); err == nil {
		t.Error("a client of another authority was taken")
	}
}

func TestFilesThatAreNotThereAtTheStartAreAnError(t *testing.T) {
	p := certtest.NewAuthority(t).Issue(t.TempDir(), "server", at)
	for _, path := range []string{p.Certificate, p.Key, p.Authorities} {
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		if _, err := certificate.Open(p, slog.New(slog.DiscardHandler)); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("without %s: %v", path, err)
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(p.Authorities, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := certificate.Open(p, slog.New(slog.DiscardHandler)); !errors.Is(err, certificate.ErrInvalid) || !strings.Contains(err.Error(), p.Authorities) {
		t.Errorf("with empty authorities: %v", err)
	}
}
