package nat

import (
	"net/netip"
	"time"

	"ip6d/addr"
)

// EventKind says what an Event is about.
type EventKind uint8

const (
	// EventDrop: a packet was refused.
	EventDrop EventKind = iota + 1
	// EventAstray: a host sent a packet here for a machine that is not here.
	EventAstray
	// EventSent: a machine sent something which was waited for; see AwaitPacket.
	EventSent
)

// Event is something that the programs saw. Not everything that happens makes one; see EventsLost.
type Event struct {
	Kind   EventKind
	Time   time.Time // some milliseconds early
	Reason string    // EventDrop: see enum drop_reason in bpf/ip6d.h
	Way    string    // by which it came, see enum way in bpf/ip6d.h: from_elsewhere for both guards of what leaves

	// As they were when the packet came; invalid where it is not IPv6, or could not be read.
	Source, Destination netip.Addr

	Ifindex    int         // of the device it came in by; from_elsewhere: of the one it was about to leave by
	Sender     addr.Stable // from_machine: whose port that device is; zero where it is nobody's by now
	Length     int         // of the frame, in bytes
	NextHeader uint8       // of the IPv6 header
	Host       addr.Host   // EventAstray: who sent it here; EventSent: this host
}

// EventsLost is how many events there were that nobody gets, since the maps were made.
type EventsLost struct {
	RingFull uint64 // nobody read them, or not fast enough
	Sampled  uint64 // of more drops for one reason, or packets astray, at once than are told of one by one
}
