package hwmap

import (
	"bytes"
	"math"

	"ip6d/addr"
)

// scan reads a record as encode writes it, and reports whether it is one. Whatever else is the record's JSON all the same;
// this is for a start with a million of them.
func (r *Machine) scan(b []byte) bool {
	s := scanner{rest: b, ok: true}
	s.skip(`{"machine":`)
	r.Machine = addr.Machine(s.number(math.MaxUint32))
	s.skip(`,"name":"`)
	r.Name = s.text()
	s.skip(`,"network":`)
	r.Network = addr.Network(s.number(math.MaxUint32))
	s.skip(`,"host":`)
	r.Host = addr.Host(s.number(math.MaxUint32))
	if s.has(`,"moving_to":`) {
		r.MovingTo = addr.Host(s.number(math.MaxUint32))
	}
	s.skip(`,"epoch":`)
	r.Epoch = s.number(math.MaxUint64)
	r.Destroyed = s.has(`,"destroyed":true`)
	s.skip(`}`)
	return s.ok && len(s.rest) == 0
}

// scanner reads text of which it knows what is to come.
type scanner struct {
	rest []byte
	ok   bool
}

func (s *scanner) has(text string) bool {
	if !bytes.HasPrefix(s.rest, []byte(text)) {
		return false
	}
	s.rest = s.rest[len(text):]
	return true
}

func (s *scanner) skip(text string) { s.ok = s.has(text) && s.ok }

// number reads an integer of JSON (RFC 8259 section 6) from 0 to most.
func (s *scanner) number(most uint64) (n uint64) {
	i := 0
	for ; i < len(s.rest) && '0' <= s.rest[i] && s.rest[i] <= '9'; i++ {
		digit := uint64(s.rest[i] - '0')
		if i > 0 && n == 0 || n > (most-digit)/10 {
			s.ok = false
			return 0
		}
		n = 10*n + digit
	}
	s.ok = s.ok && i > 0
	s.rest = s.rest[i:]
	return n
}

// text reads a string that has no escapes, up to and with its quote.
func (s *scanner) text() string {
	for i, c := range s.rest {
		switch {
		case c == '"':
			text := string(s.rest[:i])
			s.rest = s.rest[i+1:]
			return text
		case c < ' ' || c == '\\' || c > '~':
			s.ok = false
			return ""
		}
	}
	s.ok = false
	return ""
}
