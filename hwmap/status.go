package hwmap

import (
	"slices"
	"time"

	"ip6d/addr"
)

// Status is the state of a Map.
type Status struct {
	Self      Host
	Following bool     // the fleet's store is being watched
	Revision  Revision // of the store, that the kernel's maps reflect
	StoreErr  error    // why it is not followed
	// While it is not: since when, or zero where it never was. What happened in the store since then this host does not know.
	// After a restart it may be earlier than that: when the daemon before heard of the last change.
	StaleSince time.Time
	Machines   map[LocalState]int
	InDoubt    []string // names of machines
	Fenced     bool     // this host was declared dead, and carries nothing
	IDsFree    int      // in this host's blocks

	StoreSuspect string      // why the fleet's store is not believed; empty: it is
	Pending      []addr.Host // since it was accepted: hosts that have not published their records again

	DatabaseSuspect string    // why this host's database is not believed; empty: it is
	Unknown         []addr.ID // what the kernel has and a suspect database does not know

	HintsSent   uint64 // that other hosts took: what they know of a machine may be old
	HintsHeeded uint64 // of other hosts, upon which a record was read
}

// Status returns the state of the map now.
func (m *Map) Status() Status {
	var unknown []addr.ID
	if m.trusted() != nil {
		strays, err := m.strayMachines()
		if err != nil {
			m.Logger.Error("kernel's maps not read", "error", err)
		}
		for _, e := range strays {
			unknown = append(unknown, e.ID)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s := Status{
		Self: m.Self, Following: m.fleet.following, Revision: m.fleet.revision, StoreErr: m.fleet.err,
		Machines: make(map[LocalState]int), IDsFree: m.allocator.Free(),
		StoreSuspect: m.fleet.suspect, Pending: slices.Clone(m.fleet.pending),
		DatabaseSuspect: m.database.Suspect, Unknown: unknown,
		HintsSent: m.hintsSent.Load(), HintsHeeded: m.hintsHeeded.Load(),
	}
	if !s.Following {
		s.StaleSince = m.fleet.heard
	}
	s.Self.State, s.Fenced = m.state, m.fence.is.Fenced
	for _, l := range m.local {
		if !l.holdsName() && l.State != Quarantined {
			continue
		}
		s.Machines[l.State]++
		if l.State == Switching {
			s.InDoubt = append(s.InDoubt, l.Name)
		}
	}
	slices.Sort(s.InDoubt)
	return s
}
