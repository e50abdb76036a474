package nat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// layout is what the bytes of a map's keys or values mean. It is read from the types that the compiler recorded,
// which the kernel keeps with a map: there is no version number that somebody could forget to raise.
type layout struct {
	size   int
	fields []field
}

// field is one number. Those of structures and arrays are named by their path: "stable.high", "mac[0]".
type field struct {
	name         string // "" where the whole is one number
	offset, size int    // in bytes
	signed       bool
	names        []btf.EnumValue // of an enum; nil: any number
}

func layoutsOf(keyType, valueType btf.Type) (key, value layout, err error) {
	if key, err = layoutOf(keyType); err != nil {
		return key, value, fmt.Errorf("key: %w", err)
	}
	if value, err = layoutOf(valueType); err != nil {
		return key, value, fmt.Errorf("value: %w", err)
	}
	return key, value, nil
}

func layoutOf(t btf.Type) (layout, error) {
	size, err := btf.Sizeof(t)
	if err != nil {
		return layout{}, err
	}
	l := layout{size: size}
	return l, l.add("", 0, t)
}

// add adds the fields of a type.
func (l *layout) add(name string, offset int, t btf.Type) error {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Int:
		l.fields = append(l.fields, field{name: name, offset: offset, size: int(t.Size), signed: t.Encoding == btf.Signed})
	case *btf.Enum:
		l.fields = append(l.fields, field{name: name, offset: offset, size: int(t.Size), signed: t.Signed, names: t.Values})
	case *btf.Array:
		size, err := btf.Sizeof(t.Type)
		if err != nil {
			return err
		}
		for i := range int(t.Nelems) {
			if err := l.add(fmt.Sprintf("%s[%d]", name, i), offset+i*size, t.Type); err != nil {
				return err
			}
		}
	case *btf.Struct:
		for _, m := range t.Members {
			if m.BitfieldSize != 0 {
				return fmt.Errorf("field %s of %s: bit fields cannot be migrated", m.Name, t.Name)
			}
			path := m.Name
			if name != "" && path != "" {
				path = name + "." + path
			}
			if err := l.add(path, offset+int(m.Offset.Bytes()), m.Type); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("field %s: %v cannot be migrated", name, t)
	}
	return nil
}

// number reports whether the whole is one number.
func (l layout) number() bool { return len(l.fields) == 1 && l.fields[0].name == "" }

// read returns the field's number; a negative one in two's complement.
func (f field) read(entry []byte) uint64 {
	var b [8]byte
	copy(b[:], entry[f.offset:][:f.size])
	v := binary.NativeEndian.Uint64(b[:])
	if unused := 64 - 8*f.size; f.signed {
		return uint64(int64(v<<unused) >> unused)
	}
	return v
}

// write sets the field's number, and reports whether there was room for it.
func (f field) write(entry []byte, v uint64) bool {
	copy(entry[f.offset:][:f.size], binary.NativeEndian.AppendUint64(nil, v))
	return f.read(entry) == v
}

// conversion brings entries from one layout into another, field by field of the same name.
type conversion struct {
	size    int
	kept    [][2]field // old, new
	removed []field
	added   []field // 0 in what is converted
}

func newConversion(from, to layout) *conversion {
	c := &conversion{size: to.size}
	named := func(name string) func(field) bool { return func(f field) bool { return f.name == name } }
	for _, old := range from.fields {
		if i := slices.IndexFunc(to.fields, named(old.name)); i >= 0 {
			c.kept = append(c.kept, [2]field{old, to.fields[i]})
		} else {
			c.removed = append(c.removed, old)
		}
	}
	for _, f := range to.fields {
		if !slices.ContainsFunc(from.fields, named(f.name)) {
			c.added = append(c.added, f)
		}
	}
	return c
}

// convert returns what is in the new layout the same entry; without a conversion, the entry. It fails where something
// would be lost.
func (c *conversion) convert(entry []byte) ([]byte, error) {
	if c == nil {
		return entry, nil
	}
	for _, f := range c.removed {
		if v := f.read(entry); v != 0 {
			return nil, fmt.Errorf("field %s is %d in an entry, and this version has no such field", f.name, v)
		}
	}
	converted := make([]byte, c.size)
	for _, pair := range c.kept {
		from, to := pair[0], pair[1]
		v := from.read(entry)
		renumbered, err := renumber(v, from.names, to.names)
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", from.name, err)
		}
		if !to.write(converted, renumbered) || from.signed != to.signed && int64(v) < 0 {
			return nil, fmt.Errorf("field %s is %d in an entry, which does not fit into the %d bytes that this version has for it", from.name, v, to.size)
		}
	}
	return converted, nil
}

// renumber returns the number that has the name in `to` that v has in `from`.
func renumber(v uint64, from, to []btf.EnumValue) (uint64, error) {
	if from == nil || to == nil {
		return v, nil
	}
	number := func(e btf.EnumValue) bool { return e.Value == v }
	i := slices.IndexFunc(from, number)
	if i < 0 {
		if j := slices.IndexFunc(to, number); j >= 0 {
			return 0, fmt.Errorf("%d is in an entry without a meaning, and is %s in this version", v, to[j].Name)
		}
		return v, nil
	}
	j := slices.IndexFunc(to, func(e btf.EnumValue) bool { return e.Name == from[i].Name })
	if j < 0 {
		return 0, fmt.Errorf("%s (%d) is in an entry, and this version has no such name", from[i].Name, v)
	}
	return to[j].Value, nil
}

// errNoTypes: the kernel does not know what is in a map.
var errNoTypes = errors.New("the kernel keeps no types with it")

// keptLayouts reads what the kernel keeps with a map. Errors: errNoTypes, ErrPermission.
func keptLayouts(m *ebpf.Map) (key, value layout, err error) {
	keyID, valueID, err := keptTypes(m)
	if err != nil {
		return key, value, err
	}
	if valueID == 0 {
		return key, value, errNoTypes
	}
	types, err := m.Handle()
	if errors.Is(err, unix.EPERM) {
		return key, value, fmt.Errorf("%w: reading the types of a pinned map takes CAP_SYS_ADMIN: %w", ErrPermission, err)
	}
	if err != nil {
		return key, value, err
	}
	defer types.Close()
	spec, err := types.Spec(nil)
	if err != nil {
		return key, value, err
	}
	keyType, err := spec.TypeByID(keyID)
	if err != nil {
		return key, value, err
	}
	valueType, err := spec.TypeByID(valueID)
	if err != nil {
		return key, value, err
	}
	return layoutsOf(keyType, valueType)
}

// keptTypes returns which of the types that the kernel keeps with a map are those of its keys and values; 0: none.
func keptTypes(m *ebpf.Map) (key, value btf.TypeID, err error) {
	var info struct { // the beginning of struct bpf_map_info, of which package ebpf shows all but what is named here
		_          [6]uint32
		_          [16]byte // its name
		_          [2]uint32
		_          [2]uint64
		_          uint32 // what Map.Handle opens
		key, value btf.TypeID
	}
	request := struct {
		fd, size uint32
		info     unsafe.Pointer
	}{uint32(m.FD()), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&request)), unsafe.Sizeof(request))
	if errno != 0 {
		return 0, 0, fmt.Errorf("read what the kernel keeps with a map: %w", errno)
	}
	return info.key, info.value, nil
}
