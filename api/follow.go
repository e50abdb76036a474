package api

import (
	"context"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// How long FollowEvents waits before it calls a daemon again: at first, and at most.
const (
	followPause    = 100 * time.Millisecond
	maxFollowPause = 5 * time.Second
)

// followSilence is after how long without a word a stream counts as broken: the daemon says something more often than that.
const followSilence = 3 * eventIdle

// FollowOptions say where FollowEvents begins.
type FollowOptions struct {
	After    string // the token that came last to an earlier call; empty: with the earliest event since which none is missing
	Snapshot bool   // with the present state, where After is empty
}

// FollowEvents calls f with the events of a host's daemon, in order, until ctx ends or f fails. It goes on where it was when the
// daemon is away, was killed or starts again: nothing is left out, and nothing told twice. Events that are given together
// belong together: a snapshot is given whole. Whoever keeps the token, in one step with what the events made him do, can go on
// from there after his own crash too. Without events, a token only says how far it has come.
//
// Errors: those of f and of ctx; a *connect.Error that repeating does not mend: out_of_range, the token is older than what the
// daemon has, or of another database: begin anew, with a snapshot; invalid_argument, permission_denied, unauthenticated, unimplemented.
func (c *Client) FollowEvents(ctx context.Context, o FollowOptions, f func(events []*ip6dv1.Event, token string) error) error {
	w := follower{client: c, after: o.After, snapshot: o.Snapshot, f: f}
	wait := followPause
	for {
		before := w.after
		err := w.watch(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case w.failed != nil:
			return w.failed
		case err != nil && final(connect.CodeOf(err)):
			return err
		case w.after != before:
			wait = followPause
		}
		select {
		case <-time.After(wait + rand.N(wait/2)):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, maxFollowPause)
	}
}

// final reports whether an error stays, however often one asks.
func final(code connect.Code) bool {
	switch code {
	case connect.CodeOutOfRange, connect.CodeInvalidArgument, connect.CodePermissionDenied, connect.CodeUnauthenticated, connect.CodeUnimplemented:
		return true
	}
	return false
}

// follower is one who follows events.
type follower struct {
	client   *Client
	after    string
	snapshot bool
	f        func([]*ip6dv1.Event, string) error
	failed   error // what f returned
}

// watch gives what one stream brings, until it breaks.
func (w *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(followSilence, cancel)
	defer silence.Stop()
	stream, err := w.client.Events.WatchEvents(ctx, connect.NewRequest(&ip6dv1.WatchEventsRequest{
		After: w.after, Snapshot: w.snapshot && w.after == "", Follow: true,
	}))
	if err != nil {
		return err
	}
	defer stream.Close()
	var events []*ip6dv1.Event
	for stream.Receive() {
		silence.Reset(followSilence)
		if e := stream.Msg().Event; e != nil {
			events = append(events, e)
		}
		token := stream.Msg().Token
		if token == "" { // of a snapshot that is not whole: should it break off here, it begins anew
			continue
		}
		if len(events) > 0 || token != w.after {
			if w.failed = w.f(events, token); w.failed != nil {
				return w.failed
			}
		}
		w.after, events = token, nil
	}
	return stream.Err()
}
