package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"

	"ip6d/addr"
	"ip6d/certificate"
	"ip6d/hwmap"
)

// What one other host may ask. A host that moves a hundred machines a second asks less.
const (
	peerRate   = 1000 // questions in a second
	peerAtOnce = 128  // questions that are being answered
)

// peerGuard lets hosts of the fleet's map come in, and nobody else.
//
// A caller is the host whose underlay address it comes from, if that has published a key in its record: the one that has this
// key. A host that has published none runs an ip6d of before there were keys, and is taken by its address alone; once a key
// is in the record nothing but the record can take that back, so nobody in between can talk two hosts down to less.
type peerGuard struct {
	hwmap *hwmap.Map
	next  http.Handler

	mu     sync.Mutex // guards limits
	limits map[addr.Host]*peerLimit
}

// peerLimit is what is left for one caller.
type peerLimit struct {
	rate   *rate.Limiter
	atOnce chan struct{} // holds one for each question that is being answered
}

func (g *peerGuard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, err := g.caller(r)
	if err != nil {
		refuse(w, r, connect.CodePermissionDenied, err)
		return
	}
	l := g.limit(h.ID)
	if !l.rate.Allow() {
		refuse(w, r, connect.CodeUnavailable, fmt.Errorf("host %d asks more than %d questions a second", h.ID, peerRate))
		return
	}
	select {
	case l.atOnce <- struct{}{}:
		defer func() { <-l.atOnce }()
	default:
		refuse(w, r, connect.CodeUnavailable, fmt.Errorf("host %d asks more than %d questions at once", h.ID, peerAtOnce))
		return
	}
	g.next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{host: h.ID})))
}

// caller returns the host that asks: as its record is now, at each question.
func (g *peerGuard) caller(r *http.Request) (hwmap.Host, error) {
	source, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return hwmap.Host{}, fmt.Errorf("caller's address %q: %w", r.RemoteAddr, err)
	}
	proof := clientCertificate(r.TLS)
	err = fmt.Errorf("%s is the underlay address of no other host that host %d knows", source.Addr(), g.hwmap.Self.ID)
	for _, h := range g.hwmap.HostsAt(source.Addr()) {
		switch {
		case h.ID == g.hwmap.Self.ID:
		case h.State == hwmap.Dead:
			err = fmt.Errorf("host %d, at %s, was declared dead", h.ID, h.Underlay)
		case h.PeerKey == "", proof != nil && certificate.Fingerprint(proof) == h.PeerKey:
			return h, nil
		case proof == nil:
			err = fmt.Errorf("host %d has published a key, and this caller from %s proves none", h.ID, source.Addr())
		default:
			err = fmt.Errorf("host %d has published another key than that of this caller from %s", h.ID, source.Addr())
		}
	}
	return hwmap.Host{}, err
}

func (g *peerGuard) limit(h addr.Host) *peerLimit {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := g.limits[h]
	if l == nil {
		l = &peerLimit{rate.NewLimiter(peerRate, peerRate), make(chan struct{}, peerAtOnce)}
		g.limits[h] = l
	}
	return l
}

// refuse answers in the caller's protocol.
func refuse(w http.ResponseWriter, r *http.Request, code connect.Code, err error) {
	writer := connect.NewErrorWriter()
	if !writer.IsSupported(r) {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	// A failure to write it is the caller's loss only.
	_ = writer.Write(w, r, connect.NewError(code, err))
}
