package main

import (
	"strings"
	"testing"
)

func TestALabsWrongCommandLinesAreUsageErrors(t *testing.T) {
	for _, c := range []struct {
		line, says string
	}{
		{"lab", "ip6d lab needs a command: demo, down, up"},
		{"lab move", `unknown command "move"`},
		{"lab up --hosts 0", "--hosts 0: must be 1 to 32"},
		{"lab up --hosts 33", "--hosts 33: must be 1 to 32"},
		{"lab up --hosts many", `invalid argument "many"`},
		{"lab up --underlay vxlan", "--underlay vxlan: must be device or wireguard"},
		{"lab demo --hosts 2", "--hosts 2: must be 3 to 32"}, // away, next to its peer, home
		{"lab demo now", `unknown command "now"`},
	} {
		got := runLine(t, "", strings.Fields(c.line)...)
		if got.status != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, c.says) {
			t.Errorf("ip6d %s: %+v, want status %d and %q", c.line, got, exitUsage, c.says)
		}
		checkOneLine(t, got)
	}
}
