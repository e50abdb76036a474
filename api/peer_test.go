package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"ip6d/addr"
	"ip6d/certificate"
	"ip6d/hwmap"
)

// hostAt is a host whose daemon would be at address.
func hostAt(address string) hwmap.Host {
	return hwmap.Host{ID: 2, Peer: netip.MustParseAddrPort(address)}
}

// asks returns what the host of self answers to a question from source, with that identity.
func asks(t *testing.T, self hwmap.Host, source string, identity *certificate.Identity) error {
	t.Helper()
	p := NewPeers(PeersOptions{Source: netip.MustParseAddr(source), Identity: identity})
	defer p.Close()
	_, err := p.Check(t.Context(), self, 0)
	return err
}

// refuses checks that a question was refused, for that reason; as for whoever asks, the host is unavailable.
func refuses(t *testing.T, what string, err error, says string) {
	t.Helper()
	if !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v, want it refused with %q", what, err, says)
	}
}

// keyless is the host as an ip6d of before there were keys would have it.
func keyless(h hwmap.Host) hwmap.Host {
	h.PeerKey = ""
	return h
}

func TestOnlyHostsOfTheFleetMayAskAHost(t *testing.T) {
	source, target := twoHosts(t)
	self := target.hwmap.Self
	if err := asks(t, self, "127.0.0.101", source.identity); err != nil {
		t.Errorf("host 1 asks host 2: %v", err)
	}
	const stranger = " is the underlay address of no other host"
	refuses(t, "the host itself", asks(t, self, "127.0.0.102", target.identity), "127.0.0.102"+stranger)
	refuses(t, "nobody's address", asks(t, self, "127.0.0.103", source.identity), "127.0.0.103"+stranger)
	refuses(t, "host 1 by another key", asks(t, self, "127.0.0.101", newIdentity(t)), "another key than that of this caller from 127.0.0.101")
	refuses(t, "host 1 without TLS", asks(t, keyless(self), "127.0.0.101", source.identity), "has published a key, and this caller from 127.0.0.101 proves none")
	impostor := self
	impostor.PeerKey = newIdentity(t).Fingerprint()
	refuses(t, "whoever is at host 2's address, with another key", asks(t, impostor, "127.0.0.101", source.identity), "another key than its record says")
	refuses(t, "a host without a key, of one that has one", asks(t, self, "127.0.0.101", nil), "is asked by TLS only")

	r, err := http.Get("http://" + source.hwmap.Self.Peer.String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Body.Close(); err != nil || r.StatusCode != http.StatusForbidden {
		t.Errorf("a stranger's GET answers %s (%v), want 403", r.Status, err)
	}
}

// write puts a host's record into the fleet's store, and waits until d has it.
func write(t *testing.T, d *daemon, h hwmap.Host) {
	t.Helper()
	value, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.hwmap.Fleet.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: hwmap.Key(fmt.Sprintf("map/hosts/%d", h.ID)), Value: value}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the record is known", func() bool {
		known := d.hwmap.HostsAt(h.Underlay)
		return len(known) == 1 && known[0] == h
	})
}

func TestAHostWithoutAKeyIsSpokenWithPlainlyUntilItHasOne(t *testing.T) {
	source, target := twoHosts(t)
	self, old := target.hwmap.Self, source.hwmap.Self
	old.State = hwmap.Joined
	write(t, target, keyless(old))
	for what, err := range map[string]error{
		"an older ip6d asks a newer one":                   asks(t, keyless(self), "127.0.0.101", nil),
		"it has been upgraded, its record has not arrived": asks(t, self, "127.0.0.101", source.identity),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	write(t, target, old)
	refuses(t, "plainly, once it has a key", asks(t, keyless(self), "127.0.0.101", nil), "proves none")
	if err := asks(t, self, "127.0.0.101", source.identity); err != nil {
		t.Errorf("with its key: %v", err)
	}
}

func TestADeadHostIsNotAnswered(t *testing.T) {
	source, target := twoHosts(t)
	dead := source.hwmap.Self
	for _, state := range []hwmap.HostState{hwmap.Cordoned, hwmap.Draining, hwmap.Removing} {
		dead.State = state
		write(t, target, dead)
		if err := asks(t, target.hwmap.Self, "127.0.0.101", source.identity); err != nil {
			t.Errorf("a host that is %s: %v", state, err)
		}
	}
	dead.State, dead.Fenced = hwmap.Dead, true // else it writes so itself
	write(t, target, dead)
	refuses(t, "a dead host", asks(t, target.hwmap.Self, "127.0.0.101", source.identity), "host 1, at 127.0.0.101, was declared dead")
	write(t, target, keyless(dead))
	refuses(t, "a dead host without key", asks(t, keyless(target.hwmap.Self), "127.0.0.101", nil), "host 1, at 127.0.0.101, was declared dead")
}

func TestAHostThatAsksTooMuchIsRefusedAndNoOther(t *testing.T) {
	source, target := twoHosts(t)
	release, begun := make(chan struct{}), make(chan struct{}, 2*peerAtOnce)
	guard := &peerGuard{hwmap: target.hwmap, limits: make(map[addr.Host]*peerLimit), next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-release
	})}
	ask := func(remote string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/ip6d.v1.PeerService/CheckMachine", nil)
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		guard.ServeHTTP(w, r)
		return w
	}
	write(t, target, keyless(source.hwmap.Self))
	var busy sync.WaitGroup
	for range peerAtOnce {
		busy.Go(func() { ask("127.0.0.101:1") })
	}
	for range peerAtOnce {
		<-begun
	}
	if w := ask("127.0.0.101:1"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "at once") {
		t.Errorf("one question more at once answers %d %s", w.Code, w.Body)
	}
	other := source.hwmap.Self
	other.ID, other.Underlay, other.PeerKey = 3, netip.MustParseAddr("127.0.0.103"), ""
	write(t, target, other)
	busy.Go(func() { ask("127.0.0.103:1") })
	<-begun // by another host, which is not refused
	close(release)
	busy.Wait()

	guard.limit(1).rate.SetBurst(0)
	if w := ask("127.0.0.101:1"); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "a second") {
		t.Errorf("a question over the rate answers %d %s", w.Code, w.Body)
	}
}

