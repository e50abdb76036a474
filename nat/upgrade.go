package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// What an upgrade finds pinned may have been made by another version, or with other sizes. A map that does not fit
// is remade: its entries are copied into a new one, which takes its place in the pin directory in one step. Programs
// that are attached go on with the map that they were loaded with, until their links are updated; as nobody but the
// process that is opening the datapath writes entries, both maps say the same until then. Wherever a crash ends this,
// the next start finds under each name one of the two maps whole, and goes on from there.

// nextSuffix names the pin of a map that is about to change places with another.
const nextSuffix = "_next"

// openMap takes the map that is pinned at path, or one that fits s with its entries, or makes it. What it did can be
// undone. Errors: ErrLayout, ErrPermission.
func openMap(s *ebpf.MapSpec, path string, log *slog.Logger) (m *ebpf.Map, undo []func() error, err error) {
	if indexed(s.Type) {
		s = s.Copy()
		s.Key = &btf.Int{Name: "index", Size: s.KeySize} // with an enum as the index, the kernel keeps no types at all
	}
	old, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return makeMap(s, path)
	}
	if err != nil {
		return nil, nil, err
	}
	d, err := compare(old, s)
	if err == nil && d.none() {
		return old, nil, nil
	}
	defer old.Close()
	if err != nil {
		return nil, nil, layoutError(err, s, path)
	}
	m, err = ebpf.NewMap(s)
	if err != nil {
		return nil, nil, fmt.Errorf("remake it with room for %d entries: %w", s.MaxEntries, err)
	}
	entries, err := d.copyEntries(old, m)
	if err != nil {
		return nil, nil, errors.Join(layoutError(err, s, path), m.Close())
	}
	if undo, err = replacePin(m, path); err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	log.Info("pinned map remade", "map", s.Name, "entries", entries, "size", s.MaxEntries, "old_size", old.MaxEntries())
	return m, undo, nil
}

func makeMap(s *ebpf.MapSpec, path string) (m *ebpf.Map, undo []func() error, err error) {
	m, err = ebpf.NewMap(s)
	if err != nil {
		return nil, nil, err
	}
	if err := m.Pin(path); err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return m, []func() error{func() error { return os.Remove(path) }}, nil
}

// replacePin pins m in the place of what is at path. That keeps a pin until removeStrays, so that it can be undone.
func replacePin(m *ebpf.Map, path string) (undo []func() error, err error) {
	next := path + nextSuffix
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // from a crash
		return nil, err
	}
	if err := m.Pin(next); err != nil {
		return nil, err
	}
	exchange := func() error {
		err := unix.Renameat2(unix.AT_FDCWD, next, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
		if err != nil {
			return &os.LinkError{Op: "exchange", Old: next, New: path, Err: err}
		}
		return nil
	}
	if err := exchange(); err != nil {
		return nil, errors.Join(err, os.Remove(next))
	}
	return []func() error{func() error {
		if err := exchange(); err != nil {
			return err
		}
		return os.Remove(next)
	}}, nil
}

// removeStrays removes pins of maps that this version does not have, or has remade. No program may need them any more.
func removeStrays(spec *ebpf.CollectionSpec, dir string) error {
	pins, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list pinned maps: %w", err)
	}
	for _, pin := range pins {
		if spec.Maps[pin.Name()] == nil {
			err = errors.Join(err, os.Remove(filepath.Join(dir, pin.Name())))
		}
	}
	return err
}

// difference is how a pinned map differs from what this version asks for.
type difference struct {
	remake     bool        // in its size, at least
	key, value *conversion // nil: they are the same
}

func (d difference) none() bool { return !d.remake && d.key == nil && d.value == nil }

