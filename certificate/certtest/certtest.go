// Package certtest issues certificates for tests.
package certtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ip6d/certificate"
)

// Authority issues certificates, for an hour.
type Authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         crypto.Signer
}

// NewAuthority makes one of its own.
func NewAuthority(t *testing.T) *Authority {
	t.Helper()
	a := &Authority{t: t}
	template := a.template("authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	a.certificate, a.key = a.sign(template, nil)
	return a
}

func (a *Authority) template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
}

// sign makes a certificate with a key of its own; parent nil: by itself.
func (a *Authority) sign(template, parent *x509.Certificate) (*x509.Certificate, crypto.Signer) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	by := a.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return c, key
}

// Issue issues a certificate for servers at the addresses and for clients, and writes it, its key and that of the
// authority into files in dir, in place of earlier ones.
func (a *Authority) Issue(dir, name string, addresses ...string) certificate.Paths {
	a.t.Helper()
	template := a.template(name)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.DNSNames = []string{name + ".example"}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(address))
	}
	c, key := a.sign(template, a.certificate)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	p := certificate.Paths{
		Certificate: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key"), Authorities: filepath.Join(dir, "ca.crt"),
	}
	a.write(p.Certificate, "CERTIFICATE", c.Raw)
	a.write(p.Key, "PRIVATE KEY", der)
	a.write(p.Authorities, "CERTIFICATE", a.certificate.Raw)
	return p
}

// write puts a file in the place of another in one step.
func (a *Authority) write(path, kind string, der []byte) {
	a.t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	err := os.WriteFile(path+".new", text, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		a.t.Fatal(err)
	}
}
