package etcd

import (
	"context"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"ip6d/hwmap"
)

const (
	maxOps   = 128  // of a transaction, etcd's default limit
	listPage = 1000 // records of one response to List

	// readPause is between attempts of a read. Unlike a write it can be repeated, and often goes through a moment later,
	// when the cluster has elected or another member is tried.
	readPause = 100 * time.Millisecond
)

// Get implements hwmap.Store.
func (s *Store) Get(ctx context.Context, keys ...hwmap.Key) ([]hwmap.Entry, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	defer s.timed("get")()
	return s.gather(ctx, keys)
}

// get reads keys in a call of its own.
func (s *Store) get(ctx context.Context, keys []hwmap.Key) ([]hwmap.Entry, error) {
	var entries []hwmap.Entry
	err := s.read(ctx, "get", func(ctx context.Context) error {
		entries = make([]hwmap.Entry, 0, len(keys))
		var at int64 // all at the revision of the first response
		for chunk := range slices.Chunk(keys, maxOps) {
			req := &pb.TxnRequest{}
			for _, k := range chunk {
				req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
					RequestRange: &pb.RangeRequest{Key: s.key(k), Revision: at},
				}})
			}
			sent, err := s.history.now()
			if err != nil {
				return err
			}
			resp, err := s.kv.Txn(ctx, req)
			if err == nil {
				err = s.history.note(sent, resp.GetHeader())
			}
			if err != nil {
				return err
			}
			at = resp.GetHeader().GetRevision()
			for i, r := range resp.GetResponses() {
				e := hwmap.Entry{Key: chunk[i]}
				if kvs := r.GetResponseRange().GetKvs(); len(kvs) > 0 {
					e = s.entry(kvs[0])
				}
				entries = append(entries, e)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// List implements hwmap.Store.
func (s *Store) List(ctx context.Context, prefix hwmap.Key) ([]hwmap.Entry, hwmap.Revision, error) {
	defer s.timed("list")()
	var (
		entries []hwmap.Entry
		header  *pb.ResponseHeader
	)
	err := s.read(ctx, "list", func(ctx context.Context) error {
		entries, header = nil, nil
		from, end := s.key(prefix), []byte(clientv3.GetPrefixRangeEnd(s.prefix+string(prefix)))
		for {
			sent, err := s.history.now()
			if err != nil {
				return err
			}
			resp, err := s.kv.Range(ctx, &pb.RangeRequest{
				Key: from, RangeEnd: end, Limit: listPage,
				Revision: header.GetRevision(), // 0 for the first page, which is linearizable
			})
			if err == nil {
				err = s.history.note(sent, resp.GetHeader())
			}
			if err != nil {
				return err
			}
			if header == nil {
				header = resp.GetHeader()
			}
			for _, kv := range resp.GetKvs() {
				entries = append(entries, s.entry(kv))
			}
			if !resp.GetMore() || len(resp.GetKvs()) == 0 {
				return nil
			}
			last := resp.GetKvs()[len(resp.GetKvs())-1].GetKey()
			from = append(slices.Clone(last), 0)
		}
	})
	if err != nil {
		return nil, 0, err
	}
	s.listed.Store(header)
	return entries, hwmap.Revision(header.GetRevision()), nil
}

// header reads nothing but where the cluster is.
func (s *Store) header(ctx context.Context) (h *pb.ResponseHeader, err error) {
	err = s.read(ctx, "read revision", func(ctx context.Context) error {
		sent, err := s.history.now()
		if err != nil {
			return err
		}
		resp, err := s.kv.Range(ctx, &pb.RangeRequest{Key: []byte(s.prefix), CountOnly: true})
		if err == nil {
			err = s.history.note(sent, resp.GetHeader())
		}
		h = resp.GetHeader()
		return err
	})
	return h, err
}

// read calls f until it gets an answer, within the bounds of one call.
func (s *Store) read(ctx context.Context, action string, f func(context.Context) error) error {
	c := s.call(ctx)
	defer c.cancel()
	for {
		err := f(c.ctx)
		// A long listing may be compacted away under its feet; the next is at a later revision.
		again := status.Code(err) == codes.Unavailable || same(err, rpctypes.ErrGRPCCompacted)
		switch {
		case err == nil:
			return nil
		case !again:
			return s.unavailable(ctx, action, err)
		}
		select {
		case <-c.ctx.Done():
			return s.unavailable(ctx, action, err)
		case <-time.After(readPause):
		}
	}
}

// entry is a record as etcd has it.
func (s *Store) entry(kv *mvccpb.KeyValue) hwmap.Entry {
	e := hwmap.Entry{
		Key:         hwmap.Key(strings.TrimPrefix(string(kv.GetKey()), s.prefix)),
		Value:       kv.GetValue(),
		ModRevision: hwmap.Revision(kv.GetModRevision()),
	}
	if e.Value == nil {
		e.Value = []byte{} // protobuf does not tell empty from none
	}
	return e
}
