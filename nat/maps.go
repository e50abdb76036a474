package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/bpf"
)

// DefaultSizes are the sizes that are used unless told otherwise.
func DefaultSizes() Sizes { return Sizes{}.fill() }

// The largest sizes of the maps. Of MaxMachines see ports.go.
const (
	MaxBlocks = int(addr.MaxBlock) + 1
	MaxHosts  = 1<<16 - 1 // `moved` has a slot in two bytes
)

// fill returns the sizes with the defaults filled in.
func (s Sizes) fill() Sizes {
	for _, f := range []struct {
		size  *int
		value int
	}{{&s.Machines, 8192}, {&s.Blocks, 16384}, {&s.Hosts, 16384}} {
		if *f.size == 0 {
			*f.size = f.value
		}
	}
	return s
}

func (s Sizes) check() error {
	s = s.fill()
	for _, f := range []struct {
		name      string
		size, max int
	}{{"machines", s.Machines, MaxMachines}, {"blocks", s.Blocks, MaxBlocks}, {"hosts", s.Hosts, MaxHosts}} {
		if f.size < 1 || f.size > f.max {
			return fmt.Errorf("%w: size of %s is %d, must be 1 to %d", ErrInvalid, f.name, f.size, f.max)
		}
	}
	return nil
}

// byMap returns the number of entries of each map that has a setting.
func (s Sizes) byMap() map[string]int {
	s = s.fill()
	return map[string]int{
		bpf.DatapathMapMachines: s.Machines,
		bpf.DatapathMapPorts:    portPlaces,
		bpf.DatapathMapMoved:    s.Blocks,
		bpf.DatapathMapEpochs:   s.Blocks,
		bpf.DatapathMapBlocks:   s.Blocks,
		bpf.DatapathMapHosts:    s.Hosts,
		bpf.DatapathMapSlots:    s.Hosts,
		bpf.DatapathMapDead:     s.Hosts,
	}
}

func (s Sizes) apply(spec *ebpf.CollectionSpec) {
	for name, n := range s.byMap() {
		spec.Maps[name].MaxEntries = uint32(n)
	}
}

// sizeSetting is the setting that a map's size comes from.
func sizeSetting(name string) string {
	switch name {
	case bpf.DatapathMapSlots, bpf.DatapathMapDead:
		name = bpf.DatapathMapHosts
	case bpf.DatapathMapMoved, bpf.DatapathMapEpochs:
		name = bpf.DatapathMapBlocks
	}
	return "sizes." + name
}

// openMaps takes the maps that are pinned in dir, remakes those that do not fit, and makes the others. What it did can
// be undone. Errors: ErrLayout, ErrPermission.
func openMaps(spec *ebpf.CollectionSpec, dir string, log *slog.Logger) (maps map[string]*ebpf.Map, undo []func() error, err error) {
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
		m, done, err := openMap(s, filepath.Join(dir, name), log)
		undo = append(undo, done...)
		if err != nil {
			return maps, undo, fmt.Errorf("open map %s: %w", name, err)
		}
		maps[name] = m
	}
	return maps, undo, nil
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

// write writes an entry. Errors: ErrFull.
func write(m *ebpf.Map, name string, key, value any) error {
	err := m.Put(key, value)
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("%w: %s has %d entries, raise %s", ErrFull, name, m.MaxEntries(), sizeSetting(name))
	}
	if err != nil {
		return fmt.Errorf("write map %s: %w", name, err)
	}
	return nil
}

// remove deletes an entry. That there is none is no error.
func remove(m *ebpf.Map, name string, key any) error {
	if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from map %s: %w", name, err)
	}
	return nil
}

// list calls f with each entry of m: of an array, also with those that are zero.
func list[K, V any](m *ebpf.Map, name string, f func(K, V)) error {
	if m.Type() == ebpf.Array {
		return listArray(m, name, f)
	}
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

// listArray asks for many at once: an array has as many entries as it has room for.
func listArray[K, V any](m *ebpf.Map, name string, f func(K, V)) error {
	keys, values := make([]K, 4096), make([]V, 4096)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			f(keys[i], values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) { // the end
			return nil
		}
		if err != nil {
			return fmt.Errorf("list map %s: %w", name, err)
		}
	}
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
