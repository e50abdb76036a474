package hwmap_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"ip6d/addr"
	"ip6d/hwmap"
)

func TestAttachIsIdempotentAndRefusesASecondPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		m := f.on(1)
		f.create(1, "web1")
		f.attach(1, "web1")
		_, err := m.Attach(t.Context(), "web1", hwmap.PortSpec{Existing: "tap0"})
		if !errors.Is(err, hwmap.ErrAttached) || !strings.Contains(err.Error(), "m1/1") {
			t.Errorf("another port: %v; want an error that names the first", err)
		}
		f.check(map[string]addr.Host{"web1": 1})
		for range 2 {
			if v, err := m.Detach(t.Context(), "web1"); err != nil || v.Port != nil {
				t.Errorf("detach: %+v, %v", v.Port, err)
			}
		}
		f.check(map[string]addr.Host{"web1": 1})
		if v, err := m.Attach(t.Context(), "web1", hwmap.PortSpec{Existing: "tap0"}); err != nil || v.Port.Device != "tap0" {
			t.Errorf("after detach: %+v, %v", v.Port, err)
		}
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestAttachThatCannotBeDoneLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		m := f.on(1)
		if _, err := m.Create(t.Context(), "web1", 7); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name string
			spec hwmap.PortSpec
			want error
		}{
			{"web1", hwmap.PortSpec{}, hwmap.ErrUsage},
			{"web1", hwmap.PortSpec{Netns: "/run/netns/a", Existing: "tap0"}, hwmap.ErrUsage},
			{"web2", hwmap.PortSpec{Existing: "tap0"}, hwmap.ErrUnknownMachine},
			{"web1", hwmap.PortSpec{Netns: "missing"}, nil},
		} {
			_, err := m.Attach(t.Context(), c.name, c.spec)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("%s %+v: %v, want %v", c.name, c.spec, err, c.want)
			}
		}
		if l := f.servers[1].local(1); l.Port != nil {
			t.Errorf("the truth has a port: %+v", l.Port)
		}
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestAttachAndDetachSurviveAnyFaultWhenRepeated(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		for range 2 {
			f.insist("detach", func() error {
				return f.call(1, func(ctx context.Context, m *hwmap.Map) error {
					_, err := m.Detach(ctx, "web1")
					return err
				})
			})
			f.attach(1, "web1")
		}
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestACrashInAttachLeavesNoPortAfterDestroy(t *testing.T) {
	everyFault(t, func(t *testing.T, f *fleet) {
		err := f.call(1, func(ctx context.Context, m *hwmap.Map) error {
			_, err := m.Create(ctx, "web2", 7)
			return err
		})
		t.Logf("create: %v, attach: %v", err, f.call(1, attach("web2")))
		f.destroy(1, "web2")
		f.check(map[string]addr.Host{"web1": 1})
	})
}

func TestAPortThatWentWithARebootIsMadeAgainByAttach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 1)
		created := f.create(1, "web1")
		f.servers[1].reboot()
		f.servers[1].start()
		e, _, _ := f.servers[1].kernel.Machine(created.ID)
		if e.Port.Ifindex != 0 {
			t.Errorf("after the reboot packets go into device %d, which is not there", e.Port.Ifindex)
		}
		f.attach(1, "web1")
		f.check(map[string]addr.Host{"web1": 1})
	})
}
