package hwmap_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"ip6d/addr"
	"ip6d/hwmap"
	"ip6d/nat"
)

func TestAFirstStartNeedsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.cutOff(2)
		s := f.add(2)
		if err := s.open(); !errors.Is(err, hwmap.ErrUnavailable) {
			t.Errorf("start: %v", err)
		}
		if all, _ := s.kernel.Blocks(); len(all) != 0 {
			t.Errorf("something was made: %v", all)
		}
		f.inject(nil)
		s.start()
		f.check(nil)
	})
}

func TestAServerHasOneHostID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		other := &server{fleet: f, id: 9, identity: f.servers[1].identity, truth: newMemory(), cache: newMemory(), devices: newDevices(), kernel: newKernel(9, func(nat.Machine) {}), witness: &sideFile{}, log: f.servers[1].log}
		if err := other.open(); !errors.Is(err, hwmap.ErrClaimed) {
			t.Errorf("a second id of host 1's server: %v", err)
		}
		if hosts := f.on(1).Hosts(); len(hosts) != 2 {
			t.Errorf("the fleet has the hosts %v", hosts)
		}
	})
}

func TestAHostIDIsClaimedWithAnIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.settled()
		before := f.view()
		other := &server{fleet: f, id: 1, identity: "another", truth: newMemory(), cache: newMemory(), devices: newDevices(), kernel: newKernel(1, func(nat.Machine) {}), witness: &sideFile{}, log: f.servers[1].log}
		err := other.open()
		if !errors.Is(err, hwmap.ErrClaimed) {
			t.Fatalf("start: %v", err)
		}
		for _, says := range []string{"id 1", `"identity-1"`, `"another"`} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("the error does not say %s: %v", says, err)
			}
		}
		equal(t, "the store", values(before.entries), values(f.view().entries))
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestAHostThatDisagreesWritesNothing(t *testing.T) {
	other, err := addr.NewPlan(netip.MustParsePrefix("fdac::/16"), netip.MustParsePrefix("fdad::/16"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*hwmap.Options)
		says   string
	}{
		"prefixes": {func(o *hwmap.Options) { o.Plan = other }, "fdac::/16"},
		"cell":     {func(o *hwmap.Options) { o.Cell = 2 }, "cell is 1"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 1)
				f.settled()
				before := f.view()
				o, _ := f.add(2).options()
				delete(f.servers, 2)
				c.change(&o)
				_, err := hwmap.Open(t.Context(), o)
				if !errors.Is(err, hwmap.ErrDisagree) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("start: %v; want an error that says %s", err, c.says)
				}
				equal(t, "the store", values(before.entries), values(f.view().entries))
			})
		})
	}
}

// A host that is running when the fleet's format moves on forwards, but writes nothing.
func TestAnOldReaderForwardsAndWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.migrate("web1", 1, 2)
		f.settled()
		e, err := f.store.Get(t.Context(), "meta")
		f.must(err)
		meta := record[hwmap.Meta](t, e[0])
		newer := meta
		newer.MinimumReader = hwmap.FormatVersion + 1
		f.cutOff(2)
		f.servers[2].kill()
		f.servers[2].start()
		f.write("meta", newer)
		f.inject(nil)
		f.settled()
		if s := f.on(2).Status(); s.Following || !errors.Is(s.StoreErr, hwmap.ErrDisagree) {
			t.Errorf("status: %+v", s)
		}
		if err := f.call(2, begin("web1", 1)); !errors.Is(err, hwmap.ErrUnavailable) || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("a move: %v", err)
		}
		if blocks, _ := f.servers[2].kernel.Blocks(); len(blocks) != 2 {
			t.Errorf("it does not forward from its cache: %v", blocks)
		}
		f.write("meta", meta)
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestAHostThatMovedTellsItsNewAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.servers[2].kill()
		o, _ := f.servers[2].options()
		o.Self.Underlay = netip.MustParseAddr("fd00:6d::222")
		_, err := hwmap.Open(t.Context(), o)
		f.must(err)
		f.settled()
		for _, h := range f.on(1).Hosts() {
			if h.ID == 2 && h.Underlay != o.Self.Underlay {
				t.Errorf("host 1 has host 2 at %s", h.Underlay)
			}
		}
		if _, hosts := f.servers[1].devices.content(); len(hosts) != 1 || hosts[0].Underlay != o.Self.Underlay {
			t.Errorf("host 1 has routes to %v", hosts)
		}
	})
}

func TestAHostPublishesItsWireGuardKeyAndANewOneTakesItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		for _, key := range []string{"key of yesterday", "key of today"} {
			f.servers[2].kill()
			o, _ := f.servers[2].options()
			o.Self.WireGuardKey, o.Self.Endpoint = key, netip.MustParseAddrPort("192.0.2.2:51820")
			_, err := hwmap.Open(t.Context(), o)
			f.must(err)
			f.settled()
			if _, hosts := f.servers[1].devices.content(); len(hosts) != 1 || hosts[0].WireGuardKey != key || hosts[0].Endpoint != o.Self.Endpoint {
				t.Errorf("host 1 knows host 2 as %+v, want its key %q and endpoint", hosts, key)
			}
		}
	})
}

func TestACopiedKeyIsRefused(t *testing.T) {
	for file, have := range map[string]func(*hwmap.Host){
		"wireguard.key": func(h *hwmap.Host) { h.WireGuardKey = "one key" },
		"peer.key":      func(h *hwmap.Host) { h.PeerKey = "one key" },
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFleet(t, 2)
			for _, id := range []addr.Host{1, 2} {
				f.servers[id].kill()
				o, _ := f.servers[id].options()
				have(&o.Self)
				_, err := hwmap.Open(t.Context(), o)
				if id == 1 {
					f.must(err)
				} else if !errors.Is(err, hwmap.ErrClaimed) || !strings.Contains(err.Error(), file) {
					t.Errorf("a copy of %s starts: %v", file, err)
				}
			}
		})
	}
}

func TestARecordOfAnOlderDaemonIsReadAndKeptAsItIs(t *testing.T) {
	const older = `{"host":2,"name":"host2","identity":"identity2","underlay":"fd00:6d::2","peer":"[fd00:6d::2]:6446","state":"joined"}`
	var h hwmap.Host
	if err := json.Unmarshal([]byte(older), &h); err != nil {
		t.Fatal(err)
	}
	if h.WireGuardKey != "" || h.Endpoint.IsValid() || h.Name != "host2" {
		t.Errorf("read as %+v", h)
	}
	if again, err := json.Marshal(h); err != nil || string(again) != older {
		t.Errorf("written as %s (%v), want as it was: %s", again, err, older)
	}
}

func TestACorruptDatabaseIsNotGuessedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		f.create(1, "web1")
		f.servers[1].kill()
		_, err := f.servers[1].truth.Commit(t.Context(), hwmap.Txn{Then: []hwmap.Write{{Key: "local/machines/1", Value: []byte("{")}}})
		f.must(err)
		if err := f.servers[1].open(); !errors.Is(err, hwmap.ErrCorrupt) || !strings.Contains(err.Error(), "local/machines/1") {
			t.Errorf("start: %v", err)
		}
		if entries, _ := f.servers[1].kernel.Machines(); len(entries) != 1 {
			t.Errorf("packets no longer flow: %v", entries)
		}
	})
}
