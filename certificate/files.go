package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
)

// Paths are those of PEM files.
type Paths struct {
	Certificate string // and those of the authorities between it and the root; empty: none
	Key         string // of Certificate
	Authorities string // whose certificates are believed; empty: those of the system
}

// Files are the certificates in files, as they are now. At each handshake the files are looked at, and read again when they
// have changed: no watch can miss the swap of a link in the path, as Kubernetes does it, and nothing runs meanwhile. Files
// that cannot be read, or do not belong together because only one has been replaced yet, leave what was read last in force.
type Files struct {
	paths Paths
	log   *slog.Logger

	mu   sync.Mutex    // guards what follows
	good pair          // what was read last
	seen []os.FileInfo // of the files that good is of
	said string        // why the files there are now were not taken; told once
}

type pair struct {
	certificate *tls.Certificate // nil: none
	authorities *x509.CertPool   // nil: those of the system
}

// Open reads the files. Errors: ErrInvalid, those of the file system.
func Open(p Paths, log *slog.Logger) (*Files, error) {
	f := &Files{paths: p, log: log}
	seen, err := f.look()
	if err != nil {
		return nil, err
	}
	if f.good, err = p.read(); err != nil {
		return nil, err
	}
	f.seen = seen
	return f, nil
}

func (p Paths) list() []string {
	var all []string
	for _, path := range []string{p.Certificate, p.Key, p.Authorities} {
		if path != "" {
			all = append(all, path)
		}
	}
	return all
}

// look returns what can be seen of the files without reading them.
func (f *Files) look() ([]os.FileInfo, error) {
	var seen []os.FileInfo
	for _, path := range f.paths.list() {
		info, err := os.Stat(path) // of the file at the end of all links
		if err != nil {
			return nil, err
		}
		seen = append(seen, info)
	}
	return seen, nil
}

func same(a, b []os.FileInfo) bool {
	for i := range a {
		if !os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime()) {
			return false
		}
	}
	return true
}

func (p Paths) read() (pair, error) {
	var read pair
	if p.Certificate != "" {
		c, err := tls.LoadX509KeyPair(p.Certificate, p.Key)
		if _, ok := errors.AsType[*fs.PathError](err); ok {
			return pair{}, err
		}
		if err != nil {
			return pair{}, fmt.Errorf("%w: %s with the key in %s: %w", ErrInvalid, p.Certificate, p.Key, err)
		}
		read.certificate = &c
	}
	if p.Authorities != "" {
		text, err := os.ReadFile(p.Authorities)
		if err != nil {
			return pair{}, err
		}
		read.authorities = x509.NewCertPool()
		if !read.authorities.AppendCertsFromPEM(text) {
			return pair{}, fmt.Errorf("%w: %s holds no certificate in PEM", ErrInvalid, p.Authorities)
		}
	}
	return read, nil
}

// now returns what the files hold, or held before they became unreadable.
func (f *Files) now() pair {
	f.mu.Lock()
	defer f.mu.Unlock()
	seen, err := f.look() // before they are read: what is written later is seen next time
	if err == nil && same(seen, f.seen) {
		return f.good
	}
	var read pair
	if err == nil {
		read, err = f.paths.read()
	}
	if err != nil {
		if text := err.Error(); text != f.said {
			f.said = text
			f.log.Error("certificate not reloaded, going on with the one before", "error", err)
		}
		return f.good
	}
	f.good, f.seen, f.said = read, seen, ""
	f.log.Info("certificate reloaded", "files", f.paths.list())
	return f.good
}

// Server returns the settings of a server whose clients must have a certificate of the authorities in the files.
func (f *Files) Server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := f.now()
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				NextProtos:   []string{"h2", "http/1.1"},
				Certificates: []tls.Certificate{*now.certificate},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    now.authorities,
				// A resumed session would be one of the authorities of its time.
				SessionTicketsDisabled: true,
			}, nil
		},
	}
}

// Client returns the settings of a client for its next connection, with the certificates that the files hold now.
func (f *Files) Client() *tls.Config {
	now := f.now()
	c := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: now.authorities}
	if now.certificate != nil {
		c.Certificates = []tls.Certificate{*now.certificate}
	}
	return c
}
