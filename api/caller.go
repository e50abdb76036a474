package api

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"ip6d/addr"
)

// caller is who makes a call: a process of this host, as the kernel knows it, whoever holds a certificate, or another host.
type caller struct {
	credentials *unix.Ucred       // of the process that connected to the unix socket
	certificate *x509.Certificate // of the client of a TLS connection
	host        addr.Host         // another host, to PeerService
}

type callerKey struct{}

// withConn keeps the credentials of the process at the other end of a unix socket: those it had when it connected.
func withConn(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx // it has just been closed
	}
	var credentials *unix.Ucred
	controlErr := raw.Control(func(fd uintptr) { credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if controlErr != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, caller{credentials: credentials})
}

// withCertificate keeps the certificate of the client of a TLS connection.
func withCertificate(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if certificate := clientCertificate(r.TLS); certificate != nil {
			r = r.WithContext(context.WithValue(r.Context(), callerKey{}, caller{certificate: certificate}))
		}
		h.ServeHTTP(w, r)
	})
}

func clientCertificate(s *tls.ConnectionState) *x509.Certificate {
	if s == nil || len(s.PeerCertificates) == 0 {
		return nil
	}
	return s.PeerCertificates[0]
}

// attributes say who it is.
func (c caller) attributes(peer connect.Peer) []slog.Attr {
	switch {
	case c.credentials != nil:
		return []slog.Attr{slog.Any("uid", c.credentials.Uid), slog.Any("gid", c.credentials.Gid), slog.Any("pid", c.credentials.Pid)}
	case c.host != 0:
		return []slog.Attr{slog.Any("caller", c.host), slog.String("address", peer.Addr)}
	case c.certificate != nil:
		return []slog.Attr{
			slog.String("address", peer.Addr), slog.String("subject", c.certificate.Subject.String()),
			slog.Any("names", names(c.certificate)), slog.String("serial", c.certificate.SerialNumber.Text(16)),
		}
	}
	return []slog.Attr{slog.String("address", peer.Addr)}
}

// names are the certificate's alternative names.
func names(c *x509.Certificate) []string {
	all := append(append([]string{}, c.DNSNames...), c.EmailAddresses...)
	for _, a := range c.IPAddresses {
		all = append(all, a.String())
	}
	for _, u := range c.URIs {
		all = append(all, u.String())
	}
	return all
}

// callLog logs calls, and who made them: at level info those that may change something, at debug those that their service
// declares to be without side effects. A stream is told of when it begins, any other call when it has ended.
type callLog struct{ log *slog.Logger }

var _ connect.Interceptor = callLog{}

func (l callLog) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, q connect.AnyRequest) (connect.AnyResponse, error) {
		a, err := next(ctx, q)
		l.called(ctx, q.Spec(), q.Peer(), q.Any(), err)
		return a, err
	}
}

func (l callLog) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		l.called(ctx, c.Spec(), c.Peer(), nil, nil)
		return next(ctx, c)
	}
}

func (l callLog) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (l callLog) called(ctx context.Context, spec connect.Spec, peer connect.Peer, question any, err error) {
	level := slog.LevelInfo
	if spec.IdempotencyLevel == connect.IdempotencyNoSideEffects {
		level = slog.LevelDebug
	}
	if !l.log.Enabled(ctx, level) {
		return
	}
	service, method, _ := strings.Cut(strings.TrimPrefix(spec.Procedure, "/ip6d.v1."), "/")
	all := []slog.Attr{slog.String("service", service), slog.String("method", method)}
	// What a request is about has the same name in all requests.
	if q, ok := question.(interface{ GetName() string }); ok {
		all = append(all, slog.String("machine", q.GetName()))
	}
	if q, ok := question.(interface{ GetHost() string }); ok {
		all = append(all, slog.String("host", q.GetHost()))
	}
	if q, ok := question.(interface{ GetMachine() uint32 }); ok {
		all = append(all, slog.Any("machine", q.GetMachine()))
	}
	if q, ok := question.(interface{ GetTo() uint32 }); ok {
		all = append(all, slog.Any("to", q.GetTo()))
	}
	who, _ := ctx.Value(callerKey{}).(caller)
	all = append(all, who.attributes(peer)...)
	if err != nil {
		all = append(all, slog.Any("error", err))
	}
	l.log.LogAttrs(ctx, level, "called", all...)
}
