package hwmap_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"ip6d/addr"
	"ip6d/nat"
)

func TestAHostWithoutRoomForAMoveSaysSoOnceAndHealsWhenThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		id := f.create(1, "web1").ID
		f.settled()
		k := f.servers[3].kernel
		k.limit(-1)
		f.switchOver("web1", 1, 2)
		time.Sleep(10 * time.Minute)
		s := f.on(3).Status()
		if s.Following || !errors.Is(s.StoreErr, nat.ErrFull) {
			t.Errorf("its status does not say so: following %v, %v", s.Following, s.StoreErr)
		}
		if n := f.servers[3].log.count("map is full"); n != 1 {
			t.Errorf("its log says so %d times, want once", n)
		}
		// A restart does not make it worse.
		f.servers[3].kill()
		f.servers[3].start()
		if s := f.on(3).Status(); !errors.Is(s.StoreErr, nat.ErrFull) {
			t.Errorf("after a restart its status does not say so: %v", s.StoreErr)
		}
		k.limit(0)
		f.insist("finish", func() error { return f.call(1, finish("web1")) })
		f.settled()
		if to := f.servers[3].sendsTo(id); to != 2 {
			t.Errorf("with room it sends to host %d, want 2", to)
		}
		f.check(map[string]addr.Host{"web1": 2})
		if s := f.on(3).Status(); !s.Following || s.StoreErr != nil {
			t.Errorf("its status afterwards: following %v, %v", s.Following, s.StoreErr)
		}
	})
}

func TestATargetWithoutRoomRefusesAMigrationAndSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.create(1, "web1")
		f.settled()
		f.servers[2].kernel.limit(-1)
		if err := f.call(1, begin("web1", 2)); !errors.Is(err, nat.ErrFull) {
			t.Errorf("begin: %v", err)
		}
		f.must(f.call(1, abort("web1")))
		f.check(map[string]addr.Host{"web1": 1})
		f.servers[2].kernel.limit(0)
		f.migrate("web1", 1, 2)
		f.check(map[string]addr.Host{"web1": 2})
	})
}

func TestAttachWithoutRoomForAPortFailsAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		if _, err := f.on(1).Create(t.Context(), "web1", 7); err != nil {
			t.Fatal(err)
		}
		f.servers[1].kernel.limit(-1)
		if err := f.call(1, attach("web1")); !errors.Is(err, nat.ErrFull) {
			t.Errorf("attach: %v", err)
		}
		f.check(map[string]addr.Host{"web1": 1})
		f.servers[1].kernel.limit(0)
		f.must(f.call(1, attach("web1")))
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestAHostWithoutRoomForBlocksLeasesNoneAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		f.settled()
		f.servers[1].kernel.limit(2) // blocks, which is how many there are: each host has one
		blocks := func() (n int) {
			entries, _, err := f.store.List(t.Context(), "map/blocks/")
			f.must(err)
			return len(entries)
		}
		var last error
		for n := range 300 {
			f.servers[1].kernel.mu.Lock()
			f.servers[1].kernel.machines = make(map[addr.ID]nat.Machine) // which have room
			f.servers[1].kernel.mu.Unlock()
			if _, last = f.on(1).Create(t.Context(), fmt.Sprint("web", n), 7); last != nil {
				break
			}
		}
		if !errors.Is(last, addr.ErrExhausted) {
			t.Errorf("the last create: %v", last)
		}
		time.Sleep(10 * time.Minute)
		if n := blocks(); n != 3 {
			t.Errorf("the store has %d blocks, want 3: two in use, and one that has no room", n)
		}
		if s := f.on(1).Status(); !errors.Is(s.StoreErr, nat.ErrFull) {
			t.Errorf("its status does not say why: %v", s.StoreErr)
		}
		if n := f.servers[1].log.count("blocks not kept"); n != 1 {
			t.Errorf("its log says so %d times, want once", n)
		}
		f.servers[1].kernel.limit(0)
		f.settled()
		if _, err := f.on(1).Create(t.Context(), "roomy", 7); err != nil {
			t.Errorf("create with room: %v", err)
		}
		if s := f.on(1).Status(); s.StoreErr != nil {
			t.Errorf("its status afterwards: %v", s.StoreErr)
		}
	})
}
