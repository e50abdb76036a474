package host_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/host"
)

func TestAKeyIsMadeOnceAndReadByItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "wireguard.key")
	first, err := host.LoadPrivateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := host.LoadPrivateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if first.IsZero() || again != first {
		t.Error("the second time it is another key")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("its file has mode %v, want -rw-------", info.Mode())
	}
	if all, _ := os.ReadDir(filepath.Dir(path)); len(all) != 1 {
		t.Errorf("beside it is something else: %v", all)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(text)))
	if err != nil || key.PublicKey().String() != first.Public() {
		t.Errorf("the file is not what wg(8) would read: %v", err)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		for _, value := range []any{first, &host.WireGuard{Key: first}, host.WireGuard{Key: first}} {
			if s := fmt.Sprintf(format, value); strings.Contains(s, key.String()) || strings.Contains(s, fmt.Sprint(key[0], key[1], key[2])) {
				t.Errorf("printed with %s, a %T shows the key", format, value)
			}
		}
	}
}

func TestAKeyFileThatIsNoSecretOrNoKeyIsRefused(t *testing.T) {
	const key = "aCnOJTcOEO0TkwUtC4aBfHjhmEexl6S/9dcTwYPZpUI="
	for _, c := range []struct {
		name, text string
		mode       os.FileMode
		want       string
	}{
		{"readable by others", key, 0o644, "chmod 600"},
		{"empty", "", 0o600, "wg genkey"},
		{"no key", "secret", 0o600, "wg genkey"},
		{"the key that is none", wgtypes.Key{}.String(), 0o600, "wg genkey"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "wireguard.key")
			if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := host.LoadPrivateKey(path)
			if !errors.Is(err, host.ErrInvalid) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want ErrInvalid with %s and %q", err, path, c.want)
			}
			if c.text != "" && err != nil && strings.Contains(err.Error(), c.text) {
				t.Errorf("the error quotes the file: %v", err)
			}
		})
	}
}
