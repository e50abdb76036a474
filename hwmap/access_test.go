package hwmap_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"ip6d/addr"
	"ip6d/certificate"
	"ip6d/certificate/certtest"
	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
	"ip6d/hwmap/etcd/etcdproc"
	"ip6d/nat"
)

// guarded is a server that lets in only who has a certificate, and knows roles.
type guarded struct {
	t         *testing.T
	server    *etcdproc.Server
	authority *certtest.Authority
	dir       string
	root      *clientv3.Client
}

// The address is as likely to be free as any: etcdproc finds one by itself only where no certificate has to name it.
func newGuarded(t *testing.T) *guarded {
	t.Helper()
	binary, err := etcdproc.FindBinary()
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{t: t, authority: certtest.NewAuthority(t), dir: t.TempDir()}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 99, byte(rand.Uint32()), 1 + byte(rand.Uint32()%254)}), uint16(20000+rand.IntN(10000)))
	g.server, err = etcdproc.Start(ctx, etcdproc.Options{
		Binary: binary, Dir: filepath.Join(t.TempDir(), "etcd"), Listen: at, Files: g.authority.Issue(t.TempDir(), "server", at.Addr().String()),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.server.Stop)
	if g.root, err = clientv3.New(clientv3.Config{Endpoints: []string{g.server.Endpoint()}, TLS: g.files("root").Client(), Logger: zap.NewNop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.root.Close(); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return g
}

func (g *guarded) files(user string) *certificate.Files {
	g.t.Helper()
	f, err := certificate.Open(g.authority.Issue(g.dir, user), slog.New(slog.DiscardHandler))
	if err != nil {
		g.t.Fatal(err)
	}
	return f
}

// as opens a Store as that user.
func (g *guarded) as(user string) *etcd.Store {
	g.t.Helper()
	s, err := etcd.Open(context.Background(), g.options(user))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if err := s.Close(); err != nil {
			g.t.Error(err)
		}
	})
	return s
}

func (g *guarded) options(user string) etcd.Options {
	return etcd.Options{
		Endpoints: []string{g.server.Endpoint()}, Cluster: "c", TLS: g.files(user).Client, DialTimeout: 5 * time.Second, CallTimeout: 10 * time.Second,
	}
}

