package nat

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"ip6d/bpf"
)

// Fill is how full a map is.
type Fill struct {
	Map     string // its name, as in docs and `bpftool map`
	Entries int
	Size    int // how many it has room for
}

// Fill returns how full each map is whose size is a setting, ordered by name. It reads nothing from the kernel, so that it
// costs as little with a million entries as with none.
func (d *Datapath) Fill() []Fill {
	var all []Fill
	for name, m := range d.sized() {
		all = append(all, Fill{Map: name, Entries: int(d.entries[name].Load()), Size: int(m.MaxEntries())})
	}
	slices.SortFunc(all, func(a, b Fill) int { return strings.Compare(a.Map, b.Map) })
	return all
}

// sized returns the maps whose size is a setting.
func (d *Datapath) sized() map[string]*ebpf.Map {
	return map[string]*ebpf.Map{
		bpf.DatapathMapMachines: d.objects.Machines,
		bpf.DatapathMapPorts:    d.objects.Ports,
		bpf.DatapathMapMoved:    d.objects.Moved,
		bpf.DatapathMapBlocks:   d.objects.Blocks,
		bpf.DatapathMapHosts:    d.objects.Hosts,
	}
}

// countEntries counts what the maps hold. From then on write and remove, which are all that changes them, keep the counts.
func (d *Datapath) countEntries() error {
	d.entries = make(map[string]*atomic.Int64)
	for name, m := range d.sized() {
		n, err := countKeys(m)
		if err != nil {
			return fmt.Errorf("count entries of map %s: %w", name, err)
		}
		d.entries[name] = new(atomic.Int64)
		d.entries[name].Store(int64(n))
	}
	return nil
}

// countKeys asks for the keys alone, as the values are of no interest.
func countKeys(m *ebpf.Map) (n int, err error) {
	key := make([]byte, m.KeySize())
	for err = m.NextKey(nil, &key); err == nil; err = m.NextKey(key, &key) {
		n++
	}
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		err = nil
	}
	return n, err
}

// write writes an entry. The caller holds mu. Errors: ErrFull.
func (d *Datapath) write(m *ebpf.Map, name string, key, value any) error {
	err := m.Update(key, value, ebpf.UpdateExist)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		if err = m.Update(key, value, ebpf.UpdateNoExist); err == nil {
			d.entries[name].Add(1)
		}
	}
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("%w: %s has %d entries, raise %s", ErrFull, name, m.MaxEntries(), sizeSetting(name))
	}
	if err != nil {
		return fmt.Errorf("write map %s: %w", name, err)
	}
	return nil
}

// remove deletes an entry. That there is none is no error. The caller holds mu.
func (d *Datapath) remove(m *ebpf.Map, name string, key any) error {
	err := m.Delete(key)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete from map %s: %w", name, err)
	}
	d.entries[name].Add(-1)
	return nil
}
