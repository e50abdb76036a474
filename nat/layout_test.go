package nat

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

var (
	testU8  = &btf.Int{Name: "u8", Size: 1}
	testU16 = &btf.Int{Name: "u16", Size: 2}
	testU32 = &btf.Int{Name: "u32", Size: 4}
	testU64 = &btf.Int{Name: "u64", Size: 8}
	testS32 = &btf.Int{Name: "s32", Size: 4, Encoding: btf.Signed}
	testS64 = &btf.Int{Name: "s64", Size: 8, Encoding: btf.Signed}
)

// structure lays its members, each a name and a type in turn, out without holes.
func structure(t *testing.T, members ...any) *btf.Struct {
	t.Helper()
	s := &btf.Struct{Name: "entry"}
	for i := 0; i < len(members); i += 2 {
		m := btf.Member{Name: members[i].(string), Type: members[i+1].(btf.Type), Offset: btf.Bits(s.Size * 8)}
		s.Members = append(s.Members, m)
		s.Size += uint32(must(btf.Sizeof(m.Type)))
	}
	return s
}

func states(names ...string) *btf.Enum {
	e := &btf.Enum{Name: "state", Size: 1}
	for i, name := range names {
		if name != "" {
			e.Values = append(e.Values, btf.EnumValue{Name: name, Value: uint64(i)})
		}
	}
	return e
}

func macs(n uint32) *btf.Array { return &btf.Array{Index: testU32, Type: testU8, Nelems: n} }

func TestEntriesAreConvertedFieldByField(t *testing.T) {
	be := binary.LittleEndian
	for _, c := range []struct {
		name     string
		from, to *btf.Struct
		old, new []byte // nil: refused
		says     []string
	}{
		{
			name: "fields change places",
			from: structure(t, "host", testU32, "cell", testU16), to: structure(t, "cell", testU16, "host", testU32),
			old: []byte{1, 2, 3, 4, 5, 6}, new: []byte{5, 6, 1, 2, 3, 4},
		}, {
			name: "a new field is 0",
			from: structure(t, "host", testU32), to: structure(t, "flags", testU16, "host", testU32),
			old: []byte{1, 2, 3, 4}, new: []byte{0, 0, 1, 2, 3, 4},
		}, {
			name: "a wider field",
			from: structure(t, "epoch", testU32), to: structure(t, "epoch", testU64),
			old: []byte{1, 2, 3, 0xff}, new: []byte{1, 2, 3, 0xff, 0, 0, 0, 0},
		}, {
			name: "a wider field with a sign",
			from: structure(t, "offset", testS32), to: structure(t, "offset", testS64),
			old: be.AppendUint32(nil, 0xfffffffe), new: be.AppendUint64(nil, 0xfffffffffffffffe),
		}, {
			name: "a field that loses its sign",
			from: structure(t, "offset", testS64), to: structure(t, "offset", testU64),
			old: be.AppendUint64(nil, 0xfffffffffffffffe), says: []string{"offset"},
		}, {
			name: "a field that gets a sign",
			from: structure(t, "offset", testU32), to: structure(t, "offset", testS32),
			old: be.AppendUint32(nil, 0xfffffffe), says: []string{"offset", "4294967294"},
		}, {
			name: "a narrower field with room for the number",
			from: structure(t, "epoch", testU64), to: structure(t, "epoch", testU16),
			old: be.AppendUint64(nil, 0xfffe), new: []byte{0xfe, 0xff},
		}, {
			name: "a narrower field without",
			from: structure(t, "epoch", testU64), to: structure(t, "epoch", testU16),
			old: be.AppendUint64(nil, 0x10000), says: []string{"epoch", "65536", "2 bytes"},
		}, {
			name: "a removed field that was 0",
			from: structure(t, "host", testU32, "reserved", testU16), to: structure(t, "host", testU32),
			old: []byte{1, 2, 3, 4, 0, 0}, new: []byte{1, 2, 3, 4},
		}, {
			name: "a removed field that was not",
			from: structure(t, "host", testU32, "flags", testU16), to: structure(t, "host", testU32, "options", testU16),
			old: []byte{1, 2, 3, 4, 7, 0}, says: []string{"flags", "7"},
		}, {
			name: "a longer array",
			from: structure(t, "mac", macs(2)), to: structure(t, "mac", macs(3)),
			old: []byte{1, 2}, new: []byte{1, 2, 0},
		}, {
			name: "a shorter array",
			from: structure(t, "mac", macs(3)), to: structure(t, "mac", macs(2)),
			old: []byte{1, 2, 3}, says: []string{"mac[2]", "3"},
		}, {
			name: "fields of a structure in another order",
			from: structure(t, "stable", structure(t, "high", testU8, "low", testU8)),
			to:   structure(t, "stable", structure(t, "low", testU8, "high", testU8)),
			old:  []byte{1, 2}, new: []byte{2, 1},
		}, {
			name: "a name with another number",
			from: structure(t, "state", states("", "HERE", "AWAY")), to: structure(t, "state", states("", "HERE", "COMING", "AWAY")),
			old: []byte{2}, new: []byte{3},
		}, {
			name: "a name that has gone",
			from: structure(t, "state", states("", "HERE", "AWAY")), to: structure(t, "state", states("", "HERE", "LEFT")),
			old: []byte{2}, says: []string{"state", "AWAY", "2"},
		}, {
			name: "a number without a name",
			from: structure(t, "state", states("", "HERE")), to: structure(t, "state", states("", "HERE", "AWAY")),
			old: []byte{0}, new: []byte{0},
		}, {
			name: "a number that gets a name",
			from: structure(t, "state", states("", "HERE")), to: structure(t, "state", states("NOWHERE", "HERE")),
			old: []byte{0}, says: []string{"state", "NOWHERE"},
		}, {
			name: "a number that becomes a name's",
			from: structure(t, "state", testU16), to: structure(t, "state", states("", "HERE")),
			old: []byte{1, 0}, new: []byte{1},
		},
	} {
		from, to, err := layoutsOf(c.from, c.to)
		ok(t, err)
		got, err := newConversion(from, to).convert(c.old)
		if string(got) != string(c.new) || (err != nil) != (c.new == nil) {
			t.Errorf("%s: %v becomes %v, error %v; want %v", c.name, c.old, got, err, c.new)
		}
		for _, part := range c.says {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error %v does not name %s", c.name, err, part)
			}
		}
	}
}

func TestLayoutsThatCannotBeConvertedAreNamed(t *testing.T) {
	bits := structure(t, "flags", testU32)
	bits.Members[0].BitfieldSize = 3
	for name, kind := range map[string]btf.Type{
		"bits":    bits,
		"union":   structure(t, "either", &btf.Union{Size: 4, Members: []btf.Member{{Name: "a", Type: testU32}}}),
		"pointer": structure(t, "next", &btf.Pointer{Target: testU32}),
	} {
		if l, err := layoutOf(kind); err == nil || !strings.Contains(err.Error(), "field "+kind.(*btf.Struct).Members[0].Name) {
			t.Errorf("%s: layout %+v, error %v", name, l, err)
		}
	}
}
