package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"ip6d/api"
)

// fakeTask runs until ctx ends, or ends at once with an error.
type fakeTask struct {
	err   error
	ready chan struct{}
}

func (f *fakeTask) String() string         { return "fake" }
func (f *fakeTask) Ready() <-chan struct{} { return f.ready }

func (f *fakeTask) Run(ctx context.Context) error {
	if f.err != nil {
		return f.err
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestReadyIsToldWhenTheLastTaskIsReady(t *testing.T) {
	first, last := &fakeTask{ready: make(chan struct{})}, &fakeTask{ready: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- runTasks(ctx, []task{first, last}, func() error { close(told); return nil })
	}()
	close(last.ready)
	select {
	case <-told:
		t.Error("told before the first task was ready")
	default:
	}
	close(first.ready)
	<-told
	cancel()
	if err := <-done; err != nil {
		t.Errorf("an orderly stop is an error: %v", err)
	}
}

func TestATaskThatEndsEndsTheDaemonAndIsNamed(t *testing.T) {
	broken := errors.New("broken")
	never := make(chan struct{})
	err := runTasks(t.Context(), []task{&fakeTask{ready: never}, &fakeTask{err: broken, ready: never}}, func() error {
		t.Error("told that it is ready")
		return nil
	})
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "fake ended") {
		t.Errorf("error %v, want it to name the task and wrap %v", err, broken)
	}
}

func TestAFailureToTellEndsTheDaemon(t *testing.T) {
	broken := errors.New("broken")
	ready := make(chan struct{})
	close(ready)
	if err := runTasks(t.Context(), []task{&fakeTask{ready: ready}}, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

func TestAServerThatStopsLetsCallsComeToTheirEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := listenAPI(path, socketGroup, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	called, leave := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(called)
		<-r.Context().Done() // the daemon's end is the call's, so that waiting calls do not delay it
		<-leave
		_, _ = io.WriteString(w, "done all the same")
	})
	after := make(chan struct{})
	close(after)
	s := newServer("API", api.NewServer(handler, slog.New(slog.DiscardHandler)), l, after)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()

	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	t.Cleanup(client.CloseIdleConnections)
	answered := make(chan error, 1)
	go func() {
		r, err := client.Get("http://ip6d/")
		if err != nil {
			answered <- err
			return
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err == nil && string(text) != "done all the same" {
			err = errors.New(string(text))
		}
		answered <- err
	}()
	<-called
	cancel()
	select {
	case err := <-done:
		t.Errorf("it stopped with a call under way: %v", err)
	default:
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Errorf("the call that was under way: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("an orderly stop is an error: %v", err)
	}
}

func TestAServerThatNeverBeganClosesItsListener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := listenAPI(path, socketGroup, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := newServer("API", api.NewServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler)), l, make(chan struct{}))
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := checkSocket(path); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}
