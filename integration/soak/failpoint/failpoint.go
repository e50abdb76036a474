// Package failpoint makes gofail's failpoints deadly: where gofail would panic, which a server may survive, the process ends
// by SIGKILL, as it would at any other moment. Only the soak's build of the daemon has failpoints; see Build.
package failpoint

import (
	"fmt"
	"os"
	"syscall"
	"time"

	gofail "go.etcd.io/gofail/runtime"
)

// Failpoint is a place in the source marked by "// gofail: var NAME struct{}".
type Failpoint struct {
	name string
	*gofail.Failpoint
}

// New registers a failpoint. gofail arms it as the environment says, in GOFAIL_FAILPOINTS.
func New(name string) *Failpoint { return &Failpoint{name, gofail.NewFailpoint(name)} }

// Acquire is what the code that gofail makes of the mark calls.
func (f *Failpoint) Acquire() (any, error) {
	defer func() {
		if recover() != nil {
			Die(f.name)
		}
	}()
	return f.Failpoint.Acquire()
}

// Later does something after so many milliseconds.
func Later(milliseconds int, do func()) {
	time.AfterFunc(time.Duration(milliseconds)*time.Millisecond, do)
}

// Prefix begins what Die says.
const Prefix = "failpoint: "

// Die ends the process by SIGKILL, after saying where.
func Die(name string) {
	fmt.Fprintln(os.Stderr, Prefix+name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // it cannot fail: the process may signal itself
	select {}
}
