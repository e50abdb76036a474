package audit

import (
	"context"
	"maps"
	"math/rand/v2"
	"time"
)

// Summary is what the last audit in the background came to. The zero Summary: there was none yet.
type Summary struct {
	Time        time.Time // of its end
	Took        time.Duration
	Differences map[Kind]int
	Err         error // why it could not compare all
}

// Last returns the Summary of the last audit in the background.
func (a *Auditor) Last() Summary {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.last
	s.Differences = maps.Clone(s.Differences)
	return s
}

// Run checks every so often, until ctx ends; it returns ctx's error. Hosts that were started together do not list the store
// together. It tells of the differences when their number changes, and never repairs.
func (a *Auditor) Run(ctx context.Context, every time.Duration) error {
	for {
		if err := wait(ctx, every/2+rand.N(every)); err != nil {
			return err
		}
		if err := a.runOnce(ctx); err != nil {
			return err
		}
	}
}

func (a *Auditor) runOnce(ctx context.Context) error {
	began := a.Now()
	report, err := a.Check(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s := Summary{Time: a.Now(), Took: a.Now().Sub(began), Differences: report.Count(), Err: err}
	before := a.Last()
	a.mu.Lock()
	a.last = s
	a.mu.Unlock()
	switch {
	case err != nil:
		a.Logger.Warn("audit failed", "error", err)
	case maps.Equal(before.Differences, s.Differences):
	case len(s.Differences) == 0 && len(before.Differences) > 0:
		a.Logger.Info("the audit finds no difference any more")
	case len(s.Differences) > 0:
		a.Logger.Warn("the audit finds differences; `ip6d check` names them", "differences", s.Differences)
	}
	return nil
}

// Count is how many differences there are of each kind.
func (r Report) Count() map[Kind]int {
	counts := make(map[Kind]int)
	for _, d := range r.Differences {
		counts[d.Kind]++
	}
	return counts
}

// Faults is how many differences are more than information.
func (r Report) Faults() (n int) {
	for _, d := range r.Differences {
		if d.Severity != Info {
			n++
		}
	}
	return n
}
