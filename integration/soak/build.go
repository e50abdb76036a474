package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/gofail/code"
)

// failpointPackage is what arms the failpoints of a build.
const failpointPackage = "ip6d/integration/soak/failpoint"

// marked are the packages whose marks become failpoints: those of the product that write something, and bbolt.
var marked = []string{"ip6d/hwmap", "ip6d/hwmap/bolt", "ip6d/hwmap/etcd", "go.etcd.io/bbolt"}

// commitPoints are bbolt's own failpoints on the way of a commit. It has others, which are hardly ever passed.
var commitPoints = []string{"bbolt.beforeBucketPut", "bbolt.beforeSyncDataPages", "bbolt.beforeWriteMetaError", "bbolt.beforeSyncMetaPage"}

// Mutation is a change of the product's source that makes it wrong, so that a test can see the checks fail.
type Mutation struct {
	File     string // below the root of the repository
	Old, New string
}

// Build builds the daemon into dir, with its failpoints, and returns its path and the names of the deadly failpoints. The source is
// left as it is: the go command is given other files in place of those that are changed.
func Build(dir string, mutations ...Mutation) (binary string, failpoints []string, err error) {
	b := build{dir: dir, replace: make(map[string]string)}
	for _, pkg := range marked {
		if err := b.enable(pkg, mutations); err != nil {
			return "", nil, fmt.Errorf("enable the failpoints of %s: %w", pkg, err)
		}
	}
	if b.mutated != len(mutations) {
		return "", nil, fmt.Errorf("%d of %d mutations applied: the files of the others are in none of %v", b.mutated, len(mutations), marked)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": b.replace})
	if err != nil {
		return "", nil, err
	}
	overlayPath := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayPath, overlay, 0o600); err != nil {
		return "", nil, err
	}
	binary = filepath.Join(dir, "daemon")
	args := []string{"build", "-trimpath", "-overlay", overlayPath, "-o", binary}
	if b.modfile != "" {
		args = append(args, "-modfile", b.modfile)
	}
	if os.Getenv("SOAK_RACE") != "" {
		args = append(args, "-race")
	}
	if _, err := goCommand(append(args, "ip6d/integration/soak/daemon")...); err != nil {
		return "", nil, err
	}
	slices.Sort(b.failpoints)
	return binary, b.failpoints, nil
}

// build is one Build under way.
type build struct {
	dir        string
	replace    map[string]string // the go command's overlay
	modfile    string            // instead of go.mod, where a package of another module is replaced
	failpoints []string
	mutated    int
}

// enable makes code of the marks in a package, and mutates it.
func (b *build) enable(pkg string, mutations []Mutation) error {
	text, err := goCommand("list", "-json=Dir,Name,GoFiles,Module", pkg)
	if err != nil {
		return err
	}
	var p struct {
		Dir, Name string
		GoFiles   []string
		Module    struct{ Path, Dir string }
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return err
	}
	target := p.Dir
	if p.Module.Path != "ip6d" {
		// The go command takes no overlay of a module that it has downloaded, but another directory for it.
		if target, err = b.copyModule(p.Module.Path, p.Module.Dir); err != nil {
			return err
		}
	}
	var found []*code.Failpoint
	for _, name := range p.GoFiles {
		source, err := os.ReadFile(filepath.Join(p.Dir, name))
		if err != nil {
			return err
		}
		changed := source
		for _, m := range mutations {
			if filepath.Join(p.Module.Dir, m.File) != filepath.Join(p.Dir, name) {
				continue
			}
			if n := bytes.Count(changed, []byte(m.Old)); n != 1 {
				return fmt.Errorf("mutate %s: %q is there %d times, must be once", m.File, m.Old, n)
			}
			changed = bytes.Replace(changed, []byte(m.Old), []byte(m.New), 1)
			b.mutated++
		}
		var out bytes.Buffer
		points, err := code.ToFailpoints(&out, bytes.NewReader(changed))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !bytes.Equal(out.Bytes(), source) {
			found = append(found, points...)
			if err := b.put(filepath.Join(target, name), out.Bytes()); err != nil {
				return err
			}
		}
	}
	var binding bytes.Buffer
	fmt.Fprintf(&binding, "package %s\n\nimport %q\n\nvar later = failpoint.Later\n", p.Name, failpointPackage)
	for _, f := range found {
		name := p.Name + "." + f.Name()
		fmt.Fprintf(&binding, "var %s = failpoint.New(%q)\n", f.Runtime(), name)
		if p.Module.Path == "ip6d" && name != lostAnswer && name != lateRequest || slices.Contains(commitPoints, name) {
			b.failpoints = append(b.failpoints, name)
		}
	}
	return b.put(filepath.Join(target, "soak_failpoints.go"), binding.Bytes())
}

// put makes text the content of a file, for the go command.
func (b *build) put(path string, text []byte) error {
	if strings.HasPrefix(path, b.dir+string(filepath.Separator)) {
		return os.WriteFile(path, text, 0o600)
	}
	other := filepath.Join(b.dir, fmt.Sprintf("%d-%s", len(b.replace), filepath.Base(path)))
	b.replace[path] = other
	return os.WriteFile(other, text, 0o600)
}

// copyModule copies a module, and has the go command take the copy.
func (b *build) copyModule(path, from string) (string, error) {
	to := filepath.Join(b.dir, "module")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return "", err
	}
	text, err := goCommand("env", "GOMOD")
	if err != nil {
		return "", err
	}
	mod := strings.TrimSpace(string(text))
	b.modfile = filepath.Join(b.dir, "go.mod")
	if err := errors.Join(copyFile(mod, b.modfile), copyFile(strings.TrimSuffix(mod, ".mod")+".sum", filepath.Join(b.dir, "go.sum"))); err != nil {
		return "", err
	}
	_, err = goCommand("mod", "edit", "-replace", path+"="+to, b.modfile)
	return to, err
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}

// goCommand runs the go command in the directory of this module and returns its output.
func goCommand(args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = os.Environ()
	if !slices.Contains(args, "-race") { // which needs a C compiler
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", args[0], err, &stderr)
	}
	return out, nil
}
