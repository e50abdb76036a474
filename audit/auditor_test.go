package audit_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/audit"
)

// source is a Source that says what a test tells it to, look after look: the last again and again.
type source struct {
	mu     sync.Mutex // guards all below
	looks  [][]audit.Difference
	asked  [][]audit.Object
	err    error
	mended []audit.Difference
	mend   error
}

func (s *source) Look(_ context.Context, only []audit.Object) ([]audit.Difference, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, only)
	now := s.looks[0]
	if len(s.looks) > 1 {
		s.looks = s.looks[1:]
	}
	return append([]audit.Difference{}, now...), s.err
}

func (s *source) Mend(_ context.Context, d audit.Difference) error {
	s.mended = append(s.mended, d)
	return s.mend
}

func newAuditor(sources ...audit.Source) *audit.Auditor {
	return audit.NewAuditor(audit.Options{Version: "v1", Host: 1, Cluster: "c", Sources: sources, Logger: slog.New(slog.DiscardHandler)})
}

func stray(host string) audit.Difference {
	return audit.New(audit.MovedStray, audit.Machine(7), "memory", "", "kernel's moved", host)
}

func TestWhatIsOnlyOnItsWayIsNotReported(t *testing.T) {
	missing := audit.New(audit.RouteMissing, audit.Object{Type: audit.RouteObject, ID: "a"}, "kernel", "")
	for name, c := range map[string]struct {
		looks [][]audit.Difference
		want  int
	}{
		"nothing":             {[][]audit.Difference{nil}, 0},
		"gone at once":        {[][]audit.Difference{{missing}, nil}, 0},
		"gone at last":        {[][]audit.Difference{{missing}, {missing}, {missing}, nil}, 0},
		"another each time":   {[][]audit.Difference{{stray("host 1")}, {stray("host 2")}, {stray("host 3")}, {stray("host 3")}}, 0},
		"it stands":           {[][]audit.Difference{{missing}}, 1},
		"one of two stands":   {[][]audit.Difference{{missing, stray("host 1")}, {missing}}, 1},
		"one that came later": {[][]audit.Difference{{missing}, {missing, stray("host 1")}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &source{looks: c.looks}
				r, err := newAuditor(s).Check(t.Context())
				if err != nil || len(r.Differences) != c.want {
					t.Errorf("it reports %v, %v, want %d differences", r.Differences, err, c.want)
				}
				if s.asked[0] != nil {
					t.Errorf("the first look is at %v, want all", s.asked[0])
				}
				for _, only := range s.asked[1:] {
					if only == nil {
						t.Error("a further look is at all")
					}
				}
			})
		})
	}
}

func TestACountThatFollowsFromATamperedEntryIsNotReportedBesideIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := func(block string) audit.Difference {
			return audit.New(audit.BlockCountDiffers, audit.Object{Type: audit.BlockObject, ID: block}, "entries", "1")
		}
		r, err := newAuditor(&source{looks: [][]audit.Difference{{stray("host 1"), count("0"), count("1")}}}).Check(t.Context())
		if err != nil || len(r.Differences) != 2 || r.Differences[0].Object.ID != "1" {
			t.Errorf("it reports %+v, %v, want the stray entry, and the count of block 1", r.Differences, err)
		}
	})
}

func TestAMigrationIsReportedWhenItHasStoodForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stands := audit.New(audit.MigrationStands, audit.Machine(7), "truth", "leaving")
		a := newAuditor(&source{looks: [][]audit.Difference{{stands}}})
		began := time.Now()
		count := func() int {
			t.Helper()
			r, err := a.Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Differences) > 0 && r.Differences[0].Since.Sub(began) > time.Minute {
				t.Errorf("it is said to stand since %v, it began at %v", r.Differences[0].Since, began)
			}
			return len(r.Differences)
		}
		if count() != 0 {
			t.Error("it is reported at once")
		}
		time.Sleep(5 * time.Minute)
		if count() != 0 {
			t.Error("it is reported after five minutes")
		}
		time.Sleep(10 * time.Minute)
		if count() != 1 {
			t.Error("it is not reported after a quarter of an hour")
		}
	})
}

func TestARepairSaysWhatBecameOfIt(t *testing.T) {
	gone := audit.New(audit.PortGone, audit.Device("a"), "device", "")
	report := func(d audit.Difference) audit.Report {
		return audit.Report{Version: "v1", Host: 1, Cluster: "c", Differences: []audit.Difference{d}}
	}
	for name, c := range map[string]struct {
		source *source
		d      audit.Difference
		dry    bool
		want   audit.Outcome
		mended int
	}{
		"repaired":        {&source{looks: [][]audit.Difference{{stray("host 1")}, nil}}, stray("host 1"), false, audit.Mended, 1},
		"dry":             {&source{looks: [][]audit.Difference{{stray("host 1")}}}, stray("host 1"), true, audit.WouldBe, 0},
		"gone":            {&source{looks: [][]audit.Difference{nil}}, stray("host 1"), false, audit.Gone, 0},
		"changed":         {&source{looks: [][]audit.Difference{{stray("host 2")}}}, stray("host 1"), false, audit.Changed, 0},
		"changed at last": {&source{looks: [][]audit.Difference{{stray("host 1")}}, mend: audit.ErrChanged}, stray("host 1"), false, audit.Changed, 1},
		"an operator's":   {&source{looks: [][]audit.Difference{{gone}}}, gone, false, audit.Operator, 0},
		"failed":          {&source{looks: [][]audit.Difference{{stray("host 1")}}, mend: errors.New("no")}, stray("host 1"), false, audit.Failed, 1},
		"in vain":         {&source{looks: [][]audit.Difference{{stray("host 1")}}}, stray("host 1"), false, audit.Failed, 1},
		"unknown":         {&source{looks: [][]audit.Difference{nil}}, audit.Difference{Kind: "new", Repairable: true}, false, audit.Operator, 0},
	} {
		done, err := newAuditor(c.source).Repair(t.Context(), report(c.d), nil, c.dry)
		if err != nil || len(done) != 1 || done[0].Outcome != c.want || len(c.source.mended) != c.mended {
			t.Errorf("%s: %+v, %v, mended %v; want %q", name, done, err, c.source.mended, c.want)
		}
	}
}

func TestTheAuditInTheBackgroundCountsByKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{looks: [][]audit.Difference{{stray("host 1")}}}
		a := newAuditor(s)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx, time.Minute) }()
		if !a.Last().Time.IsZero() {
			t.Error("it has run before its time")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		last := a.Last()
		if last.Differences[audit.MovedStray] != 1 || len(last.Differences) != 1 || last.Took <= 0 || last.Time.IsZero() {
			t.Errorf("it says %+v, want one moved_stray", last)
		}
		s.mu.Lock()
		s.looks = [][]audit.Difference{nil}
		s.mu.Unlock()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if last := a.Last(); len(last.Differences) != 0 {
			t.Errorf("then it says %+v, want none", last)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestEveryKindHasACauseAndARemedy(t *testing.T) {
	for _, k := range audit.Kinds() {
		d := audit.New(k, audit.Machine(1))
		if d.Cause == "" || d.Remedy == "" || d.Severity == "" || d.Repairable != (d.Remedy == "ip6d repair") {
			t.Errorf("%s: %+v", k, d)
		}
	}
}