func TestACallerThatSaysNothingHoldsUpNoOther(t *testing.T) {
	source, target := twoHosts(t)
	for range 3 {
		c, err := net.Dial("tcp", target.hwmap.Self.Peer.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if err := asks(t, target.hwmap.Self, "127.0.0.101", source.identity); err != nil {
		t.Error(err)
	}
}

func TestThePeersPortOffersNothingButPeerService(t *testing.T) {
	source, target := twoHosts(t)
	// From a host of the fleet, so that it is not refused for its source.
	p := NewPeers(PeersOptions{Source: netip.MustParseAddr("127.0.0.102"), Identity: target.identity})
	t.Cleanup(p.Close)
	at, err := p.url(source.hwmap.Self)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/", "/ip6d.v1.MachineService/ListMachines", "/ip6d.v1.HostService/GetStatus", "/ip6d.v1.MigrationService/AbortMigration"} {
		ctx := context.WithValue(t.Context(), peerAddressKey{}, source.hwmap.Self.Peer)
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, at+path, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Content-Type", "application/json")
		r, err := p.http.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Body.Close(); err != nil || r.StatusCode != http.StatusNotFound {
			t.Errorf("%s answers %s (%v), want 404", path, r.Status, err)
		}
	}
}

func TestAHostThatDoesNotAnswerIsUnavailable(t *testing.T) {
	closed := listen(t, "tcp", "127.0.0.1:0")
	nobody := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	silent := listen(t, "tcp", "127.0.0.1:0")
	serve(t, silent, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))

	p := NewPeers(PeersOptions{Timeout: 50 * time.Millisecond})
	t.Cleanup(p.Close)
	for _, h := range []hwmap.Host{hostAt(nobody), hostAt(silent.Addr().String()), {ID: 2}} {
		err := p.Accept(t.Context(), h, 7)
		if !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("accept by %v: %v, want ErrUnavailable", h.Peer, err)
		}
		if _, err := p.Check(t.Context(), h, 7); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("check of %v: %v, want ErrUnavailable", h.Peer, err)
		}
		if err := p.Reread(t.Context(), h, 7); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("reread by %v: %v, want ErrUnavailable", h.Peer, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Accept(ctx, hostAt(nobody), 7); !errors.Is(err, context.Canceled) {
		t.Errorf("with the caller gone: %v, want context.Canceled", err)
	}
}

func TestATargetThatWasNotAskedRefuses(t *testing.T) {
	source, target := twoHosts(t)
	p := NewPeers(PeersOptions{Source: source.hwmap.Self.Underlay, Identity: source.identity})
	t.Cleanup(p.Close)
	err := p.Accept(t.Context(), target.hwmap.Self, 0)
	if !errors.Is(err, hwmap.ErrState) {
		t.Errorf("accept of a machine that goes nowhere: %v, want ErrState", err)
	}
	seen, err := p.Check(t.Context(), target.hwmap.Self, 0)
	if err != nil || seen != (hwmap.PeerView{}) {
		t.Errorf("check of a machine that is not there: %+v, %v", seen, err)
	}
	if err := p.Reread(t.Context(), target.hwmap.Self, 0); err != nil {
		t.Errorf("reread: %v", err)
	}
}
