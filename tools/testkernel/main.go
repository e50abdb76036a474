// Testkernel runs the tests of packages, named by their folders below the working directory, on another kernel: that
// of a Debian package, in a virtual machine of its own. It prints events as `go test -json` does.
//
// It needs apt to download the package, and QEMU; no root, no KVM, and it installs nothing.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

type options struct {
	kernel   string // Debian package
	release  string // what the kernel's release has to begin with
	dir      string // where the package is kept, and all else is made
	run      string // -test.run
	timeout  time.Duration
	packages []string
}

func main() {
	var o options
	flag.StringVar(&o.kernel, "kernel", "linux-image-cloud-amd64", "Debian `package` of the kernel")
	flag.StringVar(&o.release, "release", "6.1.", "what the kernel's release has to begin with")
	flag.StringVar(&o.dir, "dir", "bin/kernel", "`directory` to keep the package in, and to make all else in")
	flag.StringVar(&o.run, "run", "", "run only tests that match, as with go test")
	flag.DurationVar(&o.timeout, "timeout", 30*time.Minute, "for everything")
	flag.Parse()
	o.packages = flag.Args()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "testkernel:", err)
		os.Exit(1)
	}
}

// modules are those that the tests need. There is nobody in the machine who would load one that the kernel asks for.
func modules() []string {
	return []string{
		"8021q", "bridge", "dummy", "tun", "veth", "vxlan", "wireguard",
		"cls_bpf", "sch_ingress",
		"ip6t_rpfilter", "ip6table_mangle", "nf_tables", "nft_compat", "nft_ct", "nft_fib_inet", "nft_limit", "nft_reject_inet",
	}
}

// programs are those that the tests run.
func programs() []string {
	return []string{"ip", "ip6tables", "ip6tables-legacy", "ip6tables-nft", "nft", "ping", "sh"}
}

// plugins are files that these programs open.
func plugins() string { return "/usr/lib/*/xtables/*.so" }

func run(ctx context.Context, o options, events io.Writer) error {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	k, err := fetchKernel(ctx, dir, o.kernel)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(k.release, o.release) {
		return fmt.Errorf("%s is Linux %s, not %s", o.kernel, k.release, o.release)
	}
	files, err := pack(ctx, dir, k, o.packages)
	if err != nil {
		return err
	}

	l := listener{module: "ip6d", events: events}
	var console bytes.Buffer
	started := time.Now()
	err = boot(ctx, dir, k.image, files, o.commandLine(), &console, func(r io.Reader) error { return l.listen(ctx, r) })
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("not done after %v: %w", o.timeout, ctx.Err())
	case err == nil && !l.done:
		err = errors.New("the machine ended before the tests did")
	case err == nil && l.release != k.release:
		err = fmt.Errorf("the tests ran on Linux %s", l.release)
	}
	if err != nil {
		return fmt.Errorf("%w; its console:\n%s", err, console.Bytes())
	}
	fmt.Fprintf(os.Stderr, "On Linux %s, emulated, for %v.\n", l.release, time.Since(started).Round(time.Second))
	return nil
}

// commandLine is the kernel's. What it does not know itself, it passes on to init.
func (o options) commandLine() string {
	words := []string{"console=ttyS0", "quiet", "panic=-1"} // a panic restarts at once, which ends QEMU
	if ci := os.Getenv("CI"); ci != "" {
		words = append(words, "CI="+ci)
	}
	words = append(words, "--", "-test.v=test2json", "-test.timeout="+o.timeout.String())
	if o.run != "" {
		words = append(words, "-test.run="+o.run)
	}
	return strings.Join(words, " ")
}

// pack builds all that the machine needs beside the kernel.
func pack(ctx context.Context, dir string, k *kernel, packages []string) ([]byte, error) {
	i := make(initramfs)
	i.addModules(k.order(modules()))
	if err := i.addSources("."); err != nil {
		return nil, err
	}
	for _, name := range programs() {
		if err := i.addProgram(ctx, name); err != nil {
			return nil, err
		}
	}
	if err := i.addFiles(plugins()); err != nil {
		return nil, err
	}
	if err := i.addBinary(ctx, dir, "init", "./testkernel/init", "-C", "tools", "build", "-trimpath"); err != nil {
		return nil, err
	}
	for _, p := range packages {
		if err := i.addBinary(ctx, dir, "src/"+p+"/"+p+".test", "./"+p, "test", "-c"); err != nil {
			return nil, err
		}
	}
	return i.bytes()
}
