package hwmap

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"ip6d/addr"
)

// FormatVersion is the version of the records in the fleet's store that this code writes.
const FormatVersion = 1

// Meta is the record about the fleet's store itself. A daemon that disagrees with it writes nothing.
type Meta struct {
	Version       int          `json:"version"`
	MinimumReader int          `json:"minimum_reader"` // the lowest FormatVersion that can read the records
	Stable        netip.Prefix `json:"stable"`
	Routing       netip.Prefix `json:"routing"`
	Cell          addr.Cell    `json:"cell"`
	FirstHost     addr.Host    `json:"first_host"` // host ids of this cell, so that they stay unique when cells are joined
	LastHost      addr.Host    `json:"last_host"`

	// Which store these records are of. A daemon of before that writes none of them.
	Store      string `json:"store,omitempty"`      // its id
	Generation uint64 `json:"generation,omitempty"` // grows by one each time an operator accepts a store that was restored
	Suspect    string `json:"suspect,omitempty"`    // why a host finds that it was restored, until an operator accepts it
}

// firstGeneration is that of a store that never was accepted.
const firstGeneration = 1

// HostState is what may be done with a host.
type HostState string

const (
	Joined   HostState = "joined"   // takes machines
	Cordoned HostState = "cordoned" // takes no new machines: none is created there, none moves there, and it leases no block
	Draining HostState = "draining" // cordoned, and being emptied: its machines move away, then its blocks are handed over
	Removing HostState = "removing" // cordoned, and goes from the fleet once nothing points at it
	Dead     HostState = "dead"     // lost, on an operator's word: other hosts may take its machines and blocks, and refuse its packets
)

// Host is the record of a server that runs ip6d.
type Host struct {
	ID       addr.Host      `json:"host"`
	Name     string         `json:"name"`
	Identity string         `json:"identity"` // what the id is claimed with
	Underlay netip.Addr     `json:"underlay,omitzero"`
	Peer     netip.AddrPort `json:"peer,omitzero"` // where its daemon answers the other hosts
	State    HostState      `json:"state"`
	Fenced   bool           `json:"fenced,omitempty"` // dead, and it carries nothing since, as it says itself

	// PeerKey is the fingerprint of the key by which its daemon and the others' know each other: the SHA-256 of the public
	// key, in hexadecimal. Empty: a daemon of before that wrote it, and is spoken with without TLS.
	PeerKey string `json:"peer_key,omitempty"`

	// Where the underlay is WireGuard; a daemon of before that writes neither.
	WireGuardKey string         `json:"wireguard_key,omitempty"` // public, in base64
	Endpoint     netip.AddrPort `json:"endpoint,omitzero"`       // where it listens
}

// Block is the record of a block's lease.
type Block struct {
	Block      addr.Block `json:"block"`
	Home       addr.Host  `json:"home"`
	Epoch      uint64     `json:"epoch"`
	EpochFloor uint64     `json:"epoch_floor,omitempty"` // ids of the block start above it
	Frozen     bool       `json:"frozen,omitempty"`      // nothing is issued from it
	// Of a block that was adopted, until it is unfrozen: the dead host whose it was. What has no record of its own is that host's.
	AdoptedFrom addr.Host `json:"adopted_from,omitempty"`
	IssueAfter  time.Time `json:"issue_after,omitzero"` // nothing is issued from it before: a quarantine of all its ids
}

// Machine is the record of a machine that has ever moved.
type Machine struct {
	Machine   addr.Machine `json:"machine"`
	Name      string       `json:"name"`
	Network   addr.Network `json:"network"`
	Host      addr.Host    `json:"host"` // the owner
	MovingTo  addr.Host    `json:"moving_to,omitempty"`
	Epoch     uint64       `json:"epoch"`
	Destroyed bool         `json:"destroyed,omitempty"`

	OnFirstPacket bool `json:"on_first_packet,omitempty"` // of the migration to MovingTo: see activate.go
}

// LocalState is what a host has to do with a machine, in its own truth.
type LocalState string

const (
	Here        LocalState = "here"        // it is on this host
	Leaving     LocalState = "leaving"     // here, and moving_to is about to be or has been recorded
	Switching   LocalState = "switching"   // a switchover has begun; in doubt until its outcome is read
	Away        LocalState = "away"        // it has left; this host forwards until finish
	Incoming    LocalState = "incoming"    // accepted; another host owns it
	Destroying  LocalState = "destroying"  // it ends here, away from home, and its record is to say so; it is never here again
	Issued      LocalState = "issued"      // issued from a block of this home, now on another host
	Quarantined LocalState = "quarantined" // destroyed; the id is free after Until
	Free        LocalState = "free"        // no machine; kept for the last epoch of the id, for ever
)

// Local is the truth about one machine id on this host.
type Local struct {
	Machine  addr.Machine `json:"machine"`
	Name     string       `json:"name,omitempty"`
	Network  addr.Network `json:"network,omitempty"`
	Epoch    uint64       `json:"epoch"` // of the ownership that State is about; Free and Quarantined: the last one
	State    LocalState   `json:"state"`
	Peer     addr.Host    `json:"peer,omitempty"`     // Leaving, Switching, Away: the target. Incoming: the owner
	From     addr.Host    `json:"from,omitempty"`     // Here: where it came from, until it is to leave
	Silenced bool         `json:"silenced,omitempty"` // Here, Leaving, Switching: it carries nothing, for nobody knows whose it is; see fence.go
	Claiming bool         `json:"claiming,omitempty"` // Incoming: it is not the owner that hands it over; an operator said that he is dead
	Port     *LocalPort   `json:"port,omitempty"`     // nil: not attached

	// Leaving, Switching, Incoming: what the machine sends first on the target has the switchover done; see activate.go.
	OnFirstPacket bool `json:"on_first_packet,omitempty"`

	Revision Revision  `json:"revision,omitempty"` // Away: of the transaction that made the target the owner
	Until    time.Time `json:"until,omitzero"`     // Quarantined
	Requests []Request `json:"requests,omitempty"` // of calls that may come to their end without their caller; see request.go
}

// LocalPort is the truth about a machine's port. While the port is being made, it has neither MAC nor MTU.
type LocalPort struct {
	PortSpec
	Device string `json:"device"` // its name on the host
	MAC    string `json:"mac,omitempty"`
	MTU    int    `json:"mtu,omitempty"`
}

// PortSpec is what the orchestrator asked for.
type PortSpec struct {
	Netns        string `json:"netns,omitempty"`        // path of the machine's namespace: a veth pair is made for it
	GuestDevice  string `json:"guest_device,omitempty"` // the name of its end there
	Unconfigured bool   `json:"unconfigured,omitempty"` // its end gets no address and no route
	Existing     string `json:"existing,omitempty"`     // instead: an existing device on the host
	GuestMAC     string `json:"guest_mac,omitempty"`    // empty: derived from the machine's number
}

func encode(record any) []byte {
	b, err := json.Marshal(record)
	if err != nil {
		panic(err) // the records above hold nothing that can fail
	}
	return b
}

// decode reads the record of e. A field that this version does not know is left alone: a newer daemon wrote it.
func decode[T any](e Entry) (T, error) {
	var record T
	if m, ok := any(&record).(*Machine); ok {
		if m.scan(e.Value) {
			return record, nil
		}
		*m = Machine{}
	}
	if err := json.Unmarshal(e.Value, &record); err != nil {
		return record, fmt.Errorf("%w: %s at revision %d: %v", errMalformed, e.Key, e.ModRevision, err)
	}
	return record, nil
}
