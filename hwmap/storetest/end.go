package storetest

import (
	"context"
	"errors"

	"ip6d/hwmap"
)

var ends = []claim{
	{"EndedContextStopsACallBeforeItActs", func(s *store) {
		ctx, cancel := context.WithCancel(s.t.Context())
		cancel()
		if _, err := s.Commit(ctx, hwmap.Txn{Then: writes("a", "1")}); !errors.Is(err, hwmap.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			s.t.Errorf("Commit returned %v, must say that nothing was written, and why", err)
		}
		if _, err := s.Get(ctx, "a"); !errors.Is(err, hwmap.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			s.t.Errorf("Get returned %v", err)
		}
		if _, _, err := s.List(ctx, ""); !errors.Is(err, hwmap.ErrUnavailable) || !errors.Is(err, context.Canceled) {
			s.t.Errorf("List returned %v", err)
		}
		if err := s.Watch(ctx, "", 0, func(hwmap.Batch) error { return nil }); !errors.Is(err, context.Canceled) {
			s.t.Errorf("Watch returned %v", err)
		}
		if err := s.Hold(ctx, "a", []byte("1"), holdFor); err != nil {
			s.t.Errorf("Hold returned %v, must be nil: the key is gone", err)
		}
		s.wantEntries(s.get("a"), hwmap.Entry{Key: "a"})
	}},

	{"ClosedStoreIsUnavailable", func(s *store) {
		ctx := s.t.Context()
		s.put("a", "1")
		w := s.watch("", s.revision())
		h := s.hold("alive/1", "x")
		s.wait("the held key in the watch", func() bool { return len(w.got()) > 0 })
		if err := s.Close(); err != nil {
			s.t.Fatalf("Close: %v", err)
		}
		if err := w.end(); !errors.Is(err, hwmap.ErrUnavailable) {
			s.t.Errorf("Watch returned %v when the store was closed", err)
		}
		if err := h.wait(); !errors.Is(err, hwmap.ErrUnavailable) {
			s.t.Errorf("Hold returned %v when the store was closed", err)
		}
		if _, err := s.Get(ctx, "a"); !errors.Is(err, hwmap.ErrUnavailable) {
			s.t.Errorf("Get returned %v", err)
		}
		if _, _, err := s.List(ctx, ""); !errors.Is(err, hwmap.ErrUnavailable) {
			s.t.Errorf("List returned %v", err)
		}
		if _, err := s.Commit(ctx, hwmap.Txn{Then: writes("a", "2")}); !errors.Is(err, hwmap.ErrUnavailable) {
			s.t.Errorf("Commit returned %v, must say that nothing was written", err)
		}
		if err := s.Watch(ctx, "", 0, func(hwmap.Batch) error { return nil }); !errors.Is(err, hwmap.ErrUnavailable) {
			s.t.Errorf("Watch returned %v", err)
		}
		if err := s.Hold(ctx, "alive/2", []byte("x"), holdFor); !errors.Is(err, hwmap.ErrUnavailable) {
			s.t.Errorf("Hold returned %v", err)
		}
		if err := s.Close(); err != nil {
			s.t.Errorf("a second Close returned %v", err)
		}
	}},
}
