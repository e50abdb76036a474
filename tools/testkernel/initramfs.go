package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
	"golang.org/x/sys/unix"
)

// An initramfs is the whole file system of the machine:
//
//	init			tools/testkernel/init
//	modules/NN-NAME.ko	in the order to load them
//	src/PACKAGE/		as in the repository: the package's tests, and the files that tests read
//	bin/, lib/ ...		programs that tests run, and their libraries
type initramfs map[string]cpio.Record // by path

func (i initramfs) add(name string, content []byte) {
	i[name] = cpio.StaticFile(name, string(content), 0o755)
}

func (i initramfs) addModules(modules []module) {
	for n, m := range modules {
		i.add(fmt.Sprintf("modules/%03d-%s.ko", n, m.name), m.content)
	}
}

// addBinary adds what a go command builds of a package: a binary that needs no libraries. It is
// built in dir, an absolute path.
func (i initramfs) addBinary(ctx context.Context, dir, name, pkg string, goCommand ...string) error {
	file := filepath.Join(dir, filepath.Base(name))
	c := exec.CommandContext(ctx, "go", append(goCommand, "-o", file, pkg)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	c.Stderr = os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("build %s: %w", name, err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	i.add(name, content)
	return nil
}

// addProgram adds a program of this computer, with the libraries that it needs, where they are here.
func (i initramfs) addProgram(ctx context.Context, name string) error {
	program, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	needs, err := output(ctx, "", "ldd", program)
	if err != nil {
		return err
	}
	return i.addFiles(append(regexp.MustCompile(`/\S+`).FindAllString(string(needs), -1), program)...)
}

// addFiles adds files of this computer where they are here.
func (i initramfs) addFiles(patterns ...string) error {
	for _, pattern := range patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			i.add(strings.TrimPrefix(path, "/"), content)
		}
	}
	return nil
}

// addSources adds what tests read of the repository: its documents, and the testdata of all packages.
func (i initramfs) addSources(root string) error {
	source := os.DirFS(root)
	for _, pattern := range []string{"docs/*.md", "*/testdata/*", "*/testdata/fuzz/*/*"} {
		paths, err := fs.Glob(source, pattern)
		if err != nil {
			return err
		}
		for _, path := range paths {
			content, err := fs.ReadFile(source, path)
			if errors.Is(err, unix.EISDIR) {
				continue
			}
			if err != nil {
				return err
			}
			i.add("src/"+path, content)
		}
	}
	return nil
}

func (i initramfs) bytes() ([]byte, error) {
	var b bytes.Buffer
	w := cpio.Newc.Writer(&b)
	if err := cpio.WriteRecordsAndDirs(w, slices.Collect(maps.Values(i))); err != nil {
		return nil, err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
