package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ip6d/addr"
)

// Source is a part of the daemon that can say what differs in its own matters.
type Source interface {
	// Look compares. only nil: everything, at little cost to others, so that some of it may be on its way. Else it looks
	// closely at these objects, and may tell of others too.
	Look(ctx context.Context, only []Object) ([]Difference, error)

	// Mend repairs a difference of this Source, if it is still as d says. Errors: ErrChanged, ErrOperator where it is not
	// this Source's to repair.
	Mend(ctx context.Context, d Difference) error
}

// Options are the settings and surroundings of an Auditor. Sources are needed.
type Options struct {
	Version string
	Host    addr.Host
	Cluster string // empty: standalone

	Sources []Source

	// Fleet compares what all hosts say, and returns those that did not answer. nil: there is no fleet.
	Fleet func(context.Context) ([]Difference, []Unanswered, error)

	// About says what the report was made from. May be nil.
	About func() (revision int64, store string)

	// Pauses are how long to wait before each further look at what seems to differ: what is only on its way has arrived by
	// then. nil: half a second, one and two.
	Pauses []time.Duration

	Now    func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default()
}

// Auditor compares the layers of one host.
type Auditor struct {
	Options

	working sync.Mutex // held by who looks or mends: two at once would cost twice, and know no more

	mu    sync.Mutex // guards what follows
	first map[same]time.Time
	last  Summary
}

