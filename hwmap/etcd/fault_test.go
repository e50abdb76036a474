package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
)

// short is a bound for calls that are meant to fail.
const short = 500 * time.Millisecond

func TestCommitToAHangingServerIsInDoubtAndLaterKnown(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	hasty := open(t, server, etcd.Options{CallTimeout: short})
	patient := open(t, server, etcd.Options{})
	commit(t, patient, put("a", "0"))
	// hasty has a connection now, on which its next call is sent.
	wait(t, "a connection", func() bool { _, err := hasty.Get(t.Context(), "a"); return err == nil })

	cases := []struct {
		name    string
		context func() (context.Context, context.CancelFunc)
		because error
	}{
		{"call timeout", func() (context.Context, context.CancelFunc) { return context.WithCancel(t.Context()) }, nil},
		{"deadline of the caller", func() (context.Context, context.CancelFunc) { return context.WithTimeout(t.Context(), short/2) }, context.DeadlineExceeded},
		{"caller gives up", func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(short/2, cancel)
			return ctx, cancel
		}, context.Canceled},
	}
	for i, c := range cases {
		key := fmt.Sprintf("doubt/%d", i)
		must(t, server.Pause(t.Context()))
		ctx, cancel := c.context()
		_, err := hasty.Commit(ctx, create(key, "x"))
		cancel()
		if !errors.Is(err, hwmap.ErrInDoubt) || errors.Is(err, hwmap.ErrUnavailable) || c.because != nil && !errors.Is(err, c.because) {
			t.Errorf("%s: Commit returned %v, must be in doubt", c.name, err)
		}
		if !strings.Contains(fmt.Sprint(err), server.Endpoint()) {
			t.Errorf("%s: %v does not name the endpoint", c.name, err)
		}
		if _, err := hasty.Get(t.Context(), hwmap.Key(key)); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("%s: Get returned %v, must be unavailable", c.name, err)
		}
		must(t, server.Resume())
		// Whoever writes on the condition of what he reads now ends the doubt: one of the two transactions wins.
		e, err := patient.Get(t.Context(), hwmap.Key(key))
		must(t, err)
		_, err = patient.Commit(t.Context(), hwmap.Txn{
			If:   []hwmap.Condition{{Key: hwmap.Key(key), ModRevision: e[0].ModRevision}},
			Then: []hwmap.Write{{Key: hwmap.Key(key), Value: []byte("settled")}},
		})
		if err != nil && !(errors.Is(err, hwmap.ErrConflict) && e[0].ModRevision == 0) {
			t.Errorf("%s: settling returned %v", c.name, err)
		}
		e, err = patient.Get(t.Context(), hwmap.Key(key))
		must(t, err)
		if v := string(e[0].Value); v != "settled" && v != "x" {
			t.Errorf("%s: the key is %q", c.name, v)
		}
	}
}

func TestStoppedServerIsUnavailableAndItsReturnIsNoticed(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := open(t, server, etcd.Options{DialTimeout: short})
	ctx := t.Context()
	wait(t, "a connection", func() bool { _, err := s.Get(ctx, "a"); return err == nil })
	server.Stop()
	// A commit on the connection that is just breaking may be in doubt. It was not made: there is no server.
	wait(t, "unavailable", func() bool {
		_, err := s.Commit(ctx, create("a", "1"))
		if !errors.Is(err, hwmap.ErrUnavailable) && !errors.Is(err, hwmap.ErrInDoubt) {
			t.Fatalf("Commit returned %v", err)
		}
		return errors.Is(err, hwmap.ErrUnavailable) && !errors.Is(err, hwmap.ErrInDoubt)
	})
	_, getErr := s.Get(ctx, "a")
	_, _, listErr := s.List(ctx, "")
	_, idErr := s.ID(ctx)
	for call, err := range map[string]error{
		"Get":   getErr,
		"List":  listErr,
		"ID":    idErr,
		"Hold":  s.Hold(ctx, "alive", nil, time.Second),
		"Watch": watchUnavailable(t, server),
	} {
		if !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), server.Endpoint()) {
			t.Errorf("%s returned %v, must be unavailable and name the endpoint", call, err)
		}
	}
	restart(t, server)
	wait(t, "the server's return", func() bool { _, err := s.Commit(ctx, create("a", "1")); return err == nil })
}

func watchUnavailable(t *testing.T, server *etcdproc.Server) error {
	return open(t, server, etcd.Options{CallTimeout: short}).Watch(t.Context(), "", 1, nil)
}

func TestOpenDoesNotWaitForTheServer(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	server.Stop()
	s := open(t, server, etcd.Options{DialTimeout: short})
	_, err := s.Commit(t.Context(), create("a", "1"))
	if !errors.Is(err, hwmap.ErrUnavailable) || errors.Is(err, hwmap.ErrInDoubt) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Commit returned %v, must say why", err)
	}
	restart(t, server)
	wait(t, "the server", func() bool { _, err := s.Commit(t.Context(), create("a", "1")); return err == nil })
}

// A server that accepts connections and says nothing has seen no transaction.
func TestSilentServerIsUnavailable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { must(t, l.Close()) })
	s, err := etcd.Open(t.Context(), etcd.Options{Endpoints: []string{l.Addr().String()}, Cluster: "test", DialTimeout: short})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	if _, err := s.Commit(t.Context(), put("a", "1")); !errors.Is(err, hwmap.ErrUnavailable) || errors.Is(err, hwmap.ErrInDoubt) {
		t.Errorf("Commit returned %v", err)
	}
}
