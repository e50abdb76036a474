package etcd_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
)

func TestLostLeaseIsTakenAgain(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	reader := open(t, server, etcd.Options{})
	a := admin(t, server)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Hold(ctx, "alive/1", []byte("x"), 2*time.Second) }()

	revision := hwmap.Revision(0)
	for range 2 {
		wait(t, "held key", func() bool {
			e, err := reader.Get(t.Context(), "alive/1")
			must(t, err)
			was := revision
			revision = max(revision, e[0].ModRevision)
			return revision > was
		})
		leases, err := a.Leases(t.Context())
		must(t, err)
		if len(leases.Leases) != 1 {
			t.Fatalf("there are %d leases for one held key", len(leases.Leases))
		}
		_, err = a.Revoke(t.Context(), leases.Leases[0].ID)
		must(t, err)
	}
	wait(t, "held key", func() bool {
		e, err := reader.Get(t.Context(), "alive/1")
		must(t, err)
		return e[0].ModRevision > revision
	})
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Hold returned %v", err)
	}
	if e, err := reader.Get(t.Context(), "alive/1"); err != nil || e[0].ModRevision != 0 {
		t.Errorf("after Hold, the key is %v, error %v", e, err)
	}
	if leases, err := a.Leases(t.Context()); err != nil || len(leases.Leases) != 0 {
		t.Errorf("after Hold, there are leases %v, error %v", leases, err)
	}
}

func TestHeldKeyGoesWithItsProcess(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{})
	reader := open(t, server, etcd.Options{})
	ended := make(chan error, 1)
	go func() { ended <- s.Hold(t.Context(), "alive/1", []byte("x"), time.Second) }()
	present := func() bool {
		e, err := reader.Get(t.Context(), "alive/1")
		must(t, err)
		return e[0].ModRevision != 0
	}
	wait(t, "held key", present)
	must(t, s.Close()) // as the end of the process does, it revokes nothing
	if err := <-ended; !errors.Is(err, hwmap.ErrUnavailable) {
		t.Errorf("Hold returned %v", err)
	}
	wait(t, "the key to go", func() bool { return !present() })
}

func TestHoldEndsWhenTheServerStaysAway(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{DialTimeout: short})
	ended := make(chan error, 1)
	go func() { ended <- s.Hold(t.Context(), "alive/1", []byte("x"), time.Second) }()
	wait(t, "held key", func() bool {
		e, err := s.Get(t.Context(), "alive/1")
		return err == nil && e[0].ModRevision != 0
	})
	server.Stop()
	select {
	case err := <-ended:
		if !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("Hold returned %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Hold hangs")
	}
}

func TestHoldEndsInTimeWhenTheServerIsAway(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{DialTimeout: short, CallTimeout: short})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Hold(ctx, "alive/1", []byte("x"), time.Minute) }()
	wait(t, "held key", func() bool {
		e, err := s.Get(t.Context(), "alive/1")
		return err == nil && e[0].ModRevision != 0
	})
	must(t, server.Pause(t.Context()))
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("Hold returned %v, must say that the key is left", err)
		}
	case <-time.After(patience):
		t.Fatal("Hold hangs")
	}
}
