package api

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"ip6d/certificate"
)

// NewPeerListener returns l as PeerService is offered on it: to whoever begins with TLS, by TLS, with this host's identity;
// to others without, which NewPeerHandler lets pass only from hosts that have published no key. It takes l over.
func NewPeerListener(l net.Listener, identity *certificate.Identity) net.Listener {
	p := &peerListener{Listener: l, settings: identity.Server(), accepted: make(chan accepted), closed: make(chan struct{})}
	go p.accept()
	return p
}

type peerListener struct {
	net.Listener
	settings *tls.Config
	accepted chan accepted
	closed   chan struct{}
	once     sync.Once // of closing closed
}

// accepted is what Accept returns.
type accepted struct {
	conn net.Conn
	err  error
}

// firstByteTimeout is how long a caller may take to say something.
const firstByteTimeout = 10 * time.Second

func (p *peerListener) accept() {
	for {
		conn, err := p.Listener.Accept()
		if err != nil {
			p.hand(accepted{err: err})
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // the server tries again in a while, and only then is this handed over
		}
		go p.begin(conn)
	}
}

// begin looks at how the caller begins.
func (p *peerListener) begin(conn net.Conn) {
	var first [1]byte
	err := conn.SetReadDeadline(time.Now().Add(firstByteTimeout))
	if err == nil {
		_, err = io.ReadFull(conn, first[:])
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close() // it said nothing, and hears nothing
		return
	}
	begun := net.Conn(&begunConn{conn, io.MultiReader(bytes.NewReader(first[:]), conn)})
	if first[0] == tlsHandshake {
		begun = tls.Server(begun, p.settings)
	}
	p.hand(accepted{conn: begun})
}

// tlsHandshake is the type of the first record of a TLS connection (RFC 8446 section 5.1). No HTTP request begins with it.
const tlsHandshake = 22

func (p *peerListener) hand(a accepted) {
	select {
	case p.accepted <- a:
	case <-p.closed:
		if a.conn != nil {
			_ = a.conn.Close()
		}
	}
}

func (p *peerListener) Accept() (net.Conn, error) {
	select {
	case a := <-p.accepted:
		return a.conn, a.err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *peerListener) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Listener.Close()
}

// begunConn is a connection of which the beginning was read already.
type begunConn struct {
	net.Conn
	from io.Reader
}

func (c *begunConn) Read(p []byte) (int, error) { return c.from.Read(p) }