// compare fails where no entry of one map could be understood as one of the other. Errors: errNoTypes, ErrPermission.
func compare(old *ebpf.Map, s *ebpf.MapSpec) (d difference, err error) {
	d.remake = old.MaxEntries() != s.MaxEntries || old.Flags() != s.Flags
	if forgettable(old.Type()) || forgettable(s.Type) {
		d.remake = d.remake || old.Type() != s.Type || old.KeySize() != s.KeySize || old.ValueSize() != s.ValueSize
		return d, nil
	}
	if old.Type() != s.Type {
		return d, fmt.Errorf("it is a map of type %v, this version's is %v", old.Type(), s.Type)
	}
	key, value, err := layoutsOf(s.Key, s.Value)
	if err != nil {
		return d, err
	}
	oldKey, oldValue, err := keptLayouts(old)
	if errors.Is(err, errNoTypes) && key.number() && value.number() && old.KeySize() == s.KeySize && old.ValueSize() == s.ValueSize {
		return d, nil // there are no fields that could be others
	}
	if err != nil {
		return d, err
	}
	if !indexed(s.Type) && !reflect.DeepEqual(oldKey, key) { // what indexes an array is a number, whatever it is called
		d.key = newConversion(oldKey, key)
		if len(d.key.added) != 0 {
			return d, fmt.Errorf("this version's keys have a field %s, which is not in the map's", d.key.added[0].name)
		}
	}
	if !reflect.DeepEqual(oldValue, value) {
		d.value = newConversion(oldValue, value)
	}
	return d, nil
}

// copyEntries copies all entries into an empty map, and returns how many. Errors: sizeError.
func (d difference) copyEntries(from, to *ebpf.Map) (n int, err error) {
	if forgettable(from.Type()) || forgettable(to.Type()) {
		return 0, nil
	}
	var key, value []byte
	var values [][]byte // of each CPU
	perCPU := from.Type() == ebpf.PerCPUArray || from.Type() == ebpf.PerCPUHash
	out := any(&value)
	if perCPU {
		out = &values
	}
	entries := from.Iterate()
	for entries.Next(&key, out) {
		if !perCPU {
			values = [][]byte{value}
		}
		if indexed(from.Type()) && !slices.ContainsFunc(values, notZero) {
			continue // as the new map begins
		}
		if n++; indexed(from.Type()) { // an entry needs all the places before it
			n = int(binary.NativeEndian.Uint32(key)) + 1
		}
		if n > int(to.MaxEntries()) {
			continue // only to count them
		}
		if key, err = d.key.convert(key); err != nil {
			return n, fmt.Errorf("key: %w", err)
		}
		for i, v := range values {
			if values[i], err = d.value.convert(v); err != nil {
				return n, err
			}
		}
		if perCPU {
			err = to.Put(key, values)
		} else {
			err = to.Put(key, values[0])
		}
		if err != nil {
			return n, fmt.Errorf("copy an entry: %w", err)
		}
	}
	if err := entries.Err(); err != nil {
		return n, fmt.Errorf("list its entries: %w", err)
	}
	if n > int(to.MaxEntries()) {
		return n, sizeError{entries: n, size: int(to.MaxEntries())}
	}
	return n, nil
}

func notZero(entry []byte) bool {
	return slices.ContainsFunc(entry, func(b byte) bool { return b != 0 })
}

// sizeError: more entries than there would be room for.
type sizeError struct{ entries, size int }

func (e sizeError) Error() string {
	return fmt.Sprintf("%d entries are in use, there would be room for %d", e.entries, e.size)
}

// layoutError says why the map that is pinned at path was not remade, and the way out.
func layoutError(err error, s *ebpf.MapSpec, path string) error {
	if errors.Is(err, ErrPermission) {
		return err
	}
	size, ok := errors.AsType[sizeError](err)
	if _, settable := (Sizes{}).byMap()[s.Name]; ok && settable {
		return fmt.Errorf("%w: %w: set %s to %d or more", ErrLayout, err, sizeSetting(s.Name), size.entries)
	}
	return fmt.Errorf("%w: %w: start the version of ip6d that made %s, or remove %s (packets stop until the maps are filled again)",
		ErrLayout, err, path, filepath.Dir(filepath.Dir(path)))
}

// forgettable reports whether maps of a type hold what may go at any time.
func forgettable(t ebpf.MapType) bool {
	switch t {
	case ebpf.RingBuf, ebpf.PerfEventArray, ebpf.LRUHash, ebpf.LRUCPUHash:
		return true
	}
	return false
}

// indexed reports whether maps of a type have an entry for every number below their size, and no others.
func indexed(t ebpf.MapType) bool { return t == ebpf.Array || t == ebpf.PerCPUArray }
