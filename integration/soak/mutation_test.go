package main

import (
	"testing"
	"time"

	"ip6d/integration/lab/labtest"
)

// mutations are changes that break the product, each with a rule that a soak must then find violated.
var mutations = []struct {
	name string
	Mutation
}{
	{"no write is conditional", Mutation{"hwmap/etcd/commit.go", "for _, c := range t.If {", "for _, c := range t.If[:0] {"}},
	{"a switchover does not compare the record", Mutation{"hwmap/switchover.go", "If:   []Condition{s.unchanged(), {Key: target.Key", "If:   []Condition{{Key: target.Key"}},
	{"a switchover keeps the epoch", Mutation{"hwmap/switchover.go", "next.Host, next.Epoch = l.Peer, l.Epoch+1", "next.Host, next.Epoch = l.Peer, l.Epoch"}},
	{"a lower epoch wins", Mutation{"hwmap/publish.go", "case r == nil || r.Epoch < l.Epoch:", "case true:"}},
	{"an unknown outcome is taken for a failure", Mutation{"hwmap/switchover.go", "case first && errors.Is(err, ErrUnavailable):", "case first:"}},
	{"an abort undoes the flip before it has won", Mutation{"hwmap/migrate.go", "switch _, err := m.replace(ctx, s, &r); {\n\t\tcase errors.Is(err, ErrConflict): // a switchover", "switch _, err := r, error(nil); {\n\t\tcase errors.Is(err, ErrConflict): // a switchover"}},
	{"answers do not wait for the disk", Mutation{"hwmap/local.go", "if _, err := m.Truth.Commit(context.WithoutCancel(ctx), Txn{Then: writes}); err != nil {", "if err := error(nil); err != nil {"}},
	{"an id is issued again at once", Mutation{"hwmap/settle.go", "m.Now().Before(l.Until)", "false"}},
	{"an epoch begins again", Mutation{"hwmap/machine.go", "Epoch: last + 1}", "Epoch: min(last, 0) + 1}"}},
}

func TestASoakFindsWhatIsWrong(t *testing.T) {
	labtest.RequireRoot(t)
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			o, err := optionsFromEnv()
			if err != nil {
				t.Fatal(err)
			}
			o.Seed, o.StopAtViolation, o.Convergence, o.Dir = 1, true, 30*time.Second, t.TempDir()
			if o.Daemon, o.Failpoints, err = Build(o.Dir, m.Mutation); err != nil {
				t.Fatal(err)
			}
			s := soakOnce(t, o)
			if len(s.What) == 0 {
				t.Error("no rule was found violated")
			}
			for _, v := range s.What[:min(len(s.What), 3)] {
				t.Logf("as it must be: %s: %.300s", v.Rule, v.Text)
			}
		})
	}
}
