package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/hwmap/storetest"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

func TestStore(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	var n atomic.Int32
	storetest.Run(t, func(t *testing.T) hwmap.Store {
		return open(t, server, etcd.Options{Cluster: fmt.Sprintf("test-%d", n.Add(1))})
	})
}

// startServer runs a server of the test's own.
func startServer(t *testing.T, args ...string) *etcdproc.Server {
	t.Helper()
	binary, err := etcdproc.FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := etcdproc.Start(ctx, etcdproc.Options{Binary: binary, Dir: filepath.Join(t.TempDir(), "etcd"), Args: args})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// open opens a Store on the server, and closes it at the end of the test. Its calls are as patient as the test, unless o
// says otherwise.
func open(t *testing.T, server *etcdproc.Server, o etcd.Options) *etcd.Store {
	t.Helper()
	o.Endpoints = []string{server.Endpoint()}
	if o.Cluster == "" {
		o.Cluster = "test"
	}
	if o.DialTimeout == 0 {
		o.DialTimeout = patience
	}
	if o.CallTimeout == 0 {
		o.CallTimeout = patience
	}
	s, err := etcd.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(key, value string) hwmap.Txn {
	return hwmap.Txn{Then: []hwmap.Write{{Key: hwmap.Key(key), Value: []byte(value)}}}
}

func create(key, value string) hwmap.Txn {
	t := put(key, value)
	t.If = []hwmap.Condition{{Key: hwmap.Key(key)}}
	return t
}

func commit(t *testing.T, s hwmap.Store, txn hwmap.Txn) hwmap.Revision {
	t.Helper()
	r, err := s.Commit(t.Context(), txn)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s in vain: %s", patience, what)
		}
	}
}

// admin is etcd's own client, for what a Store does not do.
func admin(t *testing.T, server *etcdproc.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{server.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// restart starts a stopped server again.
func restart(t *testing.T, server *etcdproc.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, server.Start(ctx))
}
