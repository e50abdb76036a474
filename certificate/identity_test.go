package certificate_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/certificate"
	"ip6d/certificate/certtest"
)

func identity(t *testing.T, path string) *certificate.Identity {
	t.Helper()
	i, err := certificate.LoadIdentity(path)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestAHostKeepsTheKeyThatItHasMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "peer.key")
	first := identity(t, path)
	if again := identity(t, path); again.Fingerprint() != first.Fingerprint() {
		t.Errorf("read again it is %s, was %s", again.Fingerprint(), first.Fingerprint())
	}
	if other := identity(t, filepath.Join(t.TempDir(), "peer.key")); other.Fingerprint() == first.Fingerprint() || len(first.Fingerprint()) != 64 {
		t.Errorf("two hosts have the keys %s and %s", first.Fingerprint(), other.Fingerprint())
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("beside the key there is more: %v, %v", entries, err)
	}
	if shown := fmt.Sprintf("%v %+v %#v", first, first, first); strings.Contains(shown, "PrivateKey") || !strings.Contains(shown, first.Fingerprint()) {
		t.Errorf("printed, it is %s", shown)
	}
}

func TestAKeyThatOthersMayReadOrThatIsNoneIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "peer.key")
	identity(t, path)
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := certificate.LoadIdentity(path); !errors.Is(err, certificate.ErrInvalid) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("with mode 640: %v", err)
	}
	elliptic := certtest.NewAuthority(t).Issue(dir, "other").Key // of another kind
	for _, path := range []string{elliptic, filepath.Join(dir, "ca.crt")} {
		if _, err := certificate.LoadIdentity(path); !errors.Is(err, certificate.ErrInvalid) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s as a key: %v", path, err)
		}
	}
}
