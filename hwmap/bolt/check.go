package bolt

import (
	"context"
	"errors"
	"fmt"

	"ip6d/hwmap"
)

// Checked is what Check has read, and found good.
type Checked struct {
	Pages, FreePages int
	Records          int
	Revision         hwmap.Revision
	Torn             bool // one of the two meta pages is damaged, which the next write mends
}

// Check reads the whole file as it is on the disk now: that each page is used once, keys are in order, free pages are
// listed, and that each record and the sum of all are what was written. Others go on writing meanwhile.
// Errors: hwmap.ErrCorrupt, hwmap.ErrUnavailable.
func (s *Store) Check(context.Context) (Checked, error) {
	c, err := s.check()
	switch {
	case errors.Is(err, hwmap.ErrCorrupt):
		err = fmt.Errorf("check database %s: %w; keep a copy of the file, and restore it from a backup", s.path, err)
	case err != nil:
		err = fmt.Errorf("check database %s: %w", s.path, unavailable(err))
	}
	return c, err
}

func (s *Store) check() (c Checked, err error) {
	if err := s.usable(); err != nil {
		return c, err
	}
	file := s.acquire()
	defer s.release(file)
	err = protect(func() error {
		// While tx is open, none of its pages is written again, but its meta page is after two transactions: that is read
		// while nobody writes.
		s.writing.Lock()
		tx, err := file.db.Begin(false)
		if err != nil {
			s.writing.Unlock()
			return err
		}
		defer tx.Rollback() // which always succeeds
		var v *verifier
		info, err := file.f.Stat()
		if err == nil {
			v, err = newVerifier(file.f, info.Size())
		}
		s.writing.Unlock()
		if err != nil {
			return err
		}
		if v.txid != uint64(tx.ID()) {
			return corrupt("the newest meta page is of write %d, not %d", v.txid, tx.ID())
		}
		found, err := v.verify()
		if err != nil {
			return err
		}
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		c = Checked{Pages: found.pages, FreePages: found.free, Revision: h.revision, Torn: found.torn}
		if c.Records, err = checkRecords(tx, h); err != nil || !s.readOnly {
			return err
		}
		// bbolt's own check does not go together with writers.
		var own []error
		for err := range tx.Check() {
			own = append(own, fmt.Errorf("%w: %w", hwmap.ErrCorrupt, err))
		}
		return errors.Join(own...)
	})
	return c, err
}
