package hwmap

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"

	"ip6d/addr"
	"ip6d/nat"
)

// DatabaseID names a truth from its first use on, and again from when an operator accepted an older copy of it. A copy of
// the file has the same.
type DatabaseID [16]byte

func newDatabaseID() (id DatabaseID) {
	_, _ = rand.Read(id[:]) // it never fails
	return id
}

func (id DatabaseID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id DatabaseID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *DatabaseID) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err == nil && len(b) != len(id) {
		err = fmt.Errorf("%q has %d bytes, must have %d", text, len(b), len(id))
	}
	if err != nil {
		return fmt.Errorf("id of a database: %w", err)
	}
	*id = DatabaseID(b)
	return nil
}

// Mark says which database the truth was, and how far it had come.
type Mark struct {
	ID    DatabaseID `json:"id"`
	Count Revision   `json:"count"` // of its commits; 0: of none that must not be lost
	Block addr.Block `json:"block"` // the highest that this host leased
}

// Witness remembers, apart from the truth's file, how far the truth had come, and so betrays a file that was restored or
// copied. It may know less than the file, and never more: it is told of what is durable. Package witness is one beside the
// file, the kernel another one.
type Witness interface {
	// Read returns what it was told last; the zero Mark where that was nothing. Errors: ErrCorrupt where it cannot be read.
	Read() (Mark, error)
	// Begin makes m durable, before the first commit of a database.
	Begin(m Mark) error
	// Raise remembers a later m. It costs little: a power loss may undo it.
	Raise(m Mark) error
}

// kernelWitness is the one in the kernel's maps, which survives the daemon.
type kernelWitness struct{ Datapath }

func (k kernelWitness) Read() (Mark, error) {
	w, err := k.Witness()
	return Mark{ID: w.ID, Count: Revision(w.Count), Block: w.Block}, err
}

func (k kernelWitness) Begin(m Mark) error { return k.Raise(m) }

func (k kernelWitness) Raise(m Mark) error {
	return k.PutWitness(nat.Witness{ID: m.ID, Count: uint64(m.Count), Block: m.Block})
}

// witnessed is the truth whose commits have witnesses. Each is told after the commit and before its answer: so what was
// acknowledged cannot be taken back unseen, and no witness is ahead of what is durable.
type witnessed struct {
	Store
	witnesses []namedWitness
	log       *slog.Logger
	grown     chan struct{} // holds a wish when there is more to tell the fleet's store

	mu      sync.Mutex // guards all below
	mark    Mark       // of the last commit that the witnesses know; no ID: they are told nothing
	failing bool       // the last time one was told
}

type namedWitness struct {
	name string
	Witness
}

func (w *witnessed) Commit(ctx context.Context, t Txn) (Revision, error) {
	r, err := w.Store.Commit(ctx, t)
	if err == nil {
		w.raise(r)
	}
	return r, err
}

// raise tells the witnesses of a commit.
func (w *witnessed) raise(r Revision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mark.ID == (DatabaseID{}) || r <= w.mark.Count {
		return
	}
	w.mark.Count = r
	failed := false
	for _, to := range w.witnesses {
		// It then knows less, which is no harm now; but who restores an older file later may not be found out.
		if err := to.Raise(w.mark); err != nil {
			if failed = true; !w.failing {
				w.log.Error("witness of the database not told", "witness", to.name, "error", err)
			}
		}
	}
	w.failing = failed
	wish(w.grown)
}

// leased has the witnesses told of a block with the next commit, which is that of its first machine at the latest.
func (w *witnessed) leased(b addr.Block) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mark.Block = max(w.mark.Block, b)
}

// now returns what the witnesses know.
func (w *witnessed) now() Mark {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mark
}

// trust has the witnesses told from now on; with the zero id, not any more.
func (w *witnessed) trust(id DatabaseID, count Revision) {
	w.mu.Lock()
	w.mark.ID, w.mark.Count = id, 0
	w.mu.Unlock()
	w.raise(count)
}
