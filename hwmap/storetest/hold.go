package storetest

import (
	"context"
	"errors"
	"time"

	"ip6d/hwmap"
)

// holdFor is long enough that no slow machine loses a held key during a test.
const holdFor = 30 * time.Second

// holding is a Hold that runs.
type holding struct {
	s      *store
	cancel context.CancelFunc
	ended  chan error
}

func (s *store) hold(key hwmap.Key, value string) *holding {
	s.t.Helper()
	h := &holding{s: s, ended: make(chan error, 1)}
	h.cancel = s.run(func(ctx context.Context) { h.ended <- s.Hold(ctx, key, []byte(value), holdFor) })
	s.wait("held key "+string(key), func() bool {
		e := s.get(key)[0]
		return e.Value != nil && string(e.Value) == value
	})
	return h
}

// end ends the Hold and returns its error.
func (h *holding) end() error {
	h.s.t.Helper()
	h.cancel()
	return h.wait()
}

// wait waits until the Hold has returned.
func (h *holding) wait() error {
	h.s.t.Helper()
	select {
	case err := <-h.ended:
		return err
	case <-time.After(patience):
		h.s.t.Fatal("Hold did not return when its context ended")
		return nil
	}
}

var holds = []claim{
	{"HeldKeyIsThereUntilTheHoldEnds", func(s *store) {
		w := s.watch("alive/", s.revision())
		h := s.hold("alive/1", "x")
		r := s.get("alive/1")[0].ModRevision
		if err := h.end(); err != nil {
			s.t.Errorf("Hold returned %v", err)
		}
		s.wantEntries(s.get("alive/1"), hwmap.Entry{Key: "alive/1"})
		s.wait("both batches", func() bool { return len(w.got()) == 2 })
		last := w.got()[1].Revision
		w.want(
			hwmap.Batch{Revision: r, Entries: []hwmap.Entry{present("alive/1", "x", r)}},
			hwmap.Batch{Revision: last, Entries: []hwmap.Entry{gone("alive/1", last)}})
	}},

	{"LaterHoldTakesTheKeyOverWithoutAGap", func(s *store) {
		w := s.watch("alive/", s.revision())
		first := s.hold("alive/1", "first")
		second := s.hold("alive/1", "second")
		if err := first.end(); err != nil {
			s.t.Errorf("the Hold that was taken over returned %v", err)
		}
		if got := s.get("alive/1")[0]; string(got.Value) != "second" {
			s.t.Errorf("after the first Hold ended, the key is %s", text([]hwmap.Entry{got}))
		}
		if err := second.end(); err != nil {
			s.t.Errorf("the second Hold returned %v", err)
		}
		s.wait("the deletion", func() bool { return len(w.got()) >= 3 })
		if b := w.got(); len(b) != 3 || b[0].Entries[0].Value == nil || b[1].Entries[0].Value == nil || b[2].Entries[0].Value != nil {
			s.t.Errorf("watch saw %v", b)
		}
	}},

	{"HoldOfAWrittenKeyTakesItOver", func(s *store) {
		s.put("alive/1", "written")
		h := s.hold("alive/1", "held")
		if err := h.end(); err != nil {
			s.t.Errorf("Hold returned %v", err)
		}
		s.wantEntries(s.get("alive/1"), hwmap.Entry{Key: "alive/1"})
	}},

	{"WrittenKeyOutlivesTheHold", func(s *store) {
		h := s.hold("alive/1", "held")
		r := s.put("alive/1", "written")
		if err := h.end(); err != nil {
			s.t.Errorf("Hold returned %v", err)
		}
		s.wantEntries(s.get("alive/1"), present("alive/1", "written", r))
	}},

	{"HoldWithAnEmptyValueIsARecord", func(s *store) {
		h := s.hold("alive/1", "")
		if err := h.end(); err != nil {
			s.t.Errorf("Hold returned %v", err)
		}
	}},

	{"MalformedHoldIsRefused", func(s *store) {
		if err := s.Hold(s.t.Context(), "", []byte("x"), holdFor); !errors.Is(err, hwmap.ErrUsage) {
			s.t.Errorf("Hold of an empty key returned %v", err)
		}
	}},
}
