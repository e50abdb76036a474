package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// A kernel is what its Debian package holds.
type kernel struct {
	release string // as uname -r prints it
	image   []byte
	modules map[string]module // by name, as lsmod shows it
}

type module struct {
	name    string
	content []byte
	needs   []string // modules
}

// fetchKernel reads the package that the named one depends on, which is empty itself. It is downloaded into dir, where
// it stays for the next time; nothing is installed.
func fetchKernel(ctx context.Context, dir, meta string) (*kernel, error) {
	depends, err := output(ctx, dir, "apt-cache", "depends", meta)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", meta, err)
	}
	match := regexp.MustCompile(`Depends: (linux-image-([0-9]\S*))`).FindSubmatch(depends)
	if match == nil {
		return nil, fmt.Errorf("apt knows no kernel by %s: run 'apt-get update', and see that the sources are of Debian 12", meta)
	}
	name, release := string(match[1]), string(match[2])
	pattern := filepath.Join(dir, name+"_*.deb")
	found, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		// Its own user cannot write here.
		if _, err := output(ctx, dir, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name); err != nil {
			return nil, fmt.Errorf("download %s: %w", name, err)
		}
		if found, err = filepath.Glob(pattern); err != nil {
			return nil, err
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d files are %s: there should be one; 'make clean' removes them", len(found), pattern)
	}
	k, err := unpack(ctx, found[0])
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", found[0], err)
	}
	k.release = release
	return k, nil
}

func unpack(ctx context.Context, deb string) (*kernel, error) {
	files, err := output(ctx, "", "dpkg-deb", "--fsys-tarfile", deb)
	if err != nil {
		return nil, err
	}
	k := &kernel{modules: make(map[string]module)}
	for r := tar.NewReader(bytes.NewReader(files)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		base := path.Base(h.Name)
		name, isModule := strings.CutSuffix(base, ".ko")
		isImage := strings.HasPrefix(base, "vmlinuz-")
		if !isModule && !isImage {
			continue
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		if isImage {
			k.image = content
			continue
		}
		m := module{name: moduleName(name), content: content}
		if m.needs, err = dependencies(content); err != nil {
			return nil, fmt.Errorf("module %s: %w", m.name, err)
		}
		k.modules[m.name] = m
	}
	if k.image == nil {
		return nil, errors.New("there is no vmlinuz in it")
	}
	return k, nil
}

// moduleName is the name that the kernel gives to the module of a file.
func moduleName(file string) string { return strings.ReplaceAll(file, "-", "_") }

// order returns the named modules and all that they need, each after what it needs. Those that are not there are
// taken to be built into the kernel.
func (k *kernel) order(names []string) (all []module) {
	seen := make(map[string]bool)
	var add func(string)
	add = func(name string) {
		m, there := k.modules[name]
		if seen[name] || !there {
			return
		}
		seen[name] = true
		for _, n := range m.needs {
			add(n)
		}
		all = append(all, m)
	}
	for _, name := range names {
		add(name)
	}
	return all
}

// dependencies reads what modules.dep is made from, which is not in the package.
func dependencies(content []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	info := f.Section(".modinfo")
	if info == nil {
		return nil, errors.New("has no .modinfo")
	}
	entries, err := info.Data()
	if err != nil {
		return nil, err
	}
	for entry := range strings.SplitSeq(string(entries), "\x00") {
		if list, found := strings.CutPrefix(entry, "depends="); found && list != "" {
			return strings.Split(moduleName(list), ","), nil
		}
	}
	return nil, nil
}

// output runs a command in a directory, and returns what it printed. Its messages are passed on.
func output(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Stderr = dir, os.Stderr
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(c.Args, " "), err)
	}
	return out, nil
}
