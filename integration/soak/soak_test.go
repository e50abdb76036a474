package main

import (
	"encoding/json"
	"os"
	"testing"

	"ip6d/integration/lab/labtest"
)

// shortDir is a directory whose sockets' paths are not too long, as they would be in one that has the name of a test.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ip6d-soak-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestSoak(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	o, err := optionsFromEnv()
	if err != nil {
		t.Fatal(err)
	}
	o.Dir = shortDir(t)
	if o.Daemon, o.Failpoints, err = Build(o.Dir); err != nil {
		t.Fatal(err)
	}
	s := soakOnce(t, o)
	for _, v := range s.What {
		t.Errorf("%s: %s", v.Rule, v.Text)
	}
	for _, done := range []struct {
		what string
		n    int
	}{
		{"create", s.Operations[opCreate][done]},
		{"switchover", s.Operations[opSwitchover][committed]},
		{"destroy", s.Operations[opDestroy][done]},
		{"fault", total(s.Faults)},
		{"kill at a failpoint", total(s.Kills)},
		{"checked history", s.Histories - s.Undecided},
	} {
		if done.n == 0 {
			t.Errorf("there was no %s: the soak proves nothing", done.what)
		}
	}
}

func total(counts map[string]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// soakOnce runs a soak and tells what it came to.
func soakOnce(t *testing.T, o Options) Summary {
	t.Helper()
	o.Log = t.Output()
	t.Logf("SEED=%d SOAK_TIME=%v", o.Seed, o.Time)
	s, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	line, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", line)
	return s
}