// may gives the user a role of the same name, which may read everything below the cluster's prefix and write the keys. A
// key that ends with a slash, or is empty, stands for all below it.
func (g *guarded) may(user string, keys ...string) {
	g.t.Helper()
	const all = "/ip6d/c/"
	_, err := g.root.UserAddWithOptions(g.t.Context(), user, "", &clientv3.UserAddOptions{NoPassword: true})
	if err == nil {
		_, err = g.root.RoleAdd(g.t.Context(), user)
	}
	if err == nil {
		_, err = g.root.RoleGrantPermission(g.t.Context(), user, all, clientv3.GetPrefixRangeEnd(all), clientv3.PermissionType(clientv3.PermRead))
	}
	for _, key := range keys {
		end := ""
		if key == "" || strings.HasSuffix(key, "/") {
			end = clientv3.GetPrefixRangeEnd(all + key)
		}
		if err == nil {
			_, err = g.root.RoleGrantPermission(g.t.Context(), user, all+key, end, clientv3.PermissionType(clientv3.PermReadWrite))
		}
	}
	if err == nil {
		_, err = g.root.UserGrantRole(g.t.Context(), user, user)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// enable switches access control on.
func (g *guarded) enable() {
	g.t.Helper()
	_, err := g.root.UserAddWithOptions(g.t.Context(), "root", "", &clientv3.UserAddOptions{NoPassword: true})
	if err == nil {
		_, err = g.root.UserGrantRole(g.t.Context(), "root", "root")
	}
	if err == nil {
		_, err = g.root.AuthEnable(g.t.Context())
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// ofHost are the keys that a host has to write, besides those that all share.
func ofHost(id addr.Host) []string {
	n := fmt.Sprint(id)
	return []string{"map/blocks/", "map/machines/", "map/hosts/" + n, "alive/" + n, "applied/" + n, "witness/" + n}
}

// The roles are those of docs/ACCESS.md.
func TestTheRolesOfTheDocumentationSufficeForAFleetAndNoMoreIsPossible(t *testing.T) {
	g := newGuarded(t)
	g.may("operator", "")
	for _, id := range []addr.Host{1, 2} {
		g.may(fmt.Sprint("host", id), ofHost(id)...)
	}
	g.may("stranger")
	g.enable()
	hosts := make(map[addr.Host]*realHost)
	find := func(id addr.Host) (*hwmap.Map, error) {
		if h, ok := hosts[id]; ok {
			return h.Map, nil
		}
		return nil, hwmap.ErrUnavailable
	}
	start := func(id addr.Host, user string) {
		t.Helper()
		hosts[id] = startReal(t, id, t.TempDir(), g.options(user), newKernel(id, func(nat.Machine) {}), newDevices(), find)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	start(9, "operator") // the first host of a fleet writes meta, which no ordinary host may
	start(1, "host1")
	start(2, "host2")
	one, two, operator := hosts[1], hosts[2], hosts[9]

	// join, lease, move there and back, finish
	until(t, "hosts 1 and 2 know each other", func() bool { return len(one.Hosts()) == 3 && len(two.Hosts()) == 3 })
	_, err := one.Create(ctx, "web1", 7)
	must(err)
	must(attach("web1")(ctx, one.Map))
	move := func(from, to *realHost, id addr.Host) {
		t.Helper()
		must(begin("web1", id)(ctx, from.Map))
		must(attach("web1")(ctx, to.Map))
		must(switchover("web1")(ctx, from.Map))
		until(t, "the move is finished", func() bool { return finish("web1")(ctx, from.Map) == nil })
	}
	move(one, two, 2)
	move(two, one, 1)

	// What a host may not do, it is told in words of their own.
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), "the store refuses this host: etcdserver: permission denied; give the etcd user") {
			t.Errorf("%s: %v, want it refused by the store, and the way out", what, err)
		}
	}
	_, err = one.Cordon(ctx, 2)
	refused("host 1 cordons host 2", err)
	if err != nil && !strings.Contains(err.Error(), "map/hosts/2") {
		t.Errorf("the error does not name what was to be written: %v", err)
	}
	_, err = operator.Cordon(ctx, 2)
	must(err)
	_, err = one.Cordon(ctx, 1) // itself
	must(err)
	for _, key := range []hwmap.Key{"meta", "map/hosts/2", "map/hosts/11", "alive/2", "applied/2", "other"} {
		_, err := g.as("host1").Commit(ctx, hwmap.Txn{Then: []hwmap.Write{{Key: key, Value: []byte("{}")}}})
		refused("host 1 writes "+string(key), err)
	}

	// A removed host leaves three keys, which the operator's daemon deletes.
	two.stop()
	e, err := operator.Fleet.Get(ctx, "map/hosts/2", "applied/2")
	must(err)
	txn := hwmap.Txn{}
	for _, e := range e {
		txn.If = append(txn.If, hwmap.Condition{Key: e.Key, ModRevision: e.ModRevision})
		txn.Then = append(txn.Then, hwmap.Write{Key: e.Key})
	}
	_, err = g.as("host1").Commit(ctx, txn)
	refused("host 1 removes host 2", err)
	_, err = operator.Fleet.Commit(ctx, txn)
	must(err)

	// Without permission to write, and without a role at all.
	for _, user := range []string{"stranger", "nobody"} {
		err := join(t, 3, g.as(user))
		if !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), "the store refuses this host") {
			t.Errorf("%s joins: %v", user, err)
		}
	}
	err = g.as("nobody").Watch(ctx, "map/", 1, func(hwmap.Batch) error { return nil })
	if !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), "the store refuses this host") {
		t.Errorf("a watch without permission: %v", err)
	}
}

// join starts a host on the store, and returns why it cannot.
func join(t *testing.T, id addr.Host, store hwmap.Store) error {
	t.Helper()
	m, err := hwmap.Open(t.Context(), hwmap.Options{
		Plan: addr.DefaultPlan, Cell: cell, Self: hwmap.Host{ID: id, Name: "host", Identity: "new"},
		Truth: newMemory(), Cache: newMemory(), Fleet: store, Datapath: newKernel(id, func(nat.Machine) {}), Ports: newDevices(),
		Quarantine: time.Hour, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if m != nil {
		t.Errorf("host %d has joined", id)
	}
	return err
}

func TestAStoreThatIsNotWhatTheAuthoritySaysIsNotSpokenWith(t *testing.T) {
	g := newGuarded(t)
	o := g.options("host1")
	foreign, err := certificate.Open(certtest.NewAuthority(t).Issue(t.TempDir(), "host1"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	o.TLS, o.DialTimeout = foreign.Client, time.Second
	s, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Get(t.Context(), "meta")
	if !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a store of another authority: %v; want an error that names the certificate", err)
	}
}

func TestAHostsRenewedCertificateIsTakenAtTheNextConnection(t *testing.T) {
	g := newGuarded(t)
	g.may("host1", ofHost(1)...)
	g.enable()
	dir := t.TempDir()
	files, err := certificate.Open(g.authority.Issue(dir, "nobody"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	o := g.options("host1")
	o.TLS = files.Client
	s, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Get(t.Context(), "meta"); err == nil || !strings.Contains(err.Error(), "the store refuses this host") {
		t.Errorf("with the certificate of a user that there is not: %v", err)
	}
	// The file keeps its name.
	renewed := g.authority.Issue(t.TempDir(), "host1")
	for from, to := range map[string]string{renewed.Certificate: "nobody.crt", renewed.Key: "nobody.key"} {
		if err := os.Rename(from, filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	g.server.Stop() // and with it the connection
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if err := g.server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	until(t, "the store takes it", func() bool {
		_, err := s.Get(ctx, "meta")
		return err == nil
	})
}
