package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/certificate"
	"ip6d/hwmap"
)

// peerTimeout bounds one question to another host: longer than it takes to read the store and write a file on a bad day,
// shorter than an operator's patience.
const peerTimeout = 10 * time.Second

// PeersOptions are the surroundings of Peers.
type PeersOptions struct {
	// Source is this host's underlay address: the other hosts answer no other. The zero Addr leaves it to the kernel.
	Source netip.Addr
	// Identity is what this host proves itself with. Without it, only hosts that have published no key can be asked.
	Identity *certificate.Identity
	// Timeout bounds each question; 0: 10 s.
	Timeout time.Duration
}

// Peers asks other hosts through their PeerService. Its errors are what the other host answered, or
// hwmap.ErrUnavailable where it did not answer or does not know this host yet.
type Peers struct {
	timeout  time.Duration
	identity *certificate.Identity
	dialer   *net.Dialer
	http     *http.Client
}

var _ hwmap.Peers = (*Peers)(nil)

// NewPeers returns a way to ask other hosts. It connects when it is first used.
func NewPeers(o PeersOptions) *Peers {
	if o.Timeout == 0 {
		o.Timeout = peerTimeout
	}
	dialer := &net.Dialer{Timeout: o.Timeout}
	if o.Source.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(o.Source, 0))
	}
	p := &Peers{timeout: o.Timeout, identity: o.Identity, dialer: dialer}
	// Connections are not kept for long: a host that went away silently would cost the next question its timeout.
	p.http = &http.Client{Transport: &http.Transport{
		DialContext: dialer.DialContext, DialTLSContext: p.dialTLS, IdleConnTimeout: 30 * time.Second,
		MaxConnsPerHost: peerAtOnce,
	}}
	return p
}

// A host that has published its key is named by the key's fingerprint in URLs, so that a connection that is kept is only
// used again for questions to the same key. Its address is in the question's context.
type peerAddressKey struct{}

// dialTLS connects to the host of that fingerprint, and to no other.
func (p *Peers) dialTLS(ctx context.Context, network, hostport string) (net.Conn, error) {
	fingerprint, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	address, _ := ctx.Value(peerAddressKey{}).(netip.AddrPort)
	raw, err := p.dialer.DialContext(ctx, network, address.String())
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, p.identity.Client(fingerprint))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// url is where h answers: with TLS as soon as its record has a key, and then never without.
func (p *Peers) url(h hwmap.Host) (string, error) {
	if h.PeerKey == "" {
		return "http://" + h.Peer.String(), nil
	}
	if p.identity == nil {
		return "", &remoteError{fmt.Sprintf("host %d is asked by TLS only, for which this host has no key", h.ID), hwmap.ErrUnavailable}
	}
	return fmt.Sprintf("https://%s:%d", h.PeerKey, h.Peer.Port()), nil
}

// Accept asks target to accept the machine's migration.
// Errors: hwmap.ErrState, ErrNameTaken, ErrUnavailable, and others without a meaning of their own.
func (p *Peers) Accept(ctx context.Context, target hwmap.Host, m addr.Machine) error {
	_, err := ask(ctx, p, target, ip6dv1connect.PeerServiceClient.AcceptMachine, &ip6dv1.AcceptMachineRequest{Machine: uint32(m)})
	return err
}

// Check asks h what it does for the machine. Errors: hwmap.ErrUnavailable, and others without a meaning of their own.
func (p *Peers) Check(ctx context.Context, h hwmap.Host, m addr.Machine) (hwmap.PeerView, error) {
	r, err := ask(ctx, p, h, ip6dv1connect.PeerServiceClient.CheckMachine, &ip6dv1.CheckMachineRequest{Machine: uint32(m)})
	if err != nil {
		return hwmap.PeerView{}, err
	}
	return hwmap.PeerView{Epoch: r.Epoch, Accepted: r.Accepted, Ready: r.Ready, Here: r.Here, Delivering: r.Delivering, Active: r.Active}, nil
}

// Activate asks source to switch the machine over, as it sends something here. Errors: hwmap.ErrState, ErrNotReady, and as Check.
func (p *Peers) Activate(ctx context.Context, source hwmap.Host, m addr.Machine) error {
	_, err := ask(ctx, p, source, ip6dv1connect.PeerServiceClient.ActivateMachine, &ip6dv1.ActivateMachineRequest{Machine: uint32(m)})
	return err
}

// Reread tells h to read the machine's record now. Errors: as Check.
func (p *Peers) Reread(ctx context.Context, h hwmap.Host, m addr.Machine) error {
	_, err := ask(ctx, p, h, ip6dv1connect.PeerServiceClient.RereadMachine, &ip6dv1.RereadMachineRequest{Machine: uint32(m)})
	return err
}

// Locals asks h what its truth has: number, epoch and state of each machine. Errors: as Check.
func (p *Peers) Locals(ctx context.Context, h hwmap.Host) ([]hwmap.Local, error) {
	var all []hwmap.Local
	for question := new(ip6dv1.ListLocalsRequest); ; {
		page, err := ask(ctx, p, h, ip6dv1connect.PeerServiceClient.ListLocals, question)
		if err != nil {
			return nil, err
		}
		for _, m := range page.Machines {
			all = append(all, hwmap.Local{Machine: addr.Machine(m.Machine), Epoch: m.Epoch, State: hwmap.LocalState(m.State)})
		}
		if !page.More || len(page.Machines) == 0 {
			return all, nil
		}
		question = &ip6dv1.ListLocalsRequest{From: uint32(all[len(all)-1].Machine) + 1}
	}
}

// Close closes idle connections.
func (p *Peers) Close() { p.http.CloseIdleConnections() }

// ask puts one question to one host, in bounded time.
func ask[Q, A any](
	ctx context.Context, p *Peers, h hwmap.Host,
	method func(ip6dv1connect.PeerServiceClient, context.Context, *connect.Request[Q]) (*connect.Response[A], error), question *Q,
) (*A, error) {
	if !h.Peer.IsValid() {
		return nil, &remoteError{fmt.Sprintf("host %d has no address for other hosts to ask it at", h.ID), hwmap.ErrUnavailable}
	}
	url, err := p.url(h)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, peerAddressKey{}, h.Peer), p.timeout)
	defer cancel()
	client := ip6dv1connect.NewPeerServiceClient(p.http, url, connect.WithReadMaxBytes(maxMessage))
	r, err := method(client, ctx, connect.NewRequest(question))
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", h.Peer, notAnswered(err))
	}
	return r.Msg, nil
}

// notAnswered is fromAnswer for a question to a host: whether it was too slow, is unreachable or does not know this
// host yet is all the same to the one who asks, and repeating is the way out of each.
func notAnswered(err error) error {
	var answered *connect.Error
	if errors.As(err, &answered) {
		switch answered.Code() {
		case connect.CodeDeadlineExceeded, connect.CodePermissionDenied:
			return &remoteError{answered.Message(), hwmap.ErrUnavailable}
		}
	}
	return fromAnswer(err)
}
