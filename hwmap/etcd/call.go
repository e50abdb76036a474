package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"ip6d/hwmap"
)

// call is one request to etcd.
type call struct {
	ctx    context.Context
	cancel context.CancelFunc
	sent   *atomic.Bool
}

// call bounds a request: by DialTimeout while there is no connection to send it on, by CallTimeout altogether. A server
// without a leader refuses it at once, instead of letting it wait and end in doubt.
func (s *Store) call(ctx context.Context) call {
	ctx, cancel := context.WithTimeout(ctx, s.o.CallTimeout)
	sent := new(atomic.Bool)
	undialled := time.AfterFunc(s.o.DialTimeout, func() {
		if !sent.Load() {
			cancel()
		}
	})
	return call{
		ctx:    context.WithValue(clientv3.WithRequireLeader(ctx), sentKey{}, sent),
		cancel: func() { undialled.Stop(); cancel() },
		sent:   sent,
	}
}

// unavailable is the error of a call that wrote nothing. caller is the context of the caller.
func (s *Store) unavailable(caller context.Context, action string, err error) error {
	if caller.Err() != nil {
		err = caller.Err()
	}
	if isDenied(err) {
		return fmt.Errorf("%s: etcd %s: %w", action, s.endpoints(), &deniedError{plain(err)})
	}
	return fmt.Errorf("%s: etcd %s: %w: %w", action, s.endpoints(), hwmap.ErrUnavailable, plain(err))
}

// deniedError is what etcd's access control refuses: as a store that cannot be reached, but the way out is another.
type deniedError struct{ why error }

func (e *deniedError) Error() string {
	return fmt.Sprintf("the store refuses this host: %v; give the etcd user that store.certificate names the roles of docs/ACCESS.md", e.why)
}

func (e *deniedError) Unwrap() []error { return []error{hwmap.ErrUnavailable, e.why} }

// isDenied reports whether etcd knows the caller and does not let him, or does not know him.
func isDenied(err error) bool {
	for _, known := range []error{rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCUserNotFound, rpctypes.ErrGRPCAuthFailed, rpctypes.ErrGRPCInvalidAuthToken} {
		// What ends a watch is told in words only.
		if same(err, known) || strings.Contains(err.Error(), rpctypes.ErrorDesc(known)) {
			return true
		}
	}
	return false
}

// writeError is the error of a failed write.
func (s *Store) writeError(caller context.Context, c call, action string, err error) error {
	switch verdict := judge(err); {
	case verdict == malformed:
		return fmt.Errorf("%s: etcd %s: %w: %w", action, s.endpoints(), hwmap.ErrUsage, plain(err))
	case verdict == refused || !c.sent.Load():
		return s.unavailable(caller, action, err)
	}
	if caller.Err() != nil {
		err = caller.Err()
	}
	return fmt.Errorf("%s: etcd %s: %w: %w", action, s.endpoints(), hwmap.ErrInDoubt, plain(err))
}

// verdict is what an error says about a write that was sent.
type verdict int

const (
	unknown   verdict = iota
	refused           // not proposed to the cluster, or not applied: nothing was written
	malformed         // refused for what it is, and always will be
)

// judge knows only errors that etcd gives instead of writing; all others are unknown. So is a full database
// (ErrGRPCNoSpace), because etcd also says that after it wrote what it had no room for. A status code is enough
// where etcd and gRPC use it for such errors alone.
func judge(err error) verdict {
	switch code := status.Code(err); {
	case same(err, rpctypes.ErrGRPCNoSpace):
		return unknown
	case same(err, rpctypes.ErrGRPCNoLeader), same(err, rpctypes.ErrTooManyRequests), same(err, rpctypes.ErrGRPCNotSupportedForLearner):
		return refused
	case same(err, rpctypes.ErrGRPCTooManyOps), same(err, rpctypes.ErrGRPCRequestTooLarge), same(err, rpctypes.ErrGRPCDuplicateKey),
		code == codes.ResourceExhausted: // larger than what gRPC lets through
		return malformed
	case code == codes.InvalidArgument, code == codes.PermissionDenied, code == codes.Unauthenticated, code == codes.Unimplemented:
		return refused
	}
	return unknown
}

// same reports whether a server's error is the known one. It arrives as a status with the same text.
func same(err, known error) bool {
	return status.Code(err) == status.Code(known) && rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(known)
}

// plain takes "rpc error: code = ... desc =" off a message that users see.
func plain(err error) error {
	if st, ok := status.FromError(err); ok && st != nil {
		return errors.New(st.Message())
	}
	return err
}

// sentKey is the context key of call.sent.
type sentKey struct{}

// sentHandler notes on a call that gRPC has taken it to a connection. Without that, certainly no server has seen it.
type sentHandler struct{}

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}
