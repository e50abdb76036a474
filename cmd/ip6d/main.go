// Command ip6d keeps the private IPv6 addresses of machines stable while they move between hosts. `ip6d serve` is the
// daemon of a host; the other commands talk to it over its unix socket, or need none.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends a command that does not heed the first.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
