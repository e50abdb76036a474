package etcd

import (
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestOnlyErrorsGivenInsteadOfWritingSayThatNothingWasWritten(t *testing.T) {
	cases := []struct {
		err  error
		want verdict
	}{
		{rpctypes.ErrGRPCTooManyOps, malformed},
		{rpctypes.ErrGRPCRequestTooLarge, malformed},
		{rpctypes.ErrGRPCDuplicateKey, malformed},
		{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5242934 vs. 2097152)"), malformed},

		{rpctypes.ErrGRPCNoLeader, refused},
		{rpctypes.ErrTooManyRequests, refused},
		{rpctypes.ErrGRPCPermissionDenied, refused},
		{rpctypes.ErrGRPCUserEmpty, refused},
		{rpctypes.ErrGRPCInvalidAuthToken, refused},
		{rpctypes.ErrGRPCAuthOldRevision, refused},
		{rpctypes.ErrGRPCNotSupportedForLearner, refused},
		{status.Error(codes.Unimplemented, "unknown service etcdserverpb.KV"), refused},

		{rpctypes.ErrGRPCNoSpace, unknown},
		{rpctypes.ErrGRPCTimeout, unknown},
		{rpctypes.ErrGRPCTimeoutDueToLeaderFail, unknown},
		{rpctypes.ErrGRPCTimeoutDueToConnectionLost, unknown},
		{rpctypes.ErrGRPCTimeoutWaitAppliedIndex, unknown},
		{rpctypes.ErrGRPCLeaderChanged, unknown},
		{rpctypes.ErrGRPCStopped, unknown},
		{rpctypes.ErrGRPCUnhealthy, unknown},
		{rpctypes.ErrGRPCCorrupt, unknown},
		{status.Error(codes.Unavailable, "error reading from server: EOF"), unknown},
		{status.Error(codes.Unavailable, "transport is closing"), unknown},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), unknown},
		{status.Error(codes.Canceled, "context canceled"), unknown},
		{status.Error(codes.Internal, "stream terminated by RST_STREAM"), unknown},
		{status.Error(codes.Unknown, "raft proposal dropped"), unknown},
	}
	for _, c := range cases {
		if got := judge(c.err); got != c.want {
			t.Errorf("%v is judged %d, must be %d", c.err, got, c.want)
		}
	}
}
