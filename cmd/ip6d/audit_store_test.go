package main

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"ip6d/audit"
	"ip6d/hwmap"
)

func TestEachKindOfDifferenceOfTheStoreIsNamedAlone(t *testing.T) {
	a := newAudited(t)
	web1 := func(more string) string {
		return fmt.Sprintf(`{"machine":1,"name":"web1","network":42,%s}`, more)
	}
	record := func(key hwmap.Key) string {
		t.Helper()
		e, err := a.store.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return string(e[0].Value)
	}
	for _, c := range []struct {
		kind     audit.Kind
		object   string
		key      hwmap.Key
		value    string
		severity audit.Severity
		repaired bool
	}{
		{audit.OwnerUnknown, "machine 1283", "map/machines/1283", `{"machine":1283,"name":"a","network":42,"host":77,"epoch":2}`, audit.Error, false},
		{audit.TargetUnknown, "machine 1283", "map/machines/1283", `{"machine":1283,"name":"a","network":42,"host":3,"moving_to":77,"epoch":2}`, audit.Warning, false},
		{audit.BlockUnrecorded, "machine 2305", "map/machines/2305", `{"machine":2305,"name":"a","network":42,"host":3,"epoch":2}`, audit.Error, false},
		{audit.MachineNotHere, "machine 1283", "map/machines/1283", `{"machine":1283,"name":"a","network":42,"host":1,"epoch":2}`, audit.Error, false},
		{audit.MachineDisputed, "machine 1", "map/machines/1", web1(`"host":3,"epoch":9`), audit.Error, false},
		{audit.HomeUnknown, "block 6", "map/blocks/6", `{"block":6,"home":77,"epoch":1}`, audit.Error, false},
		{audit.BlockFrozen, "block 6", "map/blocks/6", `{"block":6,"home":2,"epoch":1,"frozen":true}`, audit.Info, false},
		{audit.RecordMalformed, "machine 1283", "map/machines/1283", `{"machine":`, audit.Error, false},
		{audit.RecordMalformed, "block 6", "map/blocks/6", `[]`, audit.Error, false},
		{audit.RecordMalformed, "key map/machines/x", "map/machines/x", `{}`, audit.Error, false},
		{audit.AppliedStale, "key applied/77", "applied/77", `5`, audit.Info, true},
		{audit.AliveUnknown, "key alive/77", "alive/77", `{}`, audit.Warning, false},
		{audit.OwnerDead, "machine 1283", "map/machines/1283", `{"machine":1283,"name":"a","network":42,"host":4,"epoch":2}`, audit.Warning, false},
		{audit.HomeDead, "block 6", "map/blocks/6", `{"block":6,"home":4,"epoch":1}`, audit.Warning, false},
	} {
		t.Run(strings.ReplaceAll(fmt.Sprintf("%s %s", c.kind, c.object), "/", "_"), func(t *testing.T) {
			a.t = t
			if c.kind == audit.OwnerDead || c.kind == audit.HomeDead {
				a.put("map/hosts/4", `{"host":4,"name":"host4","identity":"four","state":"dead"}`)
				defer a.put("map/hosts/4", "")
			}
			before := record(c.key)
			a.put(c.key, c.value)
			var r audit.Report
			a.eventually("it is named alone", func() bool {
				r = a.check()
				return len(r.Differences) == 1 && r.Differences[0].Kind == c.kind
			}, func() any { return texts(r) })
			d := r.Differences[0]
			if d.Object.String() != c.object || d.Severity != c.severity || d.Repairable != c.repaired {
				t.Errorf("it is %+v, want %+v", d, c)
			}
			done, err := a.audit.Repair(t.Context(), r, nil, false)
			want := audit.Operator
			if c.repaired {
				want = audit.Mended
			}
			if err != nil || len(done) != 1 || done[0].Outcome != want {
				t.Errorf("repaired: %+v, %v, want %q", done, err, want)
			}
			a.put(c.key, before)
			a.eventuallyClean()
		})
		a.t = t
	}
}

