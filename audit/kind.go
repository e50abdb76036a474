package audit

import (
	"maps"
	"slices"
)

// Kind names what is wrong. Programs and metrics know differences by it, so a kind never changes its name or its meaning.
type Kind string

// Severity says how bad a difference is.
type Severity string

const (
	Error   Severity = "error"   // packets are lost or go astray, or an id may be issued twice
	Warning Severity = "warning" // nothing is lost now; it may be after a restart, a move or another failure
	Info    Severity = "info"    // no fault: something that stands, and somebody should know of
)

// severities are in order, the worst first.
var severities = []Severity{Error, Warning, Info}

// This host's own machines: truth, memory and the kernel's `machines` map.
const (
	TruthDiffers Kind = "truth_differs"
	EntryMissing Kind = "entry_missing"
	EntryDiffers Kind = "entry_differs"
	EntryStray   Kind = "entry_stray"
)

// The fleet's map: store, view, cache, and the kernel's `moved`, `blocks`, `dead` and `fence`.
const (
	StoreUnreachable  Kind = "store_unreachable"
	StoreNotFollowed  Kind = "store_not_followed"
	ViewDiffers       Kind = "view_differs"
	CacheDiffers      Kind = "cache_differs"
	MovedMissing      Kind = "moved_missing"
	MovedDiffers      Kind = "moved_differs"
	MovedStray        Kind = "moved_stray"
	BlockMissing      Kind = "block_missing"
	BlockDiffers      Kind = "block_differs"
	BlockStray        Kind = "block_stray"
	BlockCountDiffers Kind = "block_count_differs"
	DeadMissing       Kind = "dead_missing"
	DeadStray         Kind = "dead_stray"
	FenceDiffers      Kind = "fence_differs"
)

// Records of the store, by themselves and against this host's truth.
const (
	RecordMalformed     Kind = "record_malformed"
	OwnerUnknown        Kind = "owner_unknown"
	OwnerDead           Kind = "owner_dead"
	TargetUnknown       Kind = "target_unknown"
	HomeUnknown         Kind = "home_unknown"
	HomeDead            Kind = "home_dead"
	BlockUnrecorded     Kind = "block_unrecorded"
	BlockUnpublished    Kind = "block_unpublished"
	BlockFrozen         Kind = "block_frozen"
	MachineUnrecorded   Kind = "machine_unrecorded"
	MachineDisputed     Kind = "machine_disputed"
	MachineNotHere      Kind = "machine_not_here"
	RecordDiffers       Kind = "record_differs"
	IssuedUnrecorded    Kind = "issued_unrecorded"
	IssuedUnknown       Kind = "issued_unknown"
	DestroyUnfinished   Kind = "destroy_unfinished"
	IDInUse             Kind = "id_in_use"
	IncomingUninvited   Kind = "incoming_uninvited"
	InDoubt             Kind = "in_doubt"
	MigrationStands     Kind = "migration_stands"
	AppliedStale        Kind = "applied_stale"
	AliveUnknown        Kind = "alive_unknown"
	TwoOwners           Kind = "two_owners"             // with other hosts' answers
	OwnerDoesNotHave    Kind = "owner_does_not_have"    // the same
	DestroyedUnknown    Kind = "destroyed_unknown"      // the same
	EpochOfOwnerDiffers Kind = "epoch_of_owner_differs" // the same
)

// Ports: devices, namespaces, programs.
const (
	PortGone          Kind = "port_gone"
	PortRenamed       Kind = "port_renamed"
	PortDown          Kind = "port_down"
	PortMACDiffers    Kind = "port_mac_differs"
	PortMTUDiffers    Kind = "port_mtu_differs"
	PortEntryDiffers  Kind = "port_entry_differs"
	PortStray         Kind = "port_stray"
	PortPeerElsewhere Kind = "port_peer_elsewhere"
	NamespaceGone     Kind = "namespace_gone"
	IdentityDiffers   Kind = "identity_differs"
	IdentityStray     Kind = "identity_stray"
	ProgramMissing    Kind = "program_missing"
	ProgramTwice      Kind = "program_twice"
	ProgramOld        Kind = "program_old"
	ProgramStray      Kind = "program_stray"
	PinMissing        Kind = "pin_missing"
	PinDiffers        Kind = "pin_differs"
)

// The ways to other hosts.
const (
	UnderlayMissing      Kind = "underlay_missing"
	StackMissing         Kind = "stack_missing"
	RouteMissing         Kind = "route_missing"
	RouteDiffers         Kind = "route_differs"
	RouteStray           Kind = "route_stray"
	NeighbourMissing     Kind = "neighbour_missing"
	NeighbourUnreachable Kind = "neighbour_unreachable"
	NeighbourStray       Kind = "neighbour_stray"
	NextHopMissing       Kind = "next_hop_missing"
	NextHopDiffers       Kind = "next_hop_differs"
	NextHopStray         Kind = "next_hop_stray"
	MeshPeerMissing      Kind = "mesh_peer_missing"
	MeshPeerDiffers      Kind = "mesh_peer_differs"
	MeshPeerStray        Kind = "mesh_peer_stray"
)

// Kinds returns all kinds, in order.
func Kinds() []Kind { return slices.Sorted(maps.Keys(meanings)) }

// Known reports whether there is such a kind.
func (k Kind) Known() bool { _, ok := meanings[k]; return ok }
