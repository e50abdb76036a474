package nat

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOldKernelsAreRefusedByName(t *testing.T) {
	for _, c := range []struct {
		release string
		old     bool
	}{
		{"6.1.0", false},
		{"6.1.0-rc1", false},
		{"6.18.44-cloud-amd64", false},
		{"7.0", false},
		{"10.1.2", false},
		{"6.5.13", false},
		{"6.1.0-41-amd64", false},
		{"6.0.19", true},
		{"5.15.0", true},
		{"4.19", true},
		{"unheard-of", false},
		{"", false},
	} {
		err := checkKernel(c.release)
		if got := errors.Is(err, ErrKernel); got != c.old {
			t.Errorf("release %q: error %v", c.release, err)
		}
		if err != nil && !(strings.Contains(err.Error(), c.release) && strings.Contains(err.Error(), "6.1")) {
			t.Errorf("error %q should name the release and what is needed", err)
		}
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	for _, c := range []struct {
		name    string
		has     uint64
		missing []string
	}{
		{"none", 0, []string{"CAP_BPF", "CAP_NET_ADMIN"}},
		{"root", ^uint64(0), nil},
		{"just enough", 1<<unix.CAP_BPF | 1<<unix.CAP_NET_ADMIN, nil},
		{"as before CAP_BPF was split off", 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN, nil},
		{"no networking", 1 << unix.CAP_BPF, []string{"CAP_NET_ADMIN"}},
		{"no BPF", 1 << unix.CAP_NET_ADMIN, []string{"CAP_BPF"}},
	} {
		err := checkCapabilities(c.has)
		if errors.Is(err, ErrPermission) != (c.missing != nil) {
			t.Errorf("%s: error %v", c.name, err)
		}
		for _, name := range c.missing {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s: error %q does not name %s", c.name, err, name)
			}
		}
	}
}

func TestPinDirectoryHasToBeOnBPFFS(t *testing.T) {
	const way = "mount -t bpf bpf /sys/fs/bpf, and set bpf_dir below it"
	for _, dir := range []string{filepath.Join(t.TempDir(), "bpf", "ip6d"), "/tmp", "/"} {
		err := CheckBPFFS(dir)
		if !errors.Is(err, ErrNoBPFFS) {
			t.Fatalf("%s: error %v", dir, err)
		}
		if !strings.Contains(err.Error(), dir+" is") || !strings.HasSuffix(err.Error(), way) {
			t.Errorf("error %q does not name %s and give the way out: %s", err, dir, way)
		}
	}
	if err := CheckBPFFS(pinDir(t)); err != nil {
		t.Errorf("on a mounted one: %v", err)
	}
}
