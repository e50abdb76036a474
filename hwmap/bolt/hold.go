package bolt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"ip6d/hwmap"
)

// Hold implements hwmap.Store. A later Hold of the same key takes it over, and the end of the earlier one then leaves it
// alone. Should this process die, nobody can read the file before the next Open, which deletes the key; ttl is not needed.
func (s *Store) Hold(ctx context.Context, key hwmap.Key, value []byte, ttl time.Duration) error {
	if ctx.Err() != nil {
		return nil
	}
	if value == nil {
		value = []byte{}
	}
	revision, err := s.submit(ctx, &request{txn: hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: value}}}, held: true})
	if err != nil {
		return fmt.Errorf("hold %q: %w", key, err)
	}
	select {
	case <-ctx.Done():
	case <-s.closed:
		return fmt.Errorf("hold %q: database %s: %w", key, s.path, errClosed)
	}
	_, err = s.Commit(context.WithoutCancel(ctx), hwmap.Txn{
		If:   []hwmap.Condition{{Key: key, ModRevision: revision}},
		Then: []hwmap.Write{{Key: key}},
	})
	if err != nil && !errors.Is(err, hwmap.ErrConflict) {
		return fmt.Errorf("release %q: %w", key, err)
	}
	return nil
}

// dropHeld deletes the keys that an earlier process held when it died.
func (s *Store) dropHeld() error {
	var t hwmap.Txn
	if err := s.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(heldBucket).ForEach(func(k, _ []byte) error {
			t.Then = append(t.Then, hwmap.Write{Key: hwmap.Key(k)})
			return nil
		})
	}); err != nil {
		return err
	}
	if len(t.Then) == 0 {
		return nil
	}
	_, err := s.Commit(context.Background(), t)
	return err
}
