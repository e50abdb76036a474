package nat

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"

	"ip6d/audit"
)

// pinned are the objects that are pinned, by their path below the pin directory.
func (d *Datapath) pinned() map[string]pinnable {
	all := make(map[string]pinnable)
	maps := reflect.ValueOf(d.objects.DatapathMaps) // by its tags, so that none is forgotten
	for i := range maps.NumField() {
		m, _ := maps.Field(i).Interface().(*ebpf.Map)
		all[filepath.Join(mapsDir, maps.Type().Field(i).Tag.Get("ebpf"))] = pinnedMap{m}
	}
	for name, p := range d.programs() {
		all[filepath.Join(programsDir, name)] = pinnedProgram{p.Program}
	}
	return all
}

// pinnable is a map or a program.
type pinnable interface {
	id() (uint32, error)
	at(path string) (uint32, error) // the id of what is pinned there
	pin(path string) error
}

type pinnedMap struct{ *ebpf.Map }

func (m pinnedMap) id() (uint32, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return uint32(id), nil
}

func (m pinnedMap) at(path string) (uint32, error) {
	other, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return 0, err
	}
	defer other.Close()
	return pinnedMap{other}.id()
}

// pin pins a clone: what was pinned before is remembered as such.
func (m pinnedMap) pin(path string) error {
	clone, err := m.Clone()
	if err != nil {
		return err
	}
	return errors.Join(clone.Pin(path), clone.Close())
}

type pinnedProgram struct{ *ebpf.Program }

func (p pinnedProgram) id() (uint32, error) {
	id, err := programID(p.Program)
	return uint32(id), err
}

func (p pinnedProgram) at(path string) (uint32, error) {
	other, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return 0, err
	}
	defer other.Close()
	return pinnedProgram{other}.id()
}

func (p pinnedProgram) pin(path string) error {
	clone, err := p.Clone()
	if err != nil {
		return err
	}
	return errors.Join(clone.Pin(path), clone.Close())
}

func programID(p *ebpf.Program) (ebpf.ProgramID, error) {
	info, err := p.Info()
	if err != nil {
		return 0, err
	}
	id, _ := info.ID()
	return id, nil
}

func (d *Datapath) lookAtPins() (all []audit.Difference, err error) {
	pinned := d.pinned()
	for _, name := range slices.Sorted(maps.Keys(pinned)) {
		used, idErr := pinned[name].id()
		there, pinErr := pinned[name].at(filepath.Join(d.dir, name))
		object := audit.Object{Type: audit.PinObject, ID: name}
		switch {
		case idErr != nil:
			err = errors.Join(err, fmt.Errorf("look at %s: %w", name, idErr))
		case errors.Is(pinErr, fs.ErrNotExist):
			all = append(all, audit.New(audit.PinMissing, object, "in use", fmt.Sprintf("id %d", used), "pinned", audit.None))
		case pinErr != nil:
			err = errors.Join(err, fmt.Errorf("look at pin %s: %w", name, pinErr))
		case there != used:
			all = append(all, audit.New(audit.PinDiffers, object, "in use", fmt.Sprintf("id %d", used), "pinned", fmt.Sprintf("id %d", there)))
		}
	}
	return all, err
}

// pin pins again what is in use.
func (d *Datapath) pin(name string) error {
	p, ok := d.pinned()[name]
	if !ok {
		return audit.ErrChanged
	}
	return p.pin(filepath.Join(d.dir, name))
}
