package nat

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
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
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	perCPU := make([]uint64, cpus)
	var all []Drop
	for i, name := range d.names {
		if i == int(bpf.DatapathDropReasonDROP_NONE) {
			continue
		}
		if err := d.objects.Drops.Lookup(uint32(i), perCPU); err != nil {
			return nil, fmt.Errorf("read drops of %s: %w", name, err)
		}
		drop := Drop{Reason: name, Meaning: dropMeanings[name]}
		for _, n := range perCPU {
			drop.Packets += n
		}
		all = append(all, drop)
	}
	return all, nil
}

// dropNames reads the names from the compiled programs, so that they are written down once, in C.
func dropNames(types *btf.Spec) ([]string, error) {
	var reasons *btf.Enum
	if err := types.TypeByName("drop_reason", &reasons); err != nil {
		return nil, fmt.Errorf("read names of drops: %w", err)
	}
	names := make([]string, bpf.DatapathDropReasonDROP_REASONS)
	for _, v := range reasons.Values {
		if v.Value < uint64(len(names)) {
			names[v.Value] = strings.ToLower(strings.TrimPrefix(v.Name, "DROP_"))
		}
	}
	return names, nil
}
