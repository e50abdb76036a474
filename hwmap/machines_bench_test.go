package hwmap

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"ip6d/addr"
)

// BenchmarkHostOf asks for a million machines, all of which have moved, in random order.
func BenchmarkHostOf(b *testing.B) {
	const machines = 1 << 20
	m := &Map{Options: Options{Cell: 1}, fleet: newFleetView()}
	for n := range addr.Machine(machines) {
		m.fleet.putMachine(n, &Machine{Machine: n, Name: "machine" + strconv.Itoa(int(n)), Host: addr.Host(1 + n%100), Epoch: 2})
	}
	asked := rand.Perm(machines)
	for i := 0; b.Loop(); i++ {
		id := addr.ID{Cell: 1, Machine: addr.Machine(asked[i%machines])}
		if at, ok := m.HostOf(id); !ok || at != addr.Host(1+id.Machine%100) {
			b.Fatalf("machine %s is on host %d, %t", id, at, ok)
		}
	}
}

// BenchmarkPutMachines puts a million records into an empty view, in the order of their numbers.
func BenchmarkPutMachines(b *testing.B) {
	const machines = 1 << 20
	for b.Loop() {
		v := newFleetView()
		for n := range addr.Machine(machines) {
			v.putMachine(n, &Machine{Machine: n, Name: "machine", Host: 2, Epoch: 2})
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/machines, "ns/record")
}
