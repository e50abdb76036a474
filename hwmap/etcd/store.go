package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	"ip6d/hwmap"
)

// Defaults of Options.
const (
	DefaultDialTimeout = 1500 * time.Millisecond // a move must fail at once where the store is away
	DefaultCallTimeout = 8 * time.Second         // etcd itself gives up a request after 7 s, and says more about it
)

// Options says which etcd cluster to use, and how.
type Options struct {
	// Endpoints of the cluster, each HOST:PORT or http(s)://HOST:PORT. At least one.
	Endpoints []string

	// Cluster is the fleet's name, part of every key. It has no slash.
	Cluster string

	// TLS returns the settings of the next connection, for https endpoints, and for those without a scheme: certificates may
	// be renewed. nil: https endpoints are checked against the system's certificates.
	TLS func() *tls.Config

	// DialTimeout is how long a call waits for a connection. 0: DefaultDialTimeout.
	DialTimeout time.Duration

	// CallTimeout is how long a call takes altogether, Watch and Hold apart. 0: DefaultCallTimeout.
	CallTimeout time.Duration

	// Logger takes what went wrong without failing a call. nil: nothing is logged.
	Logger *slog.Logger

	// Observe is told how long each "commit", "get" and "list" took, as its caller saw it. nil: nobody looks.
	Observe func(operation string, took time.Duration)
}

// Store is a hwmap.Store in etcd. It is safe for concurrent use.
type Store struct {
	o      Options
	prefix string // of all keys
	client *clientv3.Client
	kv     pb.KVClient
	lease  pb.LeaseClient
	watch  pb.WatchClient
	reads  gatherer
	log    *slog.Logger

	// listed is where the last List read, nil before the first.
	listed atomic.Pointer[pb.ResponseHeader]

	history history // of the cluster, to tell when it was restored or replaced

	closeOnce sync.Once
	closeErr  error
}

// Open makes a Store. It does not wait for etcd, so that the daemon starts without; calls then fail with
// hwmap.ErrUnavailable, and connecting goes on until Close. The Store outlives ctx, so that it can still release what it
// holds when the daemon's own context has ended. Errors: hwmap.ErrUsage.
func Open(ctx context.Context, o Options) (*Store, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = DefaultDialTimeout
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = DefaultCallTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	reconnect := backoff.DefaultConfig // with jitter
	reconnect.BaseDelay, reconnect.MaxDelay = 100*time.Millisecond, 3*time.Second
	options := []grpc.DialOption{
		grpc.WithStatsHandler(sentHandler{}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: o.DialTimeout}),
		grpc.WithDefaultCallOptions(
			grpc.WaitForReady(true), // for a connection, as long as the call's context allows
			grpc.MaxCallRecvMsgSize(math.MaxInt32),
		),
	}
	if o.TLS != nil && !strings.HasPrefix(o.Endpoints[0], "http://") {
		options = append(options, grpc.WithTransportCredentials(freshTLS{credentials.NewTLS(nil), o.TLS}))
	}
	client, err := clientv3.New(clientv3.Config{
		Context:     context.WithoutCancel(ctx),
		Endpoints:   o.Endpoints,
		DialTimeout: o.DialTimeout,
		Logger:      zap.NewNop(), // every failure is also an error of a call
		// One attempt per call: the client repeats also writes, when etcd notices the deadline of one before we do.
		MaxUnaryRetries: 1,
		// A server that has stopped answering is noticed within 15 s. Pings more frequent than 10 s gRPC does not send.
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		DialOptions:          options,
	})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w: %w", strings.Join(o.Endpoints, ","), hwmap.ErrUsage, err)
	}
	conn := client.ActiveConnection()
	conn.Connect()
	return &Store{
		o:      o,
		prefix: "/ip6d/" + o.Cluster + "/",
		client: client,
		kv:     pb.NewKVClient(conn),
		lease:  pb.NewLeaseClient(conn),
		watch:  pb.NewWatchClient(conn),
		log:    o.Logger,
	}, nil
}

// freshTLS are credentials by the settings of the moment.
type freshTLS struct {
	credentials.TransportCredentials
	settings func() *tls.Config
}

func (f freshTLS) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return credentials.NewTLS(f.settings()).ClientHandshake(ctx, authority, raw)
}

func (f freshTLS) Clone() credentials.TransportCredentials { return f }

func (o Options) check() error {
	if len(o.Endpoints) == 0 {
		return fmt.Errorf("%w: no etcd endpoint is given", hwmap.ErrUsage)
	}
	for _, e := range o.Endpoints {
		if e == "" {
			return fmt.Errorf("%w: an etcd endpoint is empty; give HOST:PORT", hwmap.ErrUsage)
		}
	}
	if o.Cluster == "" || strings.Contains(o.Cluster, "/") {
		return fmt.Errorf("%w: cluster name %q: must not be empty, and have no slash", hwmap.ErrUsage, o.Cluster)
	}
	return nil
}

// Close ends all calls and connections. A key that is held stays for its ttl at most.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			s.closeErr = fmt.Errorf("close store %s: %w", s.endpoints(), err)
		}
	})
	return s.closeErr
}

// ID implements hwmap.Store. An etcd cluster that was set up again with the same settings may have the same id; what tells
// it is a revision, or a record, that is not what it was.
func (s *Store) ID(ctx context.Context) (string, error) {
	s.history.forget()
	h, err := s.header(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%016x", h.GetClusterId()), nil
}

// timed begins to time an operation for Options.Observe, and returns what ends it.
func (s *Store) timed(operation string) (end func()) {
	if s.o.Observe == nil {
		return func() {}
	}
	start := time.Now()
	return func() { s.o.Observe(operation, time.Since(start)) }
}

// Version is that of the server that answers. Errors: hwmap.ErrUnavailable.
func (s *Store) Version(ctx context.Context) (version string, err error) {
	err = s.read(ctx, "read version", func(ctx context.Context) error {
		r, err := pb.NewMaintenanceClient(s.client.ActiveConnection()).Status(ctx, &pb.StatusRequest{})
		version = r.GetVersion()
		return err
	})
	return version, err
}

func (s *Store) endpoints() string { return strings.Join(s.o.Endpoints, ",") }

// key returns the key in etcd.
func (s *Store) key(k hwmap.Key) []byte { return []byte(s.prefix + string(k)) }