// NewAuditor returns an Auditor.
func NewAuditor(o Options) *Auditor {
	if o.Pauses == nil {
		o.Pauses = []time.Duration{time.Second / 2, time.Second, 2 * time.Second}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Auditor{Options: o}
}

// Report is what an audit found on one host.
type Report struct {
	Version  string    `json:"version"`
	Host     addr.Host `json:"host"`
	Cluster  string    `json:"cluster,omitempty"` // empty: standalone
	Time     time.Time `json:"time"`
	Revision int64     `json:"revision"` // of the store, that this host's maps reflect
	Store    string    `json:"store"`    // whether it was compared with

	Differences []Difference `json:"differences"` // the worst first
	Errors      []string     `json:"errors"`      // what could not be compared
	Unanswered  []Unanswered `json:"unanswered"`  // hosts that were asked and did not answer
}

// Unanswered is a host that did not answer.
type Unanswered struct {
	Host addr.Host `json:"host"`
	Why  string    `json:"why"`
}

// Check compares everything. What is only on its way, as while machines move, it leaves out: a difference counts when it
// stands through several looks, unchanged, the later ones under the lock of its machine.
func (a *Auditor) Check(ctx context.Context) (Report, error) {
	a.working.Lock()
	defer a.working.Unlock()
	return a.check(ctx)
}

func (a *Auditor) check(ctx context.Context) (Report, error) {
	r := Report{Version: a.Version, Host: a.Host, Cluster: a.Cluster, Time: a.Now(), Differences: []Difference{}, Errors: []string{}, Unanswered: []Unanswered{}}
	if a.About != nil {
		r.Revision, r.Store = a.About()
	}
	found, err := a.look(ctx, nil)
	for _, pause := range a.Pauses {
		if len(found) == 0 || ctx.Err() != nil {
			break
		}
		if err := wait(ctx, pause); err != nil {
			return r, err
		}
		var again []Difference
		again, err = a.look(ctx, objects(found))
		found = both(again, found)
	}
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err != nil {
		r.Errors = append(r.Errors, err.Error())
	}
	a.remember(found)
	found = slices.DeleteFunc(found, func(d Difference) bool { return d.Kind == MigrationStands && a.Now().Sub(d.Since) < standing })
	sortDifferences(found)
	r.Differences = append(r.Differences, found...)
	return r, nil
}

// CheckFleet is Check, and compares what the other hosts say, too.
func (a *Auditor) CheckFleet(ctx context.Context) (Report, error) {
	a.working.Lock()
	defer a.working.Unlock()
	r, err := a.check(ctx)
	if err != nil || a.Fleet == nil {
		return r, err
	}
	found, unanswered, err := a.Fleet(ctx)
	for _, pause := range a.Pauses {
		if len(found) == 0 || err != nil {
			break
		}
		if err := wait(ctx, pause); err != nil {
			return r, err
		}
		var again []Difference
		again, unanswered, err = a.Fleet(ctx)
		found = both(again, found)
	}
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if err != nil {
		r.Errors = append(r.Errors, err.Error())
	}
	for i := range found {
		found[i].Since = a.Now()
	}
	r.Differences = append(r.Differences, found...)
	r.Unanswered = append(r.Unanswered, unanswered...)
	sortDifferences(r.Differences)
	return r, nil
}

// look asks all sources. What one of them could not compare is in the error; the others are heard all the same.
func (a *Auditor) look(ctx context.Context, only []Object) (all []Difference, err error) {
	var errs []error
	for _, s := range a.Sources {
		found, err := s.Look(ctx, only)
		all, errs = append(all, found...), append(errs, err)
	}
	return withoutConsequences(all), errors.Join(errs...)
}

// withoutConsequences takes out what follows from another difference.
func withoutConsequences(all []Difference) []Difference {
	tampered := make(map[uint32]bool) // blocks of whose machines entries are missing, or too many
	for _, d := range all {
		switch d.Kind {
		case EntryMissing, EntryStray, MovedMissing, MovedStray:
			if n, ok := d.Object.Number(MachineObject); ok {
				tampered[uint32(addr.Machine(n).Block())] = true
			}
		}
	}
	return slices.DeleteFunc(all, func(d Difference) bool {
		block, ok := d.Object.Number(BlockObject)
		return d.Kind == BlockCountDiffers && ok && tampered[block]
	})
}

func objects(all []Difference) []Object {
	seen := make(map[Object]bool)
	var some []Object
	for _, d := range all {
		if !seen[d.Object] {
			seen[d.Object] = true
			some = append(some, d.Object)
		}
	}
	return some
}

// both returns those of now that were the same before.
func both(now, before []Difference) []Difference {
	seen := make(map[same]bool, len(before))
	for _, d := range before {
		seen[d.same()] = true
	}
	return slices.DeleteFunc(now, func(d Difference) bool { return !seen[d.same()] })
}

// standing is how long a migration takes that is not forgotten: the orchestrator stops, copies and starts a machine meanwhile.
// An Auditor knows of it since it has seen it first.
const standing = 10 * time.Minute

// remember keeps since when each difference stands.
func (a *Auditor) remember(found []Difference) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.first
	a.first = make(map[same]time.Time, len(found))
	for i := range found {
		since, known := before[found[i].same()]
		if !known {
			since = a.Now()
		}
		a.first[found[i].same()] = since
		if found[i].Since.IsZero() {
			found[i].Since = since
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Repaired is what became of one difference of a report.
type Repaired struct {
	Kind    Kind    `json:"kind"`
	Object  Object  `json:"object"`
	Outcome Outcome `json:"outcome"`
	Text    string  `json:"text"` // what was done, or why not
}

// Outcome is what became of a difference that was to be repaired.
type Outcome string

const (
	Mended   Outcome = "repaired"
	WouldBe  Outcome = "would be repaired" // in a dry run
	Gone     Outcome = "gone"              // it does not differ any more
	Changed  Outcome = "changed"           // it differs in another way than was reported
	Operator Outcome = "not repairable"    // an operator has to decide
	Failed   Outcome = "failed"
)

// Repair mends what r reported and has not changed since, of these kinds; none: of all. It says of each difference what
// became of it. Errors: ErrForeign, those of ctx.
func (a *Auditor) Repair(ctx context.Context, r Report, kinds []Kind, dry bool) ([]Repaired, error) {
	if r.Host != a.Host || r.Cluster != a.Cluster {
		return nil, fmt.Errorf("%w: it is of host %d of cluster %q, this is host %d of cluster %q; repair on the host that it is of", ErrForeign, r.Host, r.Cluster, a.Host, a.Cluster)
	}
	if r.Version != a.Version {
		return nil, fmt.Errorf("%w: it was made by version %q, this is %q; check again", ErrForeign, r.Version, a.Version)
	}
	a.working.Lock()
	defer a.working.Unlock()
	results := []Repaired{}
	for _, d := range r.Differences {
		if len(kinds) > 0 && !slices.Contains(kinds, d.Kind) {
			continue
		}
		outcome, text := a.repair(ctx, d, dry)
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		if outcome == Mended || outcome == Failed {
			a.Logger.Info("repair of what an audit found", "kind", d.Kind, "object", d.Object, "outcome", outcome, "text", text)
		}
		results = append(results, Repaired{d.Kind, d.Object, outcome, text})
	}
	return results, nil
}

func (a *Auditor) repair(ctx context.Context, d Difference, dry bool) (Outcome, string) {
	meaning, known := meanings[d.Kind]
	if !known {
		return Operator, "this version knows no such kind"
	}
	if !meaning.repairable {
		return Operator, meaning.remedy
	}
	source, now, err := a.find(ctx, d)
	switch {
	case err != nil:
		return Failed, err.Error()
	case source == nil:
		return Gone, "it does not differ any more"
	case now.Fingerprint != d.Fingerprint:
		return Changed, "it is not as it was reported: " + now.Text() + "; check again"
	case dry:
		return WouldBe, now.Text()
	}
	err = source.Mend(ctx, now)
	switch {
	case errors.Is(err, ErrChanged):
		return Changed, err.Error() + "; check again"
	case errors.Is(err, ErrOperator):
		return Operator, err.Error()
	case err != nil:
		return Failed, err.Error()
	}
	source, after, err := a.find(ctx, d)
	switch {
	case err != nil:
		return Failed, "repaired, but it could not be looked at: " + err.Error()
	case source != nil:
		return Failed, "it still differs: " + after.Text()
	}
	return Mended, "it was " + now.Text()
}

// find looks for the difference as it is now, and the source that it is of; nil: there is none any more.
func (a *Auditor) find(ctx context.Context, d Difference) (Source, Difference, error) {
	var errs []error
	for _, s := range a.Sources {
		found, err := s.Look(ctx, []Object{d.Object})
		errs = append(errs, err)
		for _, f := range found {
			if f.Kind == d.Kind && f.Object == d.Object {
				return s, f, nil
			}
		}
	}
	return nil, Difference{}, errors.Join(errs...)
}

// Text is what the layers say, on one line.
func (d Difference) Text() string {
	var text string
	for i, s := range d.Said {
		if i > 0 {
			text += "; "
		}
		text += s.Layer + ": " + s.Says
	}
	return text
}