// The home of an id notes by itself that it is in use; then that stands for the id, also when its record has gone.
func TestThatTheRecordOfAnIssuedMachineIsMissingIsNamed(t *testing.T) {
	a := newAudited(t)
	a.put("map/machines/9", `{"machine":9,"name":"a","network":42,"host":3,"epoch":2}`)
	a.eventually("its home notes it", func() bool {
		locals, _ := a.hwmap.Locals(9, 1)
		return len(locals) == 1 && locals[0].Machine == 9 && locals[0].State == hwmap.Issued
	}, func() any { return texts(a.check()) })
	a.eventuallyClean()
	a.put("map/machines/9", "")
	a.eventually("that its record is missing is named", func() bool {
		r := a.check()
		return len(r.Differences) == 1 && r.Differences[0].Kind == audit.IssuedUnrecorded && !r.Differences[0].Repairable
	}, func() any { return texts(a.check()) })
}

func TestWhatTheWatchMissedIsFoundAndRepaired(t *testing.T) {
	a := newAudited(t)
	// The cache is a file that somebody restored.
	tamper := func(key hwmap.Key, value string) {
		a.t.Helper()
		w := hwmap.Write{Key: key}
		if value != "" {
			w.Value = []byte(value)
		}
		if _, err := a.cache.Commit(context.Background(), hwmap.Txn{Then: []hwmap.Write{w}}); err != nil {
			a.t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, object string
		key          hwmap.Key
		value        string
	}{
		{"an old record", "machine 1282", "map/machines/1282", `{"machine":1282,"name":"far","network":42,"host":2,"epoch":1}`},
		{"a missing record", "machine 1282", "map/machines/1282", ""},
		{"a record too many", "machine 1290", "map/machines/1290", `{"machine":1290,"name":"old","network":42,"host":3,"epoch":1}`},
		{"a missing block", "block 5", "map/blocks/5", ""},
		{"a host too many", "host 9", "map/hosts/9", theOther},
	} {
		t.Run(c.name, func(t *testing.T) {
			a.t = t
			tamper(c.key, c.value)
			r := a.check()
			if len(r.Differences) != 1 || r.Differences[0].Kind != audit.CacheDiffers || r.Differences[0].Object.String() != c.object {
				t.Fatalf("it reports %q, want cache_differs of %s alone", texts(r), c.object)
			}
			if done, err := a.audit.Repair(t.Context(), r, nil, false); err != nil || len(done) != 1 || done[0].Outcome != audit.Mended {
				t.Fatalf("repaired: %+v, %v", done, err)
			}
			a.eventuallyClean()
		})
		a.t = t
	}
}

func TestAReportThatIsNotOfThisHostOrHasChangedIsNotRepaired(t *testing.T) {
	a := newAudited(t)
	slot := func(host uint16) { // which host the moved machine is sent to
		t.Helper()
		var v struct{ Slot [256]uint16 }
		m := a.pinned("moved")
		if err := m.Lookup(uint32(otherBlock), &v); err != nil {
			t.Fatal(err)
		}
		v.Slot[otherMachine%256] = host
		if err := m.Put(uint32(otherBlock), v); err != nil {
			t.Fatal(err)
		}
	}
	slot(0)
	r := a.check()
	if len(r.Differences) != 1 || r.Differences[0].Kind != audit.MovedMissing {
		t.Fatalf("it reports %q", texts(r))
	}
	for name, change := range map[string]func(*audit.Report){
		"host":    func(r *audit.Report) { r.Host = 2 },
		"cluster": func(r *audit.Report) { r.Cluster = "other" },
		"version": func(r *audit.Report) { r.Version = "v0" },
	} {
		foreign := r
		change(&foreign)
		if done, err := a.audit.Repair(t.Context(), foreign, nil, false); err == nil || len(done) > 0 {
			t.Errorf("a report of another %s: %+v, %v", name, done, err)
		}
	}
	only, err := a.audit.Repair(t.Context(), r, []audit.Kind{audit.RouteMissing}, false)
	if err != nil || len(only) != 0 {
		t.Errorf("of another kind: %+v, %v", only, err)
	}
	forged := r
	forged.Differences = append([]audit.Difference{}, r.Differences...)
	forged.Differences[0].Fingerprint = "0000000000000000"
	changed, err := a.audit.Repair(t.Context(), forged, nil, false)
	if err != nil || len(changed) != 1 || changed[0].Outcome != audit.Changed {
		t.Errorf("of another state: %+v, %v, want it changed", changed, err)
	}
	if again := a.check(); len(again.Differences) != 1 {
		t.Errorf("after all that it reports %q", texts(again))
	}
}
