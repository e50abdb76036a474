package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"ip6d/bpf"
)

const (
	fromMachine    = bpf.DatapathProgFromMachine
	fromUnderlay   = bpf.DatapathProgFromUnderlay
	fromUnderlayL3 = bpf.DatapathProgFromUnderlayL3
	fromStack      = bpf.DatapathProgFromStack
	fromElsewhere  = bpf.DatapathProgFromElsewhere
	toUnderlay     = bpf.DatapathProgToUnderlay
	toUnderlayL3   = bpf.DatapathProgToUnderlayL3
)

var underlayPrograms = []string{fromUnderlay, fromUnderlayL3, toUnderlay, toUnderlayL3}

// program is a loaded program, and the side of a device that it belongs to.
type program struct {
	*ebpf.Program
	side side
}

// side of a device: packets come in (TCX and clsact ingress), or go out (egress).
type side int

const (
	ingress side = iota
	egress
)

func (s side) String() string {
	if s == egress {
		return "egress"
	}
	return "ingress"
}

// programs is the table of all programs, by name.
func (d *Datapath) programs() map[string]program {
	return map[string]program{
		fromMachine:    {d.objects.FromMachine, ingress},
		fromUnderlay:   {d.objects.FromUnderlay, ingress},
		fromUnderlayL3: {d.objects.FromUnderlayL3, ingress},
		fromStack:      {d.objects.FromStack, ingress},
		fromElsewhere:  {d.objects.FromElsewhere, egress},
		toUnderlay:     {d.objects.ToUnderlay, egress},
		toUnderlayL3:   {d.objects.ToUnderlayL3, egress},
	}
}

// pinPrograms pins the programs in place of an earlier process's: each is replaced in one step. Those that it
// pinned in nobody's place can be undone.
func (d *Datapath) pinPrograms() (undo []func() error, err error) {
	for name, p := range d.programs() {
		path := filepath.Join(d.dir, programsDir, name)
		next := path + "_next"
		if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return undo, fmt.Errorf("pin program %s: %w", name, err)
		}
		if err := p.Pin(next); err != nil {
			return undo, fmt.Errorf("pin program %s: %w", name, err)
		}
		_, statErr := os.Stat(path)
		if err := os.Rename(next, path); err != nil {
			return undo, fmt.Errorf("pin program %s: %w", name, errors.Join(err, os.Remove(next)))
		}
		if errors.Is(statErr, fs.ErrNotExist) {
			undo = append(undo, func() error { return os.Remove(path) })
		}
	}
	return undo, nil
}
