// Package labtest is what the tests that make labs, or parts of one, have in common.
package labtest

import (
	"fmt"
	"net"
	"os"
	"testing"
)

// RequireRoot skips a test that is not run by root, and fails it where all tests must run.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	const why = "needs root, for network namespaces and BPF"
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// names is how many test runs may be at work on one computer at the same time.
const names = 10

// ClaimName returns a name for a lab that no other process on this computer has claimed, until release or the end of this
// process. They are few, so that a later run finds what a crashed one left, and removes it.
func ClaimName(prefix string) (name string, release func() error, err error) {
	for n := range names {
		name = fmt.Sprintf("%s-%d", prefix, n)
		// An abstract socket (unix(7)) is gone when its process is, and leaves no file.
		var l net.Listener
		if l, err = net.Listen("unix", "@"+name); err == nil {
			return name, l.Close, nil
		}
	}
	return "", nil, fmt.Errorf("claim a name for a lab: those up to %s are taken: %w", name, err)
}
