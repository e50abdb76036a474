package main

import "maps"

// Summary is what a soak came to, in one line of JSON.
type Summary struct {
	Seed       uint64                  `json:"seed"`
	Seconds    int                     `json:"seconds"` // of load
	Operations map[kind]map[result]int `json:"operations"`
	Faults     map[string]int          `json:"faults"`
	Kills      map[string]int          `json:"kills_by_failpoint"`
	Histories  int                     `json:"histories_checked"`
	Undecided  int                     `json:"histories_undecided"` // the search was given up
	Violations int                     `json:"violations"`

	What []violation `json:"-"`
}

func (s *soak) summary() Summary {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history.mu.Lock()
	defer s.history.mu.Unlock()
	what := s.rules.all()
	return Summary{
		Seed: s.Seed, Seconds: int(s.Time.Seconds()), Operations: maps.Clone(s.history.outcomes), Faults: maps.Clone(s.faultsByKind),
		Kills: maps.Clone(s.killsByFailpoint), Histories: s.history.checked, Undecided: s.history.undecided, Violations: len(what), What: what,
	}
}
