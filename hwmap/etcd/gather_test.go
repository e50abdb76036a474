package etcd

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"ip6d/hwmap"
)

// slowKV answers each read after a second, with each key as its value.
type slowKV struct {
	pb.KVClient
	mu    sync.Mutex // guards calls
	calls int
}

func (k *slowKV) Txn(ctx context.Context, r *pb.TxnRequest, _ ...grpc.CallOption) (*pb.TxnResponse, error) {
	k.mu.Lock()
	k.calls++
	k.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 1}}
	for _, op := range r.Success {
		key := op.GetRequestRange().Key
		if strings.HasSuffix(string(key), "secret") {
			return nil, rpctypes.ErrGRPCPermissionDenied
		}
		resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{
			Kvs: []*mvccpb.KeyValue{{Key: key, Value: key, ModRevision: 1}},
		}}})
	}
	return resp, nil
}

func newSlowStore() (*Store, *slowKV) {
	k := &slowKV{}
	return &Store{o: Options{Endpoints: []string{"etcd"}, CallTimeout: DefaultCallTimeout, DialTimeout: DefaultDialTimeout}, prefix: "/", kv: k}, k
}

func TestReadsThatWaitGoTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, k := newSlowStore()
		start := time.Now()
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				keys := []hwmap.Key{hwmap.Key(fmt.Sprint("a", i)), hwmap.Key(fmt.Sprint("b", i))}
				got, err := s.Get(t.Context(), keys...)
				if err != nil || len(got) != 2 || string(got[0].Value) != "/"+string(keys[0]) || string(got[1].Value) != "/"+string(keys[1]) {
					t.Errorf("%v: %v, %v", keys, got, err)
				}
			})
		}
		wg.Wait()
		took := time.Since(start)
		synctest.Wait() // what read for others has said that it is done
		if k.calls != readsAtOnce+1 || took != 2*time.Second {
			t.Errorf("40 reads were %d calls in %v, want %d in 2s", k.calls, took, readsAtOnce+1)
		}
		if s.reads.busy != 0 || s.reads.next != nil {
			t.Errorf("afterwards %d reads are said to be on their way", s.reads.busy)
		}
	})
}

func TestAReadThatIsRefusedHarmsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSlowStore()
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				if _, err := s.Get(t.Context(), hwmap.Key(fmt.Sprint("a", i))); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // so that it has to wait
		if _, err := s.Get(t.Context(), "secret"); !isDenied(err) {
			t.Errorf("a read that is refused: %v", err)
		}
		wg.Wait()
	})
}

func TestWhoGivesUpWaitingForOtherReadsIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSlowStore()
		var wg sync.WaitGroup
		for range readsAtOnce {
			wg.Go(func() { _, _ = s.Get(t.Context(), "a") }) // what they read does not matter
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := s.Get(ctx, "b"); err == nil || ctx.Err() == nil {
			t.Errorf("a read that was given up: %v", err)
		}
		wg.Wait()
		time.Sleep(2 * time.Second) // the read goes on without it
	})
}
