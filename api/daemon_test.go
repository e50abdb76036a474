package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"ip6d/addr"
	"ip6d/certificate"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
	"ip6d/nat"
)

// patience is how long a test waits for what must happen; it is waited for in full only when the test fails.
const patience = time.Minute

// daemon is one host with its API on a unix socket and, in a fleet, its PeerService on a loopback address.
type daemon struct {
	*Client
	hwmap    *hwmap.Map
	datapath *fakeDatapath
	socket   string
	events   *nat.Feed
	identity *certificate.Identity
}

// database opens a store that ends with the test.
func database(t *testing.T) hwmap.Store {
	t.Helper()
	s, err := bolt.Open(bolt.Options{Path: filepath.Join(t.TempDir(), "ip6d.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newIdentity(t *testing.T) *certificate.Identity {
	t.Helper()
	i, err := certificate.LoadIdentity(filepath.Join(t.TempDir(), "peer.key"))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// newDaemon starts host id; fleet nil means standalone.
func newDaemon(t *testing.T, id addr.Host, fleet hwmap.Store) *daemon {
	t.Helper()
	d := &daemon{datapath: newFakeDatapath(), events: new(nat.Feed), identity: newIdentity(t)}
	truth := database(t)
	o := hwmap.Options{
		Plan: addr.DefaultPlan, Cell: 1,
		Self:  hwmap.Host{ID: id, Name: "host" + string(rune('0'+id)), Identity: "identity" + string(rune('0'+id))},
		Truth: truth, Fleet: truth, Datapath: d.datapath, Ports: &fakePorts{made: make(map[string]nat.Port)},
		Quarantine: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	}
	var peers net.Listener
	if fleet != nil {
		o.Fleet = fleet
		o.Self.Underlay = netip.AddrFrom4([4]byte{127, 0, 0, 100 + byte(id)})
		peers = listen(t, "tcp", netip.AddrPortFrom(o.Self.Underlay, 0).String())
		o.Self.Peer = netip.MustParseAddrPort(peers.Addr().String())
		o.Self.PeerKey = d.identity.Fingerprint()
		client := NewPeers(PeersOptions{Source: o.Self.Underlay, Identity: d.identity})
		t.Cleanup(client.Close)
		o.Peers = client
	}
	var err error
	if d.hwmap, err = hwmap.Open(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	run(t, d.hwmap)
	if peers != nil {
		serve(t, NewPeerListener(peers, d.identity), NewPeerHandler(d.hwmap, slog.New(slog.DiscardHandler)))
	}
	d.socket = filepath.Join(t.TempDir(), "socket")
	serve(t, listen(t, "unix", d.socket), NewHandler(HandlerOptions{
		Map: d.hwmap, Version: "test", Datapath: d.datapath, Events: d.events,
		FinishTimeout: 100 * time.Millisecond,
	}))
	d.Client = NewClient(d.socket)
	t.Cleanup(d.Close)
	return d
}

// run runs a Map until the test ends.
func run(t *testing.T, m *hwmap.Map) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Map.Run: %v", err)
		}
	})
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// serve serves h until the test ends.
func serve(t *testing.T, l net.Listener, h http.Handler) {
	s := NewServer(h, slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve %s: %v", l.Addr(), err)
		}
	})
}

// call makes one call and returns its answer; a failure ends the test.
func call[Q, A any](t *testing.T, method func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), question *Q) *A {
	t.Helper()
	r, err := method(t.Context(), connect.NewRequest(question))
	if err != nil {
		t.Fatalf("%T: %v", question, err)
	}
	return r.Msg
}

// refused makes one call that must fail with code, and returns the error's text.
func refused[Q, A any](t *testing.T, code connect.Code, method func(context.Context, *connect.Request[Q]) (*connect.Response[A], error), question *Q) string {
	t.Helper()
	_, err := method(t.Context(), connect.NewRequest(question))
	var answered *connect.Error
	if !errors.As(err, &answered) || answered.Code() != code {
		t.Fatalf("%T: error %v, want %v", question, err, code)
	}
	return answered.Message()
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !f() {
		select {
		case <-deadline:
			t.Fatalf("%s: not within %v", what, patience)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
