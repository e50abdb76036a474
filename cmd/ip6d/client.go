package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"connectrpc.com/connect"

	"ip6d/api"
)

// call puts one question to the daemon that the command line names. Its errors are for people: the daemon's own words, that there is
// no daemon, or that it does not answer.
func call[Q, A any](ctx context.Context, c *cli, method func(*api.Client) unary[Q, A], question *Q) (*A, error) {
	return callWithin(ctx, c, c.patience, method, question)
}

// callWithin is call for a question whose answer takes its time.
func callWithin[Q, A any](ctx context.Context, c *cli, patience time.Duration, method func(*api.Client) unary[Q, A], question *Q) (*A, error) {
	client, err := c.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := method(client)(ctx, connect.NewRequest(question))
	if err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && !connect.IsWireError(err) {
			return nil, fmt.Errorf("the daemon on %s did not answer within %s: look at its log, and whether it is stopped; "+
				"it may still do what it was asked, and it is safe to ask again", c.where(), patience)
		}
		return nil, c.explain(err)
	}
	return r.Msg, nil
}

// unary is a method of one of the API's services.
type unary[Q, A any] = func(context.Context, *connect.Request[Q]) (*connect.Response[A], error)

func (c *cli) explain(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("may not open %s: run this as root, or as a user who may write to that socket", c.socket)
	}
	// A refusal by TLS: from this end, or, after the handshake, from the other.
	_, unverified := errors.AsType[*tls.CertificateVerificationError](err)
	op, refused := errors.AsType[*net.OpError](err)
	if unverified || refused && op.Op == "remote error" {
		return fmt.Errorf("no agreement with %s: %w; check --certificate, --key and --ca, and api in the configuration of that host", c.where(), err)
	}
	if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("no daemon answers on %s: is `ip6d serve` running? (%w)", c.where(), dial.Err)
	}
	// The other end may refuse the certificate when this one has begun to ask, and the refusal be lost with the connection.
	if c.remote.address != "" && !connect.IsWireError(err) && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("no agreement with %s, which ended the connection: %w; check --certificate, --key and --ca, and api in the configuration of that host", c.where(), err)
	}
	if connect.CodeOf(err) == connect.CodeUnimplemented {
		return fmt.Errorf("the daemon on %s does not know this command: it is of an older version; restart it with this one", c.where())
	}
	if answered, ok := errors.AsType[*connect.Error](err); ok {
		return errors.New(answered.Message())
	}
	return err
}
