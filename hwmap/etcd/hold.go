package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"ip6d/hwmap"
)

// Hold implements hwmap.Store by a lease that carries this one key. When the lease is lost, because this process or etcd
// was stopped for longer than ttl, it takes a new one if etcd answers; else it returns hwmap.ErrUnavailable. etcd counts
// ttl in whole seconds and has a least one of its own, 2 seconds by default; ttl is rounded up.
//
// A later Hold of the same key takes it over; the end of the earlier one then leaves it alone.
func (s *Store) Hold(ctx context.Context, key hwmap.Key, value []byte, ttl time.Duration) error {
	if value == nil {
		value = []byte{}
	}
	var held hwmap.Revision
	for ctx.Err() == nil {
		lease, revision, err := s.take(ctx, key, value, ttl, held)
		switch {
		case errors.Is(err, errTaken):
			select {
			case <-ctx.Done(): // there was nothing left to hold, and there is nothing to delete
				return nil
			case <-s.client.Ctx().Done():
				return s.holdError(key, errClosed)
			}
		case err != nil && ctx.Err() == nil:
			return s.holdError(key, err)
		case err != nil:
			return nil
		}
		held = revision
		alive, err := s.client.KeepAlive(ctx, clientv3.LeaseID(lease))
		if err != nil {
			return s.holdError(key, err)
		}
		for range alive {
		}
		switch {
		case ctx.Err() != nil:
			if err := s.revoke(ctx, lease); err != nil {
				return fmt.Errorf("release %q, which stays for up to %s: %w", key, ttl, err)
			}
		case s.client.Ctx().Err() != nil:
			return s.holdError(key, errClosed)
		default:
			s.log.Warn("lease lost, taking another", "key", key, "lease", fmt.Sprintf("%x", lease))
		}
	}
	return nil
}

var (
	// errTaken: another Hold or Commit has put the key since.
	errTaken = errors.New("taken over")

	errClosed = errors.New("the store is closed")
)

// holdError makes every failure to hold but a malformed one ErrUnavailable: in doubt is only whether the key outlives the
// call by ttl, which is so whenever etcd is away.
func (s *Store) holdError(key hwmap.Key, err error) error {
	if errors.Is(err, hwmap.ErrUsage) {
		return fmt.Errorf("hold %q: %w", key, err)
	}
	return fmt.Errorf("hold %q: %w: %v", key, hwmap.ErrUnavailable, err)
}

// take puts the key under a new lease. held is the revision of the key as this Hold put it last, 0 for the first time.
func (s *Store) take(ctx context.Context, key hwmap.Key, value []byte, ttl time.Duration, held hwmap.Revision) (lease int64, revision hwmap.Revision, err error) {
	t := hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: value}}}
	if err := t.Check(); err != nil {
		return 0, 0, err
	}
	if lease, err = s.grant(ctx, ttl); err != nil {
		return 0, 0, err
	}
	for {
		if held != 0 {
			if t.If, err = s.still(ctx, key, held); err != nil {
				break
			}
		}
		revision, err = s.commit(ctx, t, lease)
		if err == nil {
			return lease, revision, nil
		}
		// The old lease ran out just now, and took the key along; or somebody else has put it.
		if !errors.Is(err, hwmap.ErrConflict) {
			break
		}
	}
	// Also where it is unknown whether the key was put: it goes with its lease, now, or when that runs out.
	if revokeErr := s.revoke(ctx, lease); revokeErr != nil {
		s.log.Warn("lease not revoked, it runs out by itself", "key", key, "lease", fmt.Sprintf("%x", lease), "error", revokeErr)
	}
	return 0, 0, err
}

// still returns the condition that the key is as this Hold put it, or gone with its lease. Error: errTaken.
func (s *Store) still(ctx context.Context, key hwmap.Key, held hwmap.Revision) ([]hwmap.Condition, error) {
	now, err := s.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if r := now[0].ModRevision; r != 0 && r != held {
		return nil, errTaken
	}
	return []hwmap.Condition{{Key: key, ModRevision: now[0].ModRevision}}, nil
}

// grant makes a lease.
func (s *Store) grant(ctx context.Context, ttl time.Duration) (int64, error) {
	c := s.call(ctx)
	defer c.cancel()
	resp, err := s.lease.LeaseGrant(c.ctx, &pb.LeaseGrantRequest{TTL: int64(math.Ceil(max(ttl, time.Second).Seconds()))})
	if err != nil {
		return 0, s.unavailable(ctx, "grant lease", err)
	}
	return resp.GetID(), nil
}

// revoke ends a lease, and with it the key that is attached to it. The context of the caller may have ended already.
func (s *Store) revoke(ctx context.Context, lease int64) error {
	ctx = context.WithoutCancel(ctx)
	c := s.call(ctx)
	defer c.cancel()
	_, err := s.lease.LeaseRevoke(c.ctx, &pb.LeaseRevokeRequest{ID: lease})
	if err != nil && !same(err, rpctypes.ErrGRPCLeaseNotFound) {
		return s.unavailable(ctx, "revoke lease", err)
	}
	return nil
}
