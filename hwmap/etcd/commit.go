package etcd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ip6d/hwmap"
)

// Commit implements hwmap.Store. It returns hwmap.ErrUsage, and writes nothing, when etcd finds t too large: by default it
// takes at most 128 conditions, 128 writes, and 1.5 MiB in all.
func (s *Store) Commit(ctx context.Context, t hwmap.Txn) (hwmap.Revision, error) {
	defer s.timed("commit")()
	return s.commit(ctx, t, 0)
}

// commit attaches the written keys to the lease, if it is not 0.
func (s *Store) commit(ctx context.Context, t hwmap.Txn, lease int64) (hwmap.Revision, error) {
	if err := t.Check(); err != nil {
		return 0, fmt.Errorf("commit: %w", err)
	}
	req := &pb.TxnRequest{}
	for _, c := range t.If {
		req.Compare = append(req.Compare, &pb.Compare{
			Key:         s.key(c.Key),
			Target:      pb.Compare_MOD,
			Result:      pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_ModRevision{ModRevision: int64(c.ModRevision)},
		})
	}
	for _, w := range t.Then {
		op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: s.key(w.Key), Value: w.Value, Lease: lease},
		}}
		if w.Value == nil {
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: s.key(w.Key)}}
		}
		req.Success = append(req.Success, op)
	}
	sent, err := s.history.now()
	if err != nil {
		return 0, s.unavailable(ctx, "commit", err)
	}
	c := s.call(ctx)
	defer c.cancel()
	// gofail: var beforeStore struct{}

	// gofail: var storeRequestLate int
	// later(storeRequestLate, func() { _, _ = s.kv.Txn(context.Background(), req) })
	// return 0, fmt.Errorf("commit: %w: it is on its way", hwmap.ErrInDoubt)

	resp, err := s.kv.Txn(c.ctx, req)
	// gofail: var afterStore struct{}

	// gofail: var storeAnswerLost struct{}
	// return 0, fmt.Errorf("commit: %w: the answer was lost", hwmap.ErrInDoubt)

	if err == nil {
		if resp.GetSucceeded() && slices.ContainsFunc(t.Then, func(w hwmap.Write) bool { return w.Value != nil }) {
			sent.revision++ // it is later than all that was seen; deleting what is not there has no revision
		}
		if restored := s.history.note(sent, resp.GetHeader()); restored != nil && resp.GetSucceeded() {
			// It was written, but into what may not last.
			return 0, fmt.Errorf("commit: %w: %w", hwmap.ErrInDoubt, restored)
		}
	}
	switch {
	case err != nil:
		return 0, s.writeError(ctx, c, fmt.Sprintf("write %s below %s", written(t), s.prefix), err)
	case !resp.GetSucceeded():
		return 0, fmt.Errorf("commit: %w (conditions %v)", hwmap.ErrConflict, t.If)
	}
	return hwmap.Revision(resp.GetHeader().GetRevision()), nil
}

// written names what t writes.
func written(t hwmap.Txn) string {
	var keys []string
	for _, w := range t.Then {
		keys = append(keys, string(w.Key))
	}
	const most = 3
	if more := len(keys) - most; more > 0 {
		keys = append(keys[:most], fmt.Sprintf("%d more", more))
	}
	return strings.Join(keys, ", ")
}
