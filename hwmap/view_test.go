package hwmap

import (
	"slices"
	"testing"

	"ip6d/addr"
)

func TestMachinesAreFoundByTheNamesOfTheirRecords(t *testing.T) {
	v := newFleetView()
	record := func(number addr.Machine, name string) { v.putMachine(number, &Machine{Machine: number, Name: name}) }
	expect := func(name string, want ...addr.Machine) {
		t.Helper()
		if got := slices.Sorted(slices.Values(v.named(name))); !slices.Equal(got, want) {
			t.Errorf("%q is the name of %v, want %v", name, got, want)
		}
	}
	record(1, "a")
	record(2, "b")
	expect("a", 1) // the index is made here, and kept from here on
	record(3, "a")
	expect("a", 1, 3)
	record(1, "b")
	expect("a", 3)
	expect("b", 1, 2)
	record(1, "b") // the same again
	expect("b", 1, 2)
	v.putMachine(3, nil)
	v.putMachine(4, nil)
	expect("a")
	if len(v.names) != 1 {
		t.Errorf("names without a machine are kept: %v", v.names)
	}
}
