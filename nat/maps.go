package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"ip6d/bpf"
)

// DefaultSizes are the sizes that are used unless told otherwise.
func DefaultSizes() Sizes { return Sizes{}.fill() }

// MaxSize is the largest size of a map, in entries.
const MaxSize = 1 << 24

// fill returns the sizes with the defaults filled in.
func (s Sizes) fill() Sizes {
	for _, f := range []struct {
		size  *int
		value int
	}{{&s.Machines, 8192}, {&s.Moved, 65536}, {&s.Blocks, 65536}, {&s.Hosts, 16384}} {
		if *f.size == 0 {
			*f.size = f.value
		}
	}
	return s
}

func (s Sizes) check() error {
	for name, n := range s.byMap() {
		if n < 1 || n > MaxSize {
			return fmt.Errorf("%w: size of %s is %d, must be 1 to %d", ErrInvalid, name, n, MaxSize)
		}
	}
	return nil
}

// byMap returns the number of entries of each map that has a setting.
func (s Sizes) byMap() map[string]int {
	s = s.fill()
	return map[string]int{
		bpf.DatapathMapMachines: s.Machines,
		bpf.DatapathMapPorts:    s.Machines,
		bpf.DatapathMapMoved:    s.Moved,
		bpf.DatapathMapBlocks:   s.Blocks,
		bpf.DatapathMapHosts:    s.Hosts,
	}
}

func (s Sizes) apply(spec *ebpf.CollectionSpec) {
	for name, n := range s.byMap() {
		spec.Maps[name].MaxEntries = uint32(n)
	}
}

// sizeSetting is the setting that a map's size comes from.
func sizeSetting(name string) string {
	if name == bpf.DatapathMapPorts {
		name = bpf.DatapathMapMachines
	}
	return "sizes." + name
}

// openMaps takes the maps that are pinned in dir, and makes the others. What it made can be undone.
func openMaps(spec *ebpf.CollectionSpec, dir string) (maps map[string]*ebpf.Map, undo []func() error, err error) {
	maps = make(map[string]*ebpf.Map)
	defer func() {
		for _, m := range maps {
			if err != nil {
				err = errors.Join(err, m.Close())
			}
		}
	}()
	for name, s := range spec.Maps {
		if name == ".rodata" { // the settings: each load has its own
			continue
		}
		path := filepath.Join(dir, name)
		_, statErr := os.Stat(path)
		s.Pinning = ebpf.PinByName
		m, err := ebpf.NewMapWithOptions(s, ebpf.MapOptions{PinPath: dir})
		if errors.Is(err, ebpf.ErrMapIncompatible) {
			return maps, undo, layoutError(name, path, s)
		}
		if err != nil {
			return maps, undo, fmt.Errorf("open map %s: %w", name, err)
		}
		maps[name] = m
		if errors.Is(statErr, os.ErrNotExist) {
			undo = append(undo, func() error { return os.Remove(path) })
		}
	}
	return maps, undo, nil
}

// layoutError says how the pinned map differs, and the way out.
func layoutError(name, path string, want *ebpf.MapSpec) error {
	dir := filepath.Dir(filepath.Dir(path))
	got, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return fmt.Errorf("%w: map %s at %s: %w", ErrLayout, name, path, err)
	}
	defer got.Close()
	if got.Type() == want.Type && got.KeySize() == want.KeySize && got.ValueSize() == want.ValueSize {
		return fmt.Errorf("%w: map %s at %s has room for %d entries, %s asks for %d: set it back, or remove %s (packets stop until the maps are filled again)",
			ErrLayout, name, path, got.MaxEntries(), sizeSetting(name), want.MaxEntries, dir)
	}
	return fmt.Errorf("%w: map %s at %s was made by another version of ip6d (%v with keys of %d and values of %d bytes, this version: %v, %d, %d): remove %s (packets stop until the maps are filled again)",
		ErrLayout, name, path, got.Type(), got.KeySize(), got.ValueSize(), want.Type, want.KeySize, want.ValueSize, dir)
}

// makeDir makes a directory and those above it. What it made can be undone.
func makeDir(dir string) (undo []func() error, err error) {
	for missing := dir; ; missing = filepath.Dir(missing) {
		if _, err := os.Stat(missing); err == nil || !errors.Is(err, os.ErrNotExist) {
			break
		}
		// undone from the last to the first: the deepest has to be last
		undo = append([]func() error{func() error { return os.Remove(missing) }}, undo...)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	return undo, nil
}

// lookup reads an entry.
func lookup[V any](m *ebpf.Map, key any) (value V, ok bool, err error) {
	err = m.Lookup(key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	return value, err == nil, err
}

// list calls f with each entry of m.
func list[K, V any](m *ebpf.Map, name string, f func(K, V)) error {
	var key K
	var value V
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		f(key, value)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("list map %s: %w", name, err)
	}
	return nil
}

func checkMAC(mac net.HardwareAddr) error {
	if len(mac) != 6 || mac[0]&1 != 0 {
		return fmt.Errorf("%w: MAC %q: must be six bytes and not a group's", ErrInvalid, mac.String())
	}
	return nil
}

func firstHextet(p netip.Prefix) uint16 {
	high, _ := halves(p.Addr())
	return uint16(high >> 48)
}

// halves returns an address as the programs keep it.
func halves(a netip.Addr) (high, low uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
