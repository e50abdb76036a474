package nat

import (
	"fmt"

	"github.com/cilium/ebpf"

	"ip6d/addr"
	"ip6d/bpf"
)

// Witness is what the kernel remembers of this host's database, so that a daemon which finds an older one, or another, can
// tell. It survives daemons, and not a reboot.
type Witness struct {
	ID    [16]byte   // of the database; zero: nothing is remembered
	Count uint64     // of its commits
	Block addr.Block // the highest that this host leased
}

// Witness returns what PutWitness wrote last.
func (d *Datapath) Witness() (Witness, error) {
	var w bpf.DatapathWitness
	if err := d.objects.Witness.Lookup(uint32(0), &w); err != nil {
		return Witness{}, fmt.Errorf("read the witness: %w", err)
	}
	return Witness{ID: w.Id, Count: w.Count, Block: addr.Block(w.Block)}, nil
}

// PutWitness has the kernel remember w.
func (d *Datapath) PutWitness(w Witness) error {
	entry := bpf.DatapathWitness{Id: w.ID, Count: w.Count, Block: uint32(w.Block)}
	if err := d.objects.Witness.Update(uint32(0), &entry, ebpf.UpdateAny); err != nil {
		return fmt.Errorf("write the witness: %w", err)
	}
	return nil
}
