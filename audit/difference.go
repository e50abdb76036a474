package audit

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"ip6d/addr"
)

// Object is what a difference is about.
type Object struct {
	Type ObjectType `json:"type"`
	ID   string     `json:"id"` // a number in decimal, a name, a prefix, a key
}

// ObjectType is what kind of thing an Object is.
type ObjectType string

const (
	MachineObject   ObjectType = "machine"
	BlockObject     ObjectType = "block"
	HostObject      ObjectType = "host"
	DeviceObject    ObjectType = "device"
	NamespaceObject ObjectType = "namespace"
	RouteObject     ObjectType = "route"
	NeighbourObject ObjectType = "neighbour"
	ProgramObject   ObjectType = "program" // PROGRAM@DEVICE
	PinObject       ObjectType = "pin"     // below bpf_dir
	KeyObject       ObjectType = "key"
	StoreObject     ObjectType = "store"
)

// Machine is a machine of this host's cell, by its number.
func Machine(m addr.Machine) Object { return numbered(MachineObject, uint32(m)) }

// Block is a block, by its number.
func Block(b addr.Block) Object { return numbered(BlockObject, uint32(b)) }

// Host is a host, by its id.
func Host(h addr.Host) Object { return numbered(HostObject, uint32(h)) }

// Device is a device of the host's namespace, by its name.
func Device(name string) Object { return Object{DeviceObject, name} }

// Named is an object of another type.
func Named(t ObjectType, id fmt.Stringer) Object { return Object{t, id.String()} }

func numbered(t ObjectType, n uint32) Object { return Object{t, strconv.FormatUint(uint64(n), 10)} }

// Number returns the number of an object that has one, and is of that type.
func (o Object) Number(t ObjectType) (uint32, bool) {
	n, err := strconv.ParseUint(o.ID, 10, 32)
	return uint32(n), o.Type == t && err == nil
}

func (o Object) String() string { return string(o.Type) + " " + o.ID }

// Said is what one layer says of an object.
type Said struct {
	Layer string `json:"layer"`
	Says  string `json:"says"` // "none" where it has nothing
}

// None is what a layer says that has nothing.
const None = "none"

// Difference is something that layers do not agree on.
type Difference struct {
	Kind   Kind   `json:"kind"`
	Object Object `json:"object"`

	// Of a machine, where they are known.
	Name    string `json:"name,omitempty"`
	Address string `json:"address,omitempty"` // stable

	Host addr.Host `json:"host,omitempty"` // that found it, where that is another than the one that reports

	Said  []Said    `json:"said"`           // no text in it changes while the state does not
	Since time.Time `json:"since,omitzero"` // since when at least, where that matters

	Severity    Severity `json:"severity"`
	Cause       string   `json:"cause"`  // the likely one
	Remedy      string   `json:"remedy"` // what to do
	Repairable  bool     `json:"repairable"`
	Fingerprint string   `json:"fingerprint"` // of the state that it was seen in
}

// New returns a difference with what its kind means. said is pairs of a layer and what it says.
func New(k Kind, o Object, said ...string) Difference {
	d := Difference{Kind: k, Object: o}
	for i := 0; i+1 < len(said); i += 2 {
		d.Said = append(d.Said, Said{said[i], cmp.Or(said[i+1], None)})
	}
	m := meanings[k]
	d.Severity, d.Cause, d.Remedy, d.Repairable = m.severity, m.cause, m.remedy, m.repairable
	text, _ := json.Marshal([]any{d.Kind, d.Object, d.Said}) // strings only: it cannot fail
	sum := sha256.Sum256(text)
	d.Fingerprint = hex.EncodeToString(sum[:8])
	return d
}

// same tells the same difference in the same state from every other.
type same struct {
	kind        Kind
	object      Object
	fingerprint string
}

func (d Difference) same() same { return same{d.Kind, d.Object, d.Fingerprint} }

// sortDifferences orders by severity, the worst first, then by kind and object.
func sortDifferences(all []Difference) {
	slices.SortFunc(all, func(a, b Difference) int {
		an, _ := a.Object.Number(a.Object.Type)
		bn, _ := b.Object.Number(b.Object.Type)
		return cmp.Or(
			cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity)),
			cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Object.Type, b.Object.Type),
			cmp.Compare(an, bn), cmp.Compare(a.Object.ID, b.Object.ID),
		)
	})
}
