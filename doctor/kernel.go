package doctor

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"ip6d/nat"
)

// kernel looks at what the datapath needs of the kernel.
func kernel(bpfDir string) []Finding {
	all := []Finding{
		fromError("kernel", release(), nat.CheckKernel()),
		fromError("capabilities", "enough for the datapath", nat.CheckCapabilities()),
		fromError("BPF file system", bpfDir, nat.CheckBPFFS(bpfDir)),
	}
	for _, f := range all {
		if f.Severity == Error {
			return all // the rest cannot be asked then
		}
	}
	return append(all, helpers(), tcx(), types(), files())
}

// fromError is a finding that is well where there is no error. An error of this project has the remedy in it.
func fromError(check, value string, err error) Finding {
	if err != nil {
		return Finding{Check: check, Severity: Error, Value: err.Error(), Remedy: "as it says"}
	}
	return Finding{Check: check, Severity: OK, Value: value}
}

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err.Error()
	}
	return "Linux " + unix.ByteSliceToString(name.Release[:])
}

// helpers asks for those that not every kernel of that version has, because it can be built without.
func helpers() Finding {
	var missing error
	for _, h := range []asm.BuiltinFunc{asm.FnRedirectPeer, asm.FnRedirectNeigh, asm.FnCheckMtu, asm.FnCsumUpdate, asm.FnRingbufOutput} {
		if err := features.HaveProgramHelper(ebpf.SchedCLS, h); err != nil {
			missing = errors.Join(missing, fmt.Errorf("%s: %w", h, err))
		}
	}
	if missing != nil {
		return Finding{"BPF helpers", Error, missing.Error(), "use a kernel that is built with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_ACT and CONFIG_BPF_EVENTS"}
	}
	return Finding{Check: "BPF helpers", Severity: OK, Value: "all are there"}
}

// tcx asks for the way in which programs are attached.
func tcx() Finding {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return Finding{"BPF programs", Error, err.Error(), "let this process load programs: root, or CAP_BPF and CAP_NET_ADMIN"}
	}
	defer p.Close()
	_, err = link.AttachTCX(link.TCXOptions{Program: p, Attach: ebpf.AttachTCXIngress}) // to device 0, which nobody has
	if errors.Is(err, link.ErrNotSupported) {
		return Finding{"BPF programs", Info, "are attached as clsact filters: this kernel has no TCX", "TCX comes with Linux 6.6; with filters, other tools that use clsact can remove ours"}
	}
	return Finding{Check: "BPF programs", Severity: OK, Value: "are attached by TCX"}
}

func types() Finding {
	if _, err := btf.LoadKernelSpec(); err != nil {
		return Finding{"BTF", Info, "the kernel has none: " + err.Error(), "the datapath does without; tools that look at it may not"}
	}
	return Finding{Check: "BTF", Severity: OK, Value: "is there"}
}

// leastFiles is what a daemon with its stores, programs, maps and links of some ports needs.
const leastFiles = 1024

func files() Finding {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fromError("open files", "", err)
	}
	return openFiles(limit.Max)
}

func openFiles(most uint64) Finding {
	if most < leastFiles {
		return Finding{"open files", Warning, fmt.Sprintf("at most %d", most), fmt.Sprintf("set LimitNOFILE=%d or more in the service, or ulimit -Hn", leastFiles)}
	}
	return Finding{Check: "open files", Severity: OK, Value: fmt.Sprintf("at most %d", most)}
}
