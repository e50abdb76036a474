package storetest

import (
	"fmt"
	"slices"
	"strings"

	"ip6d/hwmap"
)

var reads = []claim{
	{"EmptyStoreHasNoRecords", func(s *store) {
		s.wantEntries(s.get("a"), hwmap.Entry{Key: "a"})
		s.wantEntries(s.get())
		entries, _ := s.list("")
		s.wantEntries(entries)
	}},

	{"GetReturnsEntriesInTheOrderAsked", func(s *store) {
		r1 := s.put("a", "1", "b", "2")
		r2 := s.put("c", "3")
		s.wantEntries(s.get("c", "nothing", "a", "c", "b"),
			present("c", "3", r2), hwmap.Entry{Key: "nothing"}, present("a", "1", r1), present("c", "3", r2), present("b", "2", r1))
	}},

	{"GetTakesMoreKeysThanOneRequestCarries", func(s *store) {
		keys, want := s.many(300)
		s.wantEntries(s.get(keys...), want...)
	}},

	{"ListIsOrderedAndExactAboutItsPrefix", func(s *store) {
		r := s.put("map/b", "2", "map/a", "1", "map", "no", "map0", "no", "map/", "0", "other/a", "no", "map/\xff\xff", "3")
		entries, at := s.list("map/")
		s.wantEntries(entries, present("map/", "0", r), present("map/a", "1", r), present("map/b", "2", r), present("map/\xff\xff", "3", r))
		if at < r {
			s.t.Errorf("List is of revision %d, before the last transaction %d", at, r)
		}
		entries, _ = s.list("")
		if len(entries) != 7 {
			s.t.Errorf("List of everything has %d records: %s", len(entries), text(entries))
		}
		entries, _ = s.list("nothing")
		s.wantEntries(entries)
		entries, _ = s.list("map/\xff")
		s.wantEntries(entries, present("map/\xff\xff", "3", r))
	}},

	{"ListTakesMoreRecordsThanOneResponseCarries", func(s *store) {
		_, want := s.many(2500)
		entries, _ := s.list("many/")
		s.wantEntries(entries, want...)
	}},

	{"EmptyValueIsARecord", func(s *store) {
		r := s.put("a", "")
		s.wantEntries(s.get("a"), present("a", "", r))
		entries, _ := s.list("")
		s.wantEntries(entries, present("a", "", r))
	}},

	{"ValuesHoldEveryByteAndAMebibyte", func(s *store) {
		all := make([]byte, 256)
		for i := range all {
			all[i] = byte(i)
		}
		big := strings.Repeat("0123456789abcdef", 1<<16)
		w := s.watch("", s.revision())
		r1 := s.put("all", string(all))
		r2 := s.put("big", big)
		s.wantEntries(s.get("all", "big"), present("all", string(all), r1), present("big", big, r2))
		w.want(
			hwmap.Batch{Revision: r1, Entries: []hwmap.Entry{present("all", string(all), r1)}},
			hwmap.Batch{Revision: r2, Entries: []hwmap.Entry{present("big", big, r2)}})
	}},

	{"ValuesAreNotSharedWithTheCaller", func(s *store) {
		value := []byte("before")
		w := s.watch("", s.revision())
		r := s.commit(hwmap.Txn{Then: []hwmap.Write{{Key: "a", Value: value}}})
		copy(value, "xxxxxx")
		got := s.get("a")
		s.wantEntries(got, present("a", "before", r))
		copy(got[0].Value, "yyyyyy")
		listed, _ := s.list("a")
		s.wantEntries(listed, present("a", "before", r))
		copy(listed[0].Value, "zzzzzz")
		s.wantEntries(s.get("a"), present("a", "before", r))
		w.want(hwmap.Batch{Revision: r, Entries: []hwmap.Entry{present("a", "before", r)}})
	}},
}

// many commits n records under many/, and returns them in order.
func (s *store) many(n int) (keys []hwmap.Key, entries []hwmap.Entry) {
	s.t.Helper()
	for i := range n {
		keys = append(keys, hwmap.Key(fmt.Sprintf("many/%06d", i)))
	}
	for chunk := range slices.Chunk(keys, 100) {
		var t hwmap.Txn
		for _, k := range chunk {
			t.Then = append(t.Then, hwmap.Write{Key: k, Value: []byte(k)})
		}
		r := s.commit(t)
		for _, k := range chunk {
			entries = append(entries, present(string(k), string(k), r))
		}
	}
	return keys, entries
}

func (s *store) revision() hwmap.Revision {
	s.t.Helper()
	_, r := s.list("no such key")
	return r
}
