package nat

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"

	"ip6d/bpf"
)

// Drop is how often packets were refused for one reason.
type Drop struct {
	Reason  string // see enum drop_reason in bpf/ip6d.h
	Meaning string // in a line, for people
	Packets uint64 // on all CPUs, since the maps were made
}

// Drops returns every reason, also those that never occurred, in the order of bpf/ip6d.h.
func (d *Datapath) Drops() ([]Drop, error) {
	var all []Drop
	for i, name := range d.names {
		if i == int(bpf.DatapathDropReasonDROP_NONE) {
			continue
		}
		packets, err := sumCPUs(d.objects.Drops, uint32(i))
		if err != nil {
			return nil, fmt.Errorf("read drops of %s: %w", name, err)
		}
		all = append(all, Drop{Reason: name, Meaning: dropMeanings[name], Packets: packets})
	}
	return all, nil
}

// dropNames returns the name of each reason.
func dropNames(types *btf.Spec) ([]string, error) {
	names, err := enumNames(types, "drop_reason", "DROP_")
	if err != nil {
		return nil, err
	}
	return names[:bpf.DatapathDropReasonDROP_REASONS], nil // the last one is how many there are
}

// enumNames reads the names of an enum's values from the compiled programs, so that they are written down once, in C. Users
// see them in lower case, and without the prefix.
func enumNames(types *btf.Spec, enum, prefix string) (names []string, err error) {
	var e *btf.Enum
	if err := types.TypeByName(enum, &e); err != nil {
		return nil, fmt.Errorf("read names of enum %s: %w", enum, err)
	}
	for _, v := range e.Values {
		for uint64(len(names)) <= v.Value {
			names = append(names, "")
		}
		names[v.Value] = strings.ToLower(strings.TrimPrefix(v.Name, prefix))
	}
	return names, nil
}
