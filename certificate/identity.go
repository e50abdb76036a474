package certificate

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Identity is the key by which the other hosts know this one: it makes it for itself and publishes its fingerprint, so that
// no authority is needed. However it is printed, the key is not shown.
type Identity struct {
	key         ed25519.PrivateKey
	certificate tls.Certificate
}

// LoadIdentity reads the key in the file at path. Where there is no file it makes a key, which is on the disk when it
// returns. Errors: ErrInvalid for a file that others may read or that holds no such key.
func LoadIdentity(path string) (*Identity, error) {
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = makeKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key for other hosts: %w", err)
	}
	certificate, err := selfSigned(key)
	if err != nil {
		return nil, fmt.Errorf("key for other hosts: %w", err)
	}
	return &Identity{key, certificate}, nil
}

const keyType = "PRIVATE KEY" // PKCS #8 (RFC 7468 section 10)

func readKey(path string) (ed25519.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %#o, so others may read it; chmod 600 it, or remove it for a new key", ErrInvalid, path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(text); block != nil && block.Type == keyType {
		key, _ := x509.ParsePKCS8PrivateKey(block.Bytes)
		if key, ok := key.(ed25519.PrivateKey); ok {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%w: %s holds no Ed25519 key in PEM; remove it for a new key", ErrInvalid, path)
}

// makeKey makes a key. The file has its name only when the key is in it, so that a crash leaves no half of one.
func makeKey(path string) (_ ed25519.PrivateKey, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = pem.Encode(f, &pem.Block{Type: keyType, Bytes: der})
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	return key, errors.Join(d.Sync(), d.Close())
}

// selfSigned wraps the key in a certificate, as TLS wants it. Only the key in it is ever looked at.
func selfSigned(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ip6d"},
		// No end, by RFC 5280 section 4.1.2.5: clocks that are wrong stop nothing.
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// Fingerprint is what other hosts know this one by.
func (i *Identity) Fingerprint() string {
	leaf, err := x509.ParseCertificate(i.certificate.Certificate[0])
	if err != nil {
		panic(err) // it was made here
	}
	return Fingerprint(leaf)
}

// Fingerprint is the SHA-256 of a certificate's public key (its SubjectPublicKeyInfo), in hexadecimal.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// Server returns the settings of a server that asks its clients for a certificate. TLS proves that a client has the key of
// its certificate; whose key it is, the caller has to look up by its fingerprint.
func (i *Identity) Server() *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{i.certificate},
		ClientAuth:   tls.RequireAnyClientCert,
		// A resumed session would not prove the keys anew.
		SessionTicketsDisabled: true,
	}
}

// errOther: at the other end is somebody else than who was called.
var errOther = errors.New("the host has another key than its record says")

// Client returns the settings of a client that speaks with the server whose key has this fingerprint, and with no other.
func (i *Identity) Client(fingerprint string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{i.certificate},
		InsecureSkipVerify: true, // of names and authorities, which there are none of; the key is verified instead
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || Fingerprint(s.PeerCertificates[0]) != fingerprint {
				return fmt.Errorf("%w: %s", errOther, fingerprint)
			}
			return nil
		},
	}
}

// String and GoString keep the key out of logs.
func (i *Identity) String() string   { return "(key " + i.Fingerprint() + ")" }
func (i *Identity) GoString() string { return i.String() }
