package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"ip6d/hwmap"
)

// hostAt is a host whose daemon would be at address.
func hostAt(address string) hwmap.Host {
	return hwmap.Host{ID: 2, Peer: netip.MustParseAddrPort(address)}
}

func TestOnlyHostsOfTheFleetMayAskAHost(t *testing.T) {
	source, target := twoHosts(t)
	self := target.hwmap.Self
	for _, c := range []struct {
		from string
		ok   bool
	}{
		{"127.0.0.101", true},  // host 1
		{"127.0.0.102", false}, // the host itself
		{"127.0.0.103", false}, // nobody's
	} {
		p := NewPeers(PeersOptions{Source: netip.MustParseAddr(c.from)})
		t.Cleanup(p.Close)
		_, err := p.Check(t.Context(), self, 0)
		if c.ok && err != nil || !c.ok && (!errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), c.from+" is the underlay address of no other host")) {
			t.Errorf("asked from %s: %v, want ok %v", c.from, err, c.ok)
		}
	}
	r, err := http.Get("http://" + source.hwmap.Self.Peer.String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Body.Close(); err != nil || r.StatusCode != http.StatusForbidden {
		t.Errorf("a stranger's GET answers %s (%v), want 403", r.Status, err)
	}
}

func TestThePeersPortOffersNothingButPeerService(t *testing.T) {
	source, _ := twoHosts(t)
	// From a host of the fleet, so that it is not refused for its source.
	p := NewPeers(PeersOptions{Source: netip.MustParseAddr("127.0.0.102")})
	t.Cleanup(p.Close)
	for _, path := range []string{"/", "/ip6d.v1.MachineService/ListMachines", "/ip6d.v1.HostService/GetStatus", "/ip6d.v1.MigrationService/AbortMigration"} {
		r, err := p.http.Post("http://"+source.hwmap.Self.Peer.String()+path, "application/json", strings.NewReader("{}"))
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
	p := NewPeers(PeersOptions{Source: source.hwmap.Self.Underlay})
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
