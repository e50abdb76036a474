package storetest

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"

	"ip6d/hwmap"
)

var commits = []claim{
	{"EachTransactionHasALaterRevision", func(s *store) {
		last := s.revision()
		for range 5 {
			r := s.put("a", "the same", "b", "too")
			if r <= last {
				s.t.Fatalf("revision %d follows %d", r, last)
			}
			last = r
			s.wantEntries(s.get("a", "b"), present("a", "the same", r), present("b", "too", r))
		}
		if now := s.revision(); now < last {
			s.t.Errorf("List is of revision %d, before the last transaction %d", now, last)
		}
	}},

	{"ConditionsHoldOrNothingIsWritten", func(s *store) {
		old := s.put("a", "0")
		cases := []struct {
			name  string
			a, b  hwmap.Revision // 0: no such key; -1: the current one
			holds bool
		}{
			{"both as they are", -1, 0, true},
			{"key that is there must not be", 0, 0, false},
			{"older revision", old, 0, false},
			{"later revision", 1 << 40, 0, false},
			{"key that is not there must be", -1, old, false},
		}
		for _, c := range cases {
			r := s.put("a", "1")
			s.delete("b")
			if c.a == -1 {
				c.a = r
			}
			_, err := s.Commit(s.t.Context(), hwmap.Txn{
				If:   []hwmap.Condition{{Key: "a", ModRevision: c.a}, {Key: "b", ModRevision: c.b}},
				Then: writes("a", "2", "c", c.name),
			})
			switch got := s.get("a", "c"); {
			case c.holds && (err != nil || string(got[0].Value) != "2" || string(got[1].Value) != c.name):
				s.t.Errorf("%s: error %v, records %s", c.name, err, text(got))
			case !c.holds && (!errors.Is(err, hwmap.ErrConflict) || string(got[0].Value) != "1" || string(got[1].Value) == c.name):
				s.t.Errorf("%s: error %v, records %s", c.name, err, text(got))
			}
		}
	}},

	{"DeletedKeyIsGoneAndComesBackLater", func(s *store) {
		r1 := s.put("a", "1", "b", "1")
		r2 := s.delete("a")
		if r2 <= r1 {
			s.t.Errorf("the deletion is of revision %d, after %d", r2, r1)
		}
		s.wantEntries(s.get("a"), hwmap.Entry{Key: "a"})
		entries, _ := s.list("")
		s.wantEntries(entries, present("b", "1", r1))
		r3 := s.commit(hwmap.Txn{If: []hwmap.Condition{{Key: "a"}}, Then: writes("a", "2")})
		s.wantEntries(s.get("a"), present("a", "2", r3))
	}},

	{"DeleteCarriesItsCondition", func(s *store) {
		r1 := s.put("a", "the last user's")
		r2 := s.put("a", "the next user's")
		_, err := s.Commit(s.t.Context(), hwmap.Txn{If: []hwmap.Condition{{Key: "a", ModRevision: r1}}, Then: []hwmap.Write{{Key: "a"}}})
		if !errors.Is(err, hwmap.ErrConflict) {
			s.t.Errorf("late delete returned %v, must conflict", err)
		}
		s.wantEntries(s.get("a"), present("a", "the next user's", r2))
	}},

	{"WhatChangesNothingHasNoRevisionOfItsOwn", func(s *store) {
		r := s.put("a", "1")
		w := s.watch("", s.revision())
		for _, t := range []hwmap.Txn{
			{},
			{If: []hwmap.Condition{{Key: "a", ModRevision: r}}},
			{Then: []hwmap.Write{{Key: "nothing"}}},
		} {
			if at := s.commit(t); at < r {
				s.t.Errorf("Commit(%v) is of revision %d, before %d", t, at, r)
			}
		}
		if _, err := s.Commit(s.t.Context(), hwmap.Txn{If: []hwmap.Condition{{Key: "a", ModRevision: r + 1}}}); !errors.Is(err, hwmap.ErrConflict) {
			s.t.Errorf("a condition alone that does not hold returned %v", err)
		}
		s.wantEntries(s.get("a"), present("a", "1", r))
		end := s.put("end", "")
		w.want(hwmap.Batch{Revision: end, Entries: []hwmap.Entry{present("end", "", end)}})
	}},

	{"MalformedTransactionIsRefused", func(s *store) {
		for _, t := range []hwmap.Txn{
			{Then: writes("a", "1", "b", "2", "a", "3")},
			{Then: append(writes("a", "1"), hwmap.Write{Key: "a"})},
			{Then: writes("a", "1", "", "2")},
			{If: []hwmap.Condition{{}}, Then: writes("a", "1")},
			{Then: writes("a", "1", strings.Repeat("k", hwmap.MaxKeySize+1), "2")},
		} {
			if _, err := s.Commit(s.t.Context(), t); !errors.Is(err, hwmap.ErrUsage) {
				s.t.Errorf("Commit(%.100v) returned %v, must be refused", t, err)
			}
		}
		s.put(strings.Repeat("k", hwmap.MaxKeySize), "longest")
		s.wantEntries(s.get("a"), hwmap.Entry{Key: "a"})
	}},

	{"OneOfRacingCommitsWins", func(s *store) {
		for round := range 10 {
			key := hwmap.Key("race/" + strconv.Itoa(round))
			var won, lost atomic.Int32
			for i := range 8 {
				s.run(func(ctx context.Context) {
					_, err := s.Commit(ctx, hwmap.Txn{If: []hwmap.Condition{{Key: key}}, Then: writes(string(key), strconv.Itoa(i))})
					switch {
					case err == nil:
						won.Add(1)
					case errors.Is(err, hwmap.ErrConflict):
						lost.Add(1)
					default:
						s.t.Errorf("racing commit: %v", err)
					}
				})
			}
			s.running.Wait()
			if won.Load() != 1 || lost.Load() != 7 {
				s.t.Fatalf("%d racing commits won and %d conflicted, must be 1 and 7", won.Load(), lost.Load())
			}
		}
	}},

	{"ConditionalIncrementsLoseNone", func(s *store) {
		const writers, each = 4, 15
		for range writers {
			s.run(func(ctx context.Context) {
				for done := 0; done < each; {
					e, err := s.Get(ctx, "counter")
					if err != nil {
						s.t.Error(err)
						return
					}
					n, _ := strconv.Atoi(string(e[0].Value)) // no value is 0
					_, err = s.Commit(ctx, hwmap.Txn{
						If:   []hwmap.Condition{{Key: "counter", ModRevision: e[0].ModRevision}},
						Then: writes("counter", strconv.Itoa(n+1)),
					})
					if err == nil {
						done++
					} else if !errors.Is(err, hwmap.ErrConflict) {
						s.t.Error(err)
						return
					}
				}
			})
		}
		s.running.Wait()
		if got := string(s.get("counter")[0].Value); got != strconv.Itoa(writers*each) {
			s.t.Errorf("counter is %s after %d increments", got, writers*each)
		}
	}},
}
