package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// PrivateKey is a host's own WireGuard key. However it is printed, the key is not shown.
type PrivateKey struct{ key wgtypes.Key }

// LoadPrivateKey reads the key in the file at path, in the form that `wg genkey` prints. Where there is no file it makes a
// key, which is on the disk when it returns. Errors: ErrInvalid for a file that others may read or that holds no key.
func LoadPrivateKey(path string) (PrivateKey, error) {
	k, err := readPrivateKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err = makePrivateKey(path)
	}
	if err != nil {
		return PrivateKey{}, fmt.Errorf("WireGuard key: %w", err)
	}
	return k, nil
}

func readPrivateKey(path string) (PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return PrivateKey{}, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return PrivateKey{}, fmt.Errorf("%w: %s has mode %#o, so others may read it; chmod 600 it, or remove it for a new key", ErrInvalid, path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return PrivateKey{}, err
	}
	key, err := wgtypes.ParseKey(strings.TrimSpace(string(text)))
	if err != nil || key == (wgtypes.Key{}) { // the error would quote the file
		return PrivateKey{}, fmt.Errorf("%w: %s holds no key as `wg genkey` prints one; remove it for a new key", ErrInvalid, path)
	}
	return PrivateKey{key}, nil
}

// makePrivateKey makes a key. The file has its name only when the key is in it, so that a crash leaves no half of one.
func makePrivateKey(path string) (_ PrivateKey, err error) {
	key, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return PrivateKey{}, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return PrivateKey{}, err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return PrivateKey{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = fmt.Fprintln(f, key)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return PrivateKey{}, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return PrivateKey{}, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return PrivateKey{}, err
	}
	return PrivateKey{key}, errors.Join(d.Sync(), d.Close())
}

// Public is the key that other hosts know this one by, in base64.
func (k PrivateKey) Public() string { return k.key.PublicKey().String() }

// String and GoString keep the key out of logs.
func (k PrivateKey) String() string   { return "(private key)" }
func (k PrivateKey) GoString() string { return k.String() }

// IsZero reports whether there is no key.
func (k PrivateKey) IsZero() bool { return k == PrivateKey{} }
