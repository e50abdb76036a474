package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"ip6d/hwmap"
)

// Watch implements hwmap.Store. It goes on from a List of this Store: when the etcd cluster turns out to be another one, or
// to have gone back in time, because it was replaced or restored from a backup, Watch returns hwmap.ErrCompacted, as it does
// for a revision that was compacted. The remedy is the same.
//
// A server that has stopped answering is noticed within 15 seconds, one that lost its leader by its own election timeout.
func (s *Store) Watch(ctx context.Context, prefix hwmap.Key, after hwmap.Revision, f func(hwmap.Batch) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stream, cancel, err := s.openWatch(ctx, prefix, after)
	if err != nil {
		return s.watchError(ctx, err)
	}
	defer cancel()
	var events []*mvccpb.Event
	for {
		resp, err := stream.Recv()
		if err != nil {
			return s.watchError(ctx, err)
		}
		if err := s.watchEnded(resp, after); err != nil {
			return s.watchError(ctx, err)
		}
		// etcd never splits the events of a transaction over responses, but a response into fragments anywhere.
		events = append(events, resp.GetEvents()...)
		if resp.GetFragment() {
			continue
		}
		for len(events) > 0 {
			var b hwmap.Batch
			b, events = s.batch(events)
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := f(b); err != nil {
				return err
			}
		}
		events = nil
	}
}

// openWatch opens a stream and waits until the server has begun to watch.
func (s *Store) openWatch(caller context.Context, prefix hwmap.Key, after hwmap.Revision) (pb.Watch_WatchClient, context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(caller))
	late := time.AfterFunc(s.o.CallTimeout, cancel)
	stream, err := s.startWatch(ctx, prefix, after)
	if inTime := late.Stop(); !inTime {
		err = fmt.Errorf("no watch within %s: %w", s.o.CallTimeout, cmp.Or(err, ctx.Err()))
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return stream, cancel, nil
}

func (s *Store) startWatch(ctx context.Context, prefix hwmap.Key, after hwmap.Revision) (pb.Watch_WatchClient, error) {
	stream, err := s.watch.Watch(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key:            s.key(prefix),
		RangeEnd:       []byte(clientv3.GetPrefixRangeEnd(s.prefix + string(prefix))),
		StartRevision:  int64(after) + 1,
		ProgressNotify: true, // a quiet watch too learns that etcd compacted or that the stream is dead
		Fragment:       true,
	}}}); err != nil {
		return nil, err
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if err := s.watchEnded(resp, after); err != nil {
		return nil, err
	}
	if err := s.sameHistory(ctx, resp.GetHeader(), after); err != nil {
		return nil, err
	}
	return stream, nil
}

// sameHistory returns hwmap.ErrCompacted when what a server says of itself does not go on from the last List. The id of a
// cluster follows from its settings, so that one that was set up anew may have the same; but the terms of its leaders and
// its revisions begin again.
func (s *Store) sameHistory(ctx context.Context, now *pb.ResponseHeader, after hwmap.Revision) error {
	const replaced = "it was replaced or restored from a backup"
	if listed := s.listed.Load(); listed != nil {
		if now.GetClusterId() != listed.GetClusterId() {
			return fmt.Errorf("%w: the etcd cluster is %016x, was %016x; %s", hwmap.ErrCompacted, now.GetClusterId(), listed.GetClusterId(), replaced)
		}
		if now.GetRaftTerm() < listed.GetRaftTerm() {
			return fmt.Errorf("%w: etcd is in term %d, was in %d; %s", hwmap.ErrCompacted, now.GetRaftTerm(), listed.GetRaftTerm(), replaced)
		}
	}
	if now.GetRevision() >= int64(after) {
		return nil
	}
	// Either this member lags behind the others, or revisions went back.
	now, err := s.header(ctx)
	if err != nil {
		return err
	}
	if now.GetRevision() < int64(after) {
		return fmt.Errorf("%w: watch after %d, but etcd is only at %d; %s", hwmap.ErrCompacted, after, now.GetRevision(), replaced)
	}
	return nil
}

// watchEnded returns why the server ended the watch, if it did.
func (s *Store) watchEnded(resp *pb.WatchResponse, after hwmap.Revision) error {
	switch {
	case resp.GetCompactRevision() != 0:
		return fmt.Errorf("%w: watch after %d, but etcd was compacted up to %d", hwmap.ErrCompacted, after, resp.GetCompactRevision())
	case resp.GetCanceled():
		return fmt.Errorf("etcd ended the watch: %s", resp.GetCancelReason())
	}
	return nil
}

func (s *Store) watchError(caller context.Context, err error) error {
	switch {
	case caller.Err() != nil:
		return caller.Err()
	case errors.Is(err, hwmap.ErrCompacted):
		return fmt.Errorf("watch: etcd %s: %w", s.endpoints(), err)
	case errors.Is(err, hwmap.ErrUnavailable):
		return err
	}
	return s.unavailable(caller, "watch", err)
}

// batch takes the events of the first transaction off.
func (s *Store) batch(events []*mvccpb.Event) (hwmap.Batch, []*mvccpb.Event) {
	b := hwmap.Batch{Revision: hwmap.Revision(events[0].GetKv().GetModRevision())}
	for len(events) > 0 && hwmap.Revision(events[0].GetKv().GetModRevision()) == b.Revision {
		e := s.entry(events[0].GetKv())
		if events[0].GetType() == mvccpb.Event_DELETE {
			e.Value = nil
		}
		b.Entries, events = append(b.Entries, e), events[1:]
	}
	return b, events
}
