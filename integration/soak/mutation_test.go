package main

import (
	"testing"
	"time"

	"ip6d/integration/lab/labtest"
)

// mutations are changes that break the product so that a soak finds it soon.
var mutations = []struct {
	name string
	Mutation
}{
	{"no write is conditional", Mutation{"hwmap/etcd/commit.go", "for _, c := range t.If {", "for _, c := range t.If[:0] {"}},
	{"a switchover keeps the epoch", Mutation{"hwmap/switchover.go", "next.Host, next.Epoch = l.Peer, l.Epoch+1", "next.Host, next.Epoch = l.Peer, l.Epoch"}},
	{"an unknown outcome is taken for a failure", Mutation{"hwmap/switchover.go", "case first && errors.Is(err, ErrUnavailable):", "case first:"}},
	{"answers do not wait for the disk", Mutation{"hwmap/local.go", "_, err := m.Truth.Commit(context.WithoutCancel(ctx), Txn{Then: writes})", "var err error; go m.Truth.Commit(context.WithoutCancel(ctx), Txn{Then: writes})"}},
}

func TestASoakFindsWhatIsWrong(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel() // with the soak that must find nothing
	for _, m := range mutations {
		t.Run(m.name, func(t *testing.T) {
			o, err := optionsFromEnv()
			if err != nil {
				t.Fatal(err)
			}
			o.Seed, o.Time, o.NoOperator, o.Doubt, o.StopAtViolation, o.Dir = 1, 2*time.Minute, true, true, true, shortDir(t)
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
