package etcd_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

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
