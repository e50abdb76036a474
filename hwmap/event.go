package hwmap

import (
	"context"
	"time"

	"ip6d/addr"
)

// EventKind is what happened.
type EventKind string

const (
	EventCreated     EventKind = "created"
	EventAttached    EventKind = "attached"
	EventDetached    EventKind = "detached"
	EventLeaving     EventKind = "leaving"     // a migration away from here has begun
	EventSwitching   EventKind = "switching"   // a switchover has begun
	EventUndone      EventKind = "undone"      // the switchover could not be, and the migration goes on; or the destroying, and the machine is here
	EventAborted     EventKind = "aborted"     // a migration was called off, or lost; the machine stays here
	EventAway        EventKind = "away"        // it has moved away
	EventFinished    EventKind = "finished"    // nothing of it is left here
	EventIncoming    EventKind = "incoming"    // accepted as the target of its migration
	EventArrived     EventKind = "arrived"     // it has moved here
	EventWithdrawn   EventKind = "withdrawn"   // it does not come
	EventDestroying  EventKind = "destroying"  // it ends here, away from home; destroyed follows
	EventDestroyed   EventKind = "destroyed"   // here
	EventQuarantined EventKind = "quarantined" // it was destroyed on another host, and this one is its home
	EventFreed       EventKind = "freed"       // its id can be issued again
	EventHost        EventKind = "host"        // a host of the fleet has another state

	// EventPresent is nothing that happened: a machine or a host as it is when a watch with a snapshot begins.
	EventPresent EventKind = "present"

	// eventAnswered is in the history alone: a request that found done what it asks for. See request.go.
	eventAnswered EventKind = "answered"
)

// HostRemoved is the state, in an event, of a host whose record has gone.
const HostRemoved HostState = "removed"

// Event is what happened to one machine on this host, or to a host of the fleet.
type Event struct {
	Seq  uint64    `json:"-"` // it is in the key
	Time time.Time `json:"time"`
	Kind EventKind `json:"kind"`

	// Of a machine.
	Machine  addr.Machine `json:"machine,omitempty"`
	Name     string       `json:"name,omitempty"` // empty: an id without a machine
	Network  addr.Network `json:"network,omitempty"`
	Epoch    uint64       `json:"epoch,omitempty"`
	From     LocalState   `json:"from,omitempty"` // empty: this host had nothing to do with it
	To       LocalState   `json:"to,omitempty"`   // empty: it has nothing to do with it any more
	Peer     addr.Host    `json:"peer,omitempty"` // the other host of a migration
	Port     *LocalPort   `json:"port,omitempty"` // where Kind, or a request, is about it
	Requests []Request    `json:"requests,omitempty"`

	// Of a host.
	Host      addr.Host `json:"host,omitempty"`
	HostState HostState `json:"host_state,omitempty"`
}

// kind is what happened when a machine that was before became l; empty: nothing worth telling.
func (l Local) kind(before Local) EventKind {
	if before.State == l.State {
		switch was, is := before.Port.made(), l.Port.made(); {
		case is && !was:
			return EventAttached
		case was && !is:
			return EventDetached
		}
		return ""
	}
	switch l.State {
	case Here:
		switch before.State {
		case Incoming, Issued:
			return EventArrived
		case Leaving, Switching:
			return EventAborted
		case Destroying:
			return EventUndone
		}
		return EventCreated
	case Destroying:
		return EventDestroying
	case Leaving:
		if before.State == Switching {
			return EventUndone
		}
		return EventLeaving
	case Switching:
		return EventSwitching
	case Away:
		return EventAway
	case Incoming:
		return EventIncoming
	case Free:
		return EventFreed
	case Quarantined:
		if before.State == Here || before.State == Destroying {
			return EventDestroyed
		}
		return EventQuarantined
	}
	switch before.State { // this host is its home, at most
	case Incoming:
		return EventWithdrawn
	case Here, Leaving, Switching, Away:
		return EventFinished
	}
	return ""
}

// made reports whether there is a port, and it is not only about to be made.
func (p *LocalPort) made() bool { return p != nil && p.MAC != "" }

// event is what happens when a machine that was before becomes l; nil: nothing worth telling. It also returns the requests
// that l is to remember.
func (m *Map) event(ctx context.Context, kind EventKind, before, l Local) (*Event, []Request) {
	requests, kept := m.requestsOf(ctx, before, l, kind)
	if kind == "" {
		return nil, kept
	}
	e := &Event{
		Time: m.Now().UTC(), Kind: kind, Machine: l.Machine, Name: l.Name, Network: l.Network, Epoch: l.Epoch,
		From: before.State, To: l.State, Peer: l.Peer, Requests: requests,
	}
	if e.Name == "" {
		e.Name, e.Network = before.Name, before.Network
	}
	if e.Epoch == 0 {
		e.Epoch = before.Epoch
	}
	switch {
	case l.State == Here && l.From != 0:
		e.Peer = l.From
	case e.Peer == 0:
		e.Peer = before.Peer
	}
	if kind == EventAttached || len(requests) > 0 {
		e.Port = l.Port
	}
	return e, kept
}
