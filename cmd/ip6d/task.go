package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"ip6d/hwmap"
)

// task is a part of the daemon that runs until ctx ends. When one ends earlier, the daemon does.
type task interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{} // closed when it does what it is there for
	String() string         // what it is, in errors
}

// runTasks runs all tasks until ctx ends or one of them does, and calls ready when all are ready.
func runTasks(ctx context.Context, tasks []task, ready func() error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, t := range tasks {
		g.Go(func() error {
			err := t.Run(ctx)
			if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
				return nil
			}
			return fmt.Errorf("%s ended: %w", t, err)
		})
	}
	g.Go(func() error {
		for _, t := range tasks {
			select {
			case <-t.Ready():
			case <-ctx.Done():
				return nil
			}
		}
		return ready()
	})
	return g.Wait()
}

// mapTask runs the hardware map, which was brought to what it should be when it was opened.
type mapTask struct{ *hwmap.Map }

func (mapTask) String() string { return "hardware map" }

func (mapTask) Ready() <-chan struct{} { return readyAtOnce() }

// readyAtOnce is for tasks that have nothing to make ready.
func readyAtOnce() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// stopPatience is how long a server that stops waits for calls to come to their end. A switchover that has begun is not
// to be cut off: that would leave it in doubt.
const stopPatience = 15 * time.Second

// server offers an API on a listener.
type server struct {
	name     string
	http     *http.Server
	listener net.Listener
	after    <-chan struct{} // it begins when this is closed
	ready    chan struct{}
}

func newServer(name string, s *http.Server, l net.Listener, after <-chan struct{}) *server {
	return &server{name: name, http: s, listener: l, after: after, ready: make(chan struct{})}
}

func (s *server) String() string         { return s.name }
func (s *server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends. Calls see that end too, so that one that only waits does not delay it.
func (s *server) Run(ctx context.Context) error {
	select {
	case <-s.after:
	case <-ctx.Done():
		return s.listener.Close()
	}
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
		defer cancel()
		err := s.http.Shutdown(patience)
		if errors.Is(err, context.DeadlineExceeded) {
			err = s.http.Close()
		}
		stopped <- err
	})
	close(s.ready)
	err := s.http.Serve(s.listener)
	if stop() { // it was not ctx that ended it
		return errors.Join(err, s.http.Close())
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-stopped)
}
